//! One line a flush for the system's log.

use std::fmt::Display;
use std::io::Write;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use syslog::{Facility, LogFormat, LoggerBackend, Severity};

use super::kmsg;

/// The message alone, without a time: syslogd has its own clock, and a formatter that asks for
/// the time would use std's, which ends in 2038 on a 32-bit machine.
#[derive(Clone)]
struct Plain;

impl<T: Display> LogFormat<T> for Plain {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = severity as u8 | Facility::LOG_DAEMON as u8;
        let pid = std::process::id();
        write!(to, "<{priority}>cowflush[{pid}]: {message}").map_err(syslog::Error::Write)
    }
}

/// Whether what this process writes to `stream` gets into the system's log by itself: systemd says so (systemd.exec(5)).
/// Who writes a line there and logs it as well would say it twice.
pub fn has(stream: impl AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(stream).is_ok_and(|at| journal == format!("{}:{}", at.st_dev, at.st_ino))
}

/// Logs a notice; to the kernel's log before a syslogd is up, and while it takes none: whoever flushes waits for no reader.
///
/// Only to be called while root is awake: a syslogd may write to it before it answers.
pub fn notice(text: &str) {
    let said = syslog::unix(Plain).and_then(|mut logger| {
        if let LoggerBackend::Unix(socket) = &logger.backend {
            let _ = socket.set_nonblocking(true);
        }
        logger.notice(text)
    });
    if said.is_err() {
        let _ = kmsg::say(kmsg::NOTICE, text);
    }
}
