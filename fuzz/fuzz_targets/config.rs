//! The configuration file.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::config::Config;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = Config::default();
    for complaint in config.read(&text) {
        // The message fits a line of the system's log.
        assert!(complaint.len() < 300 && !complaint.contains('\n'), "{complaint}");
    }

    // A configuration that was understood and written again is understood in the same way.
    let written = config.write();
    let mut again = Config::default();
    assert_eq!(again.read(&written), [""; 0], "{written}");
    assert_eq!(again, config, "{written}");
}
