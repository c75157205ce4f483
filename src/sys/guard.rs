//! A second process beside the one that flushes: it wakes root up should the first one die while
//! root is suspended.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, setsid};

use super::dm::Control;
use super::lock;
use super::process::{child, close_others, rename};
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

/// Starts a guard that runs `at_end` when this process, which must have the lock, ends or sends it home with
/// [`Guard::dismiss`]. Until it has run that, nobody else gets the lock.
///
/// Returns when the guard is in place with its memory locked. It may neither print nor touch a file on
/// root: it runs while root may be suspended.
pub fn post(control: &Control, at_end: &mut dyn FnMut(End)) -> Result<Guard> {
    let parent = getpid();
    let (wire, pid) = beside(
        None,
        || lock::help(control.file(), parent),
        |mut wire| {
            // One byte is the dismissal; an end without one is the parent's death.
            at_end(match wire.read(&mut [0]) {
                Ok(1) => End::Dismissed,
                _ => End::Orphaned,
            });
        },
    )?;
    Ok(Guard { wire, pid })
}

/// Starts a process beside this one, which what happens to this one does not happen to, and gives it its
/// end of a wire; the other end is returned. Its memory is locked by then, and it is `ready`. With `only` it keeps
/// that file of this process's, and no other.
pub(super) fn beside(
    only: Option<RawFd>,
    ready: impl FnOnce() -> bool,
    work: impl FnOnce(UnixStream),
) -> Result<(UnixStream, Pid)> {
    let (wire, far_end) = UnixStream::pair().doing(|| "make a socket for the guard process")?;
    let mut ends = Some((wire, far_end));
    let pid = child(|| {
        // Both processes have both ends now. Here the parent's is closed, or its death would not be heard.
        let Some((_, mut wire)) = ends.take() else { return };
        if let Some(only) = only {
            close_others(&[wire.as_raw_fd(), only]);
        }
        // So that `killall -9 cowflush` does not kill both at once.
        rename(c"cowflush-guard");
        // The parent's session and its terminal's signals are not the guard's.
        let _ = setsid();
        // Locks are not inherited.
        if super::mlock::all().is_err() {
            let _ = wire.write_all(UNLOCKED);
        } else if ready() && wire.write_all(READY).is_ok() {
            work(wire);
        }
    })
    .doing(|| "start the guard process")?;
    let mut answer = *b" ";
    if let Some((mut wire, far_end)) = ends {
        drop(far_end);
        let _ = wire.read(&mut answer);
        if answer == *READY {
            spare(pid, true);
            return Ok((wire, pid));
        }
    }
    let _ = waitpid(pid, None);
    Err(match answer == *UNLOCKED {
        true => Error::new("start the guard process", "it could not lock its memory")
            .advise("Nothing was begun. Free some memory, or raise `ulimit -l`, then try again."),
        false => ended(),
    })
}

/// What such a process says first.
const READY: &[u8; 1] = b"r";
const UNLOCKED: &[u8; 1] = b"m";

/// The error where it said nothing.
pub fn ended() -> Error {
    Error::new("start the guard process", "it ended before it was ready")
        .advise("Nothing was begun: try again, and let `cowflush-guard` live.")
}

/// Has this process and a helper of it spared by sysvinit's sendsigs, or the helper no longer: both killed at one instant,
/// while root is suspended, would leave it so, and everybody who shuts the machine down waiting for it. What a killed
/// process leaves there is a number of nobody.
///
/// Where there is no such folder nobody looks into it.
pub(super) fn spare(helper: Pid, spared: bool) {
    let path = format!("/run/sendsigs.omit.d/cowflush-{helper}");
    let _ = match spared {
        true => std::fs::write(path, format!("{} {helper}\n", getpid())),
        false => std::fs::remove_file(path),
    };
}

impl Guard {
    /// Sends the guard home and waits until it is gone.
    pub fn dismiss(mut self) {
        // If this fails the guard finds root awake and does nothing.
        let _ = self.wire.write_all(b"d");
        let _ = waitpid(self.pid, None);
        spare(self.pid, false);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};

    use super::*;

    #[test]
    fn a_guard_that_ends_before_it_is_ready_is_no_guard() {
        let died = || kill(getpid(), Signal::SIGKILL).is_ok();
        for (ready, what) in [(&(|| false) as &dyn Fn() -> bool, "gone"), (&died, "killed")] {
            let error = beside(None, ready, |_| ()).unwrap_err().to_string();
            let said = "cannot start the guard process: it ended before it was ready.";
            assert!(error.starts_with(said), "{what}: {error}");
        }
        let (mut wire, pid) = beside(None, || true, |mut wire| _ = wire.read(&mut [0])).unwrap();
        wire.write_all(b"d").unwrap();
        waitpid(pid, None).unwrap();
    }
}
