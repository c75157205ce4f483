//! A second process beside the one that flushes: it wakes root up should the first one die while
//! root is suspended.

use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::error::{Doing, Error, Result};

/// The guard process, waiting.
pub struct Guard {
    wire: UnixStream,
    pid: Pid,
}

/// How a guard's time ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was sent home.
    Dismissed,
    /// The process it guards died.
    Orphaned,
}

/// Starts a guard that runs `at_end` when this process ends or sends it home with
/// [`Guard::dismiss`].
///
/// Returns when the guard is in place with its memory locked. It may neither print nor touch a file on
/// root: it runs while root may be suspended.
pub fn post(at_end: &mut dyn FnMut(End)) -> Result<Guard> {
    let (mut wire, far_end) = UnixStream::pair().doing(|| "make a socket for the guard process")?;
    // SAFETY: cowflush has one thread, so the child may do all that the parent could; it leaves
    // by _exit and never returns into the caller.
    match unsafe { fork() }.doing(|| "start the guard process")? {
        ForkResult::Child => {
            drop(wire);
            watch(far_end, at_end);
            // SAFETY: _exit ends the process at once, without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(far_end);
            match wire.read(&mut [0]) {
                Ok(1) => Ok(Guard { wire, pid: child }),
                _ => {
                    let _ = waitpid(child, None);
                    Err(Error::new("start the guard process", "it could not lock its memory"))
                }
            }
        }
    }
}

/// Makes this process, a child, one that what happens to its parent does not happen to.
pub(super) fn stand_apart() {
    // A name of its own, so that `killall -9 cowflush` does not kill both at once.
    // SAFETY: PR_SET_NAME reads a C string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cowflush-guard".as_ptr()) };
    // The parent's session and its terminal's signals are not the guard's.
    let _ = setsid();
}

/// Closes what this process, a child, has of its parent's open files, but for `keep` and the three that
/// everybody has: one that lives long would keep in use what its parent gave up.
pub(super) fn close_others(keep: &[RawFd]) {
    for descriptor in (3..DESCRIPTORS).filter(|number| !keep.contains(number)) {
        // SAFETY: the child leaves by _exit and never drops, nor uses, what it closes here.
        unsafe { libc::close(descriptor) };
    }
}

/// cowflush has never more open: a pass over the flush log has the most, some twenty.
const DESCRIPTORS: RawFd = 64;

fn watch(mut wire: UnixStream, at_end: &mut dyn FnMut(End)) {
    stand_apart();
    // Locks are not inherited.
    if super::mlock::all().is_err() || wire.write_all(b"r").is_err() {
        return;
    }
    // One byte is the dismissal; an end without one is the parent's death.
    at_end(match wire.read(&mut [0]) {
        Ok(1) => End::Dismissed,
        _ => End::Orphaned,
    });
}

impl Guard {
    /// Sends the guard home and waits until it is gone.
    pub fn dismiss(mut self) {
        // If this fails the guard finds root awake and does nothing.
        let _ = self.wire.write_all(b"d");
        let _ = waitpid(self.pid, None);
    }
}
