//! The list of an initramfs's modules, and their parameters on the kernel command line.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::modules;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the list, and also the line.
pub fn check(data: &[u8]) {
    let paths: Vec<_> = modules::paths(data).collect();
    for path in &paths {
        assert!(!path.is_empty() && !path.contains(&b'\n'));
        let name = modules::name(path);
        // The kernel log takes about a kilobyte per line.
        assert!(name.len() < 900 && !name.contains('/'), "{name}");
        modules::parameters(&name, data);
    }
    // Paths that were read and written again are read in the same way.
    assert_eq!(modules::paths(&paths.join(&b'\n')).collect::<Vec<_>>(), paths);

    // One more parameter reaches its module, whatever the line says before; and the rest of a line
    // is init's.
    if !data.contains(&b'"') && !data.windows(2).any(|pair| pair == b"--") {
        let line = [data, b" some-module.key=value -- some_module.not=1"].concat();
        assert!(modules::parameters("some_module", &line).ends_with("key=value "));
    }
}
