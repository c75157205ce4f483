//! One flush at a time: a record lock on device-mapper's control node.
//!
//! That node exists wherever cowflush can work, also when /run is gone; only root can open it;
//! the kernel drops the lock when its holder dies and tells who holds it.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::dm::{CONTROL, Control};
use crate::error::{Doing, Error, Exit, Result};

fn record(kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 1, l_pid: 0 }
}

/// Takes the lock until [`release`] or the process's end, or says who has it. A process that has it
/// gets it again.
///
/// A record lock goes when *any* descriptor of the file is closed, so a process opens the
/// control node once.
pub fn take(control: &Control) -> Result<()> {
    match fcntl(control.file(), FcntlArg::F_SETLK(&record(libc::F_WRLCK))) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(busy(control)),
        Err(errno) => Err(errno).doing(|| format!("lock {CONTROL}")),
    }
}

/// Gives the lock back.
pub fn release(control: &Control) {
    // Unlocking what this process holds, or does not hold, can't fail.
    let _ = fcntl(control.file(), FcntlArg::F_SETLK(&record(libc::F_UNLCK)));
}

fn busy(control: &Control) -> Error {
    let who = match holder(control) {
        Some(pid) => format!("process {pid} ({}) is at work", command(pid)),
        None => "another process is at work".to_owned(),
    };
    Error::new("begin", who)
        .advise("Wait for it to end, then try again; `cowflush status` shows how far it is.")
        .exit(Exit::Busy)
}

/// The process that holds the lock, if any.
pub fn holder(control: &Control) -> Option<i32> {
    let mut lock = record(libc::F_WRLCK);
    fcntl(control.file(), FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0).then_some(lock.l_pid)
}

/// The command line of a process, for messages.
fn command(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().to_owned()
}
