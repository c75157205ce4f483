//! A second process beside the one that flushes: it wakes root up should the first one die while
//! root is suspended, and can look after something meanwhile.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, setsid};

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

/// What a guard does between its beginning and its end: something, after which it rests for as long
/// as that says (to the millisecond, at most a minute).
pub type Tend<'a> = &'a mut dyn FnMut() -> Duration;

/// Starts a guard that runs `at_end` when this process ends or sends it home with
/// [`Guard::dismiss`], and `tend` until then.
///
/// Returns when the guard is in place with its memory locked. Neither may print or touch a file on
/// root: they run while root may be suspended.
pub fn post(tend: Option<Tend<'_>>, at_end: impl FnOnce(End)) -> Result<Guard> {
    let (mut wire, far_end) = UnixStream::pair().doing(|| "make a socket for the guard process")?;
    let parent = getpid();
    // SAFETY: cowflush has one thread, so the child may do all that the parent could; it leaves
    // by _exit and never returns into the caller.
    match unsafe { fork() }.doing(|| "start the guard process")? {
        ForkResult::Child => {
            drop(wire);
            watch(parent, far_end, tend, at_end);
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

fn watch(parent: Pid, mut wire: UnixStream, mut tend: Option<Tend<'_>>, at_end: impl FnOnce(End)) {
    // A name of its own, so that `killall -9 cowflush` does not kill both at once.
    // SAFETY: PR_SET_NAME reads a C string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cowflush-guard".as_ptr()) };
    // The parent's session and its terminal's signals are not the guard's.
    let _ = setsid();
    // Locks are not inherited.
    if super::mlock::all().is_err() || wire.write_all(b"r").is_err() {
        return;
    }
    if tend.is_some() {
        super::priority::realtime(true);
    }
    while let Some(work) = &mut tend {
        let rest = work();
        // The wire does not tell of a parent's death while a process that syncs has a copy of it.
        if getppid() != parent {
            return at_end(End::Orphaned);
        }
        let mut heard = [PollFd::new(wire.as_fd(), PollFlags::POLLIN)];
        let rest = rest.as_millis().min(60_000) as u16;
        if !matches!(poll(&mut heard, rest), Ok(0) | Err(Errno::EINTR)) {
            break;
        }
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
