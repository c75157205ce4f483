//! One file a subcommand.

pub mod advice;
pub mod attach;
pub mod check;
pub mod daemon;
pub mod flush;
pub mod history;
pub mod hold;
pub mod init;
pub mod item;
pub mod log;
pub mod recover;
pub mod shutdown;
pub mod status;

use std::io::ErrorKind;

use crate::put;
use cowflush::error::why;
use cowflush::pure::cmdline::{NOTED, Options};
use cowflush::pure::config::{self, Config};

/// What this boot was asked for.
fn options() -> Options {
    Options::parse(std::fs::read("/proc/cmdline").unwrap_or_default())
}

/// The same in an initramfs, which may have noted something of its own.
fn boot_options() -> Options {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    Options::of_boot(read(NOTED), read("/proc/cmdline"))
}

/// The configuration: /etc/cowflush.conf, and this boot's command line over it. What was not
/// understood is told.
fn config() -> Config {
    let (file, unread) = match std::fs::read(config::PATH) {
        Ok(file) => (file, None),
        Err(error) if error.kind() == ErrorKind::NotFound => Default::default(),
        Err(error) => (Vec::new(), Some(format!("ignoring {}: {}.", config::PATH, why(&error)))),
    };
    let (config, complaints) = options().config(&String::from_utf8_lossy(&file));
    for complaint in unread.into_iter().chain(complaints) {
        put(std::io::stderr(), &format!("cowflush: {complaint}\n"));
    }
    config
}
