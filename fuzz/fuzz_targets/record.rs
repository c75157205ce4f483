//! The record of the last flush, a file in /run.
#![cfg_attr(not(test), no_main)]

use cowflush::report::record::Record;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the file.
pub fn check(data: &[u8]) {
    let mut record = Record::parse(&String::from_utf8_lossy(data));
    // The end of a line, not of a command.
    record.command.truncate(record.command.trim_end_matches('\r').len());
    assert!(!record.to_string().contains('\n') && !record.when().to_string().contains('\n'));

    let again = Record::parse(&record.to_text());
    assert_eq!(again, record);
    assert_eq!(again.to_text(), record.to_text());
}
