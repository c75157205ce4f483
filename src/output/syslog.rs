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

/// Whether systemd puts what this process writes to `stream` into the system's log
/// (systemd.exec(5)). Then a line that is written there must not be logged as well.
pub fn has(stream: impl AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(stream).is_ok_and(|at| journal == format!("{}:{}", at.st_dev, at.st_ino))
}

/// Logs a notice, without waiting for a reader. It goes to the kernel's log while there is no
/// syslogd, or while syslogd does not take it.
///
/// Call it only while root is awake: syslogd may write to root before it answers.
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
