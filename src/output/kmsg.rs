//! The kernel's log, which works before syslogd and without root.
//!
//! Source: the kernel's Documentation/ABI/testing/dev-kmsg.

use std::io;
use std::path::Path;

use crate::sys::{ask, file};

/// Severities, as syslog has them.
pub const ERROR: u8 = 3;
/// Shown on the console unless it is `quiet`.
pub const WARNING: u8 = 4;
/// Information.
pub const NOTICE: u8 = 5;
/// Never shown on the console.
pub const DEBUG: u8 = 7;

/// The kernel takes a line of about a kilobyte into its log and cuts the rest.
const LONGEST: usize = 900;

/// The part of a text that the kernel accepts.
pub fn fitting(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// Writes a message to the kernel's log. One write is one record.
pub fn say(severity: u8, text: &str) -> io::Result<()> {
    ask!(say(text));
    let line = format!("<{severity}>cowflush: {}\n", fitting(text));
    file::set(Path::new("/dev/kmsg"), &line)
}
