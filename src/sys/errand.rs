//! A system call that nothing can interrupt, or for which the kernel may kill its caller, made by
//! another process. The daemon does other work meanwhile, and need not wait for the end.

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::waitpid;

use super::priority;
use super::process::{child, close_others, rename};
use crate::error::{Doing, Result};

/// What became of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The errand succeeded.
    Done,
    /// The errand failed.
    Failed(Errno),
    /// The process that ran the errand was killed.
    Killed,
}

/// A call that another process makes.
pub struct Errand {
    wire: UnixStream,
}

impl Errand {
    /// Begins the call in a process called `name`, which keeps `file` open and closes its parent's
    /// other files. `what` names the call in an error.
    pub(super) fn begin(
        name: &'static CStr,
        what: &str,
        file: Option<RawFd>,
        call: impl FnOnce() -> std::result::Result<(), Errno>,
    ) -> Result<Self> {
        let (wire, mut far_end) =
            UnixStream::pair().doing(|| format!("make a socket for {what}"))?;
        let work = || {
            rename(name);
            priority::realtime(false);
            // The process may outlive its parent, and must not be waited for.
            let wire = far_end.as_raw_fd();
            close_others(&[wire, file.unwrap_or(wire)]);
            let errno = call().err().map_or(0, |errno| errno as i32);
            // Linux' numbers end at 133.
            let _ = far_end.write_all(&[u8::try_from(errno).unwrap_or(u8::MAX)]);
        };
        // A child's child: init reaps it, even if this process gives it up.
        let between = child(|| _ = child(work)).doing(|| format!("start {what}"))?;
        let _ = waitpid(between, None);
        Ok(Self { wire })
    }

    /// Waits for the end for at most that long. `None`: the call still goes on.
    pub fn wait(&mut self, at_most: Duration) -> Option<Ended> {
        let mut heard = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        let millis = at_most.as_millis().min(60_000) as u16;
        if !matches!(poll(&mut heard, millis), Ok(1)) {
            return None;
        }
        let mut errno = [0];
        Some(match (self.wire.read(&mut errno), errno) {
            (Ok(1), [0]) => Ended::Done,
            (Ok(1), [errno]) => Ended::Failed(Errno::from_raw(errno.into())),
            _ => Ended::Killed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Errand {
        /// For tests: an errand whose process did `work` with its end of the wire, and has ended.
        pub(crate) fn ended(work: impl FnOnce(&UnixStream)) -> Self {
            let (wire, far_end) = UnixStream::pair().unwrap();
            work(&far_end);
            Self { wire }
        }
    }

    #[test]
    fn who_was_killed_has_neither_succeeded_nor_failed() {
        let waited = |work: fn(&UnixStream)| Errand::ended(work).wait(Duration::from_secs(5));
        assert_eq!(waited(|mut wire| wire.write_all(&[0]).unwrap()), Some(Ended::Done));
        let failed = waited(|mut wire| wire.write_all(&[Errno::ENOMEM as u8]).unwrap());
        assert_eq!(failed, Some(Ended::Failed(Errno::ENOMEM)));
        assert_eq!(waited(|_| ()), Some(Ended::Killed));
        let (wire, _far_end) = UnixStream::pair().unwrap();
        assert_eq!(Errand { wire }.wait(Duration::from_millis(1)), None, "still at work");
    }
}
