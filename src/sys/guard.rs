//! A second process that wakes root up should the first one die while root is suspended.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::error::{Doing, Error, Result};

/// The guard process, waiting.
pub struct Guard {
    wire: UnixStream,
    pid: Pid,
}

/// Starts a guard that runs `rescue` when this process ends without [`Guard::dismiss`].
///
/// Returns when the guard is in place with its memory locked. `rescue` must not allocate, print
/// or touch a file: it runs while root may be suspended.
pub fn post(rescue: impl FnOnce()) -> Result<Guard> {
    let (mut wire, far_end) = UnixStream::pair().doing(|| "make a socket for the guard process")?;
    // SAFETY: cowflush has one thread, so the child may do all that the parent could; it leaves
    // by _exit and never returns into the caller.
    match unsafe { fork() }.doing(|| "start the guard process")? {
        ForkResult::Child => {
            drop(wire);
            watch(far_end, rescue);
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

fn watch(mut wire: UnixStream, rescue: impl FnOnce()) {
    // A name of its own, so that `killall -9 cowflush` does not kill both at once.
    // SAFETY: PR_SET_NAME reads a C string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cowflush-guard".as_ptr()) };
    // The parent's session and its terminal's signals are not the guard's.
    let _ = setsid();
    // Locks are not inherited.
    if mlockall(MlockAllFlags::MCL_CURRENT).is_err() || wire.write_all(b"r").is_err() {
        return;
    }
    // One byte is the dismissal; an end without one is the parent's death.
    if !matches!(wire.read(&mut [0]), Ok(1)) {
        rescue();
    }
}

impl Guard {
    /// Sends the guard home. To be called when root is awake.
    pub fn dismiss(mut self) {
        // If this fails the guard finds root awake and does nothing.
        let _ = self.wire.write_all(b"d");
        let _ = waitpid(self.pid, None);
    }
}
