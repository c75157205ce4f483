//! Where messages go: the kernel log ([`kmsg`]), the system's log ([`syslog`]), the console
//! ([`console`]), and a line of progress on a terminal ([`progress`]).

pub mod console;
pub mod kmsg;
pub mod progress;
pub mod syslog;

use std::io::Write;

/// Writes a text. A reader that went away must not stop what the caller asked for, so a failed
/// write is ignored.
pub fn put(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
