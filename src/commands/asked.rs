//! The options of this boot, and the configuration.

use std::io::ErrorKind;

use crate::error::why;
use crate::output::put;
use crate::pure::cmdline::{NOTED, Options};
use crate::pure::config::{self, Config};

/// The options of this boot's kernel command line.
pub fn options() -> Options {
    Options::parse(std::fs::read("/proc/cmdline").unwrap_or_default())
}

/// As [`options`], for an initramfs, which may have noted words of its own.
pub fn boot_options() -> Options {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    Options::of_boot(read(NOTED), read("/proc/cmdline"))
}

/// The configuration: /etc/cowflush.conf, and this boot's command line over it. Standard error gets
/// what was not understood.
pub fn config() -> Config {
    let (config, complaints) = read();
    for complaint in complaints {
        put(std::io::stderr(), &format!("cowflush: {complaint}\n"));
    }
    config
}

/// As [`config`], with the complaints for a caller whose standard error nobody reads: procd drops
/// the daemon's.
pub fn read() -> (Config, Vec<String>) {
    let (file, unread) = match std::fs::read(config::PATH) {
        Ok(file) => (file, None),
        Err(error) if error.kind() == ErrorKind::NotFound => Default::default(),
        Err(error) => (Vec::new(), Some(format!("ignoring {}: {}.", config::PATH, why(&error)))),
    };
    let (config, complaints) = options().config(&String::from_utf8_lossy(&file));
    (config, unread.into_iter().chain(complaints).collect())
}
