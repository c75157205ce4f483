//! The guard: a second process that wakes root up if the flushing process dies while root is
//! suspended.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, setsid};

use crate::error::{Doing, Error, Result};
use crate::sys::dm::Control;
use crate::sys::node::Node;
use crate::sys::process::{child, close_others, rename};
use crate::sys::{ask, block, lock, mlock};

/// The guard process, waiting.
pub struct Guard {
    wire: UnixStream,
    pid: Pid,
}

/// Why a guard stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOutcome {
    /// The flushing process dismissed it.
    Dismissed,
    /// The flushing process died.
    Orphaned {
        /// The guard has frozen the filesystem, and was not told to thaw it.
        frozen: bool,
    },
}

/// What a guard does when its time ends. It owns what it needs, since a guard outlives its parent.
pub type AtEnd = Box<dyn FnMut(GuardOutcome)>;

/// Starts a guard that runs `at_end` when this process, which must have the lock, ends or dismisses
/// it with [`Guard::dismiss`]. No other process gets the lock before `at_end` has run. On request
/// the guard freezes the filesystem that holds `freezes`.
///
/// Returns when the guard is ready, with its memory locked. `at_end` may neither print nor touch a
/// file on root: root may be suspended while it runs.
pub fn start(control: &Control, freezes: Option<&Node>, mut at_end: AtEnd) -> Result<Guard> {
    #[cfg(test)]
    if let Some(model) = crate::sys::kernel::model() {
        return model.post_guard(at_end).map(|()| Guard::of_model());
    }
    let parent = getpid();
    let (wire, pid) = fork_helper(
        None,
        || lock::help(control.file(), parent),
        |wire| at_end(serve(wire, freezes)),
    )?;
    Ok(Guard { wire, pid })
}

/// Waits in the guard process until it is dismissed or its parent dies.
///
/// The guard, not its parent, freezes and thaws the filesystem. So if the parent is killed, before
/// the call, in it or after it, a process goes on that knows whether the freeze is this flush's.
/// The kernel does not say who froze a filesystem, and lets any process thaw it.
fn serve(mut wire: UnixStream, freezes: Option<&Node>) -> GuardOutcome {
    let mut frozen = false;
    loop {
        let mut word = [0];
        // The wire ends without a message when the parent dies.
        match (wire.read(&mut word), word, freezes) {
            (Ok(1), FREEZE, Some(file)) => {
                let froze = block::freeze(file);
                frozen = froze.is_ok();
                // If the parent died meanwhile, the next read finds that out.
                let _ = wire.write_all(&[froze.err().map_or(0, |errno| errno as u8)]);
            }
            (Ok(1), THAW, Some(file)) => {
                if std::mem::take(&mut frozen) {
                    block::thaw(file);
                }
                let _ = wire.write_all(&[0]);
            }
            (Ok(1), ..) => return GuardOutcome::Dismissed,
            _ => return GuardOutcome::Orphaned { frozen },
        }
    }
}

/// Forks a helper process that outlives this one, and gives it one end of a wire; returns the other
/// end. By then the helper's memory is locked and `ready` has succeeded in it. With `only`, it
/// keeps that file open and closes the others that it inherited.
pub(super) fn fork_helper(
    only: Option<RawFd>,
    ready: impl FnOnce() -> bool,
    work: impl FnOnce(UnixStream),
) -> Result<(UnixStream, Pid)> {
    let (wire, far_end) = UnixStream::pair().doing(|| "make a socket for the guard process")?;
    let mut ends = Some((wire, far_end));
    let pid = child(|| {
        // Both processes have both ends now. The helper closes the parent's end, else it would not
        // notice the parent's death.
        let Some((_, mut wire)) = ends.take() else { return };
        if let Some(only) = only {
            close_others(&[wire.as_raw_fd(), only]);
        }
        // So `killall -9 cowflush` does not kill both at once.
        rename(c"cowflush-guard");
        // The guard leaves the parent's session, so that the terminal's signals don't reach it.
        let _ = setsid();
        // Locks are not inherited.
        if mlock::all().is_err() {
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
            spare_from_sendsigs(pid, true);
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

/// The helper's first message.
const READY: &[u8; 1] = b"r";
const UNLOCKED: &[u8; 1] = b"m";
/// Messages to the guard.
const FREEZE: [u8; 1] = *b"f";
const THAW: [u8; 1] = *b"t";
const DISMISSED: [u8; 1] = *b"d";

/// The error where the helper ended without a message.
pub fn ended() -> Error {
    Error::new("start the guard process", "it ended before it was ready")
        .advise("Nothing was begun: try again, and let `cowflush-guard` live.")
}

/// Has sysvinit's sendsigs spare this process and its helper, or no longer the helper. Killed at
/// the same instant while root is suspended, they would leave root suspended, and the shutdown
/// would wait for it for ever. A killed process leaves a file there with the number of a process
/// that no longer exists.
///
/// Where the folder is missing, the system does not use it.
pub(super) fn spare_from_sendsigs(helper: Pid, spared: bool) {
    let path = format!("/run/sendsigs.omit.d/cowflush-{helper}");
    let _ = match spared {
        true => std::fs::write(path, format!("{} {helper}\n", getpid())),
        false => std::fs::remove_file(path),
    };
}

impl Guard {
    /// The guard of a model, which keeps all else about it.
    #[cfg(test)]
    fn of_model() -> Self {
        let (wire, _) = UnixStream::pair().unwrap();
        Self { wire, pid: Pid::from_raw(0) }
    }

    /// Asks the guard to freeze the filesystem, and returns the kernel's answer. [`Errno::EPIPE`]:
    /// the guard is gone, and it is unknown whether it froze the filesystem.
    pub fn freeze(&mut self) -> std::result::Result<(), Errno> {
        ask!(guard_freezes());
        self.ask(FREEZE)
    }

    /// Asks the guard to thaw what it has frozen. An error: the guard is gone, and may not have
    /// done it.
    pub fn thaw(&mut self) -> std::result::Result<(), Errno> {
        ask!(guard_thaws());
        self.ask(THAW)
    }

    fn ask(&mut self, word: [u8; 1]) -> std::result::Result<(), Errno> {
        let mut answer = [0];
        let heard = self.wire.write_all(&word).and_then(|()| self.wire.read_exact(&mut answer));
        match (heard, answer) {
            (Ok(()), [0]) => Ok(()),
            (Ok(()), [errno]) => Err(Errno::from_raw(errno.into())),
            (Err(_), _) => Err(Errno::EPIPE),
        }
    }

    /// Dismisses the guard and waits until it is gone.
    pub fn dismiss(mut self) {
        ask!(dismiss_guard());
        // If this fails the guard finds root awake and does nothing.
        let _ = self.wire.write_all(&DISMISSED);
        let _ = waitpid(self.pid, None);
        spare_from_sendsigs(self.pid, false);
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
            let error = fork_helper(None, ready, |_| ()).unwrap_err().to_string();
            let said = "cannot start the guard process: it ended before it was ready.";
            assert!(error.starts_with(said), "{what}: {error}");
        }
        let (mut wire, pid) =
            fork_helper(None, || true, |mut wire| _ = wire.read(&mut [0])).unwrap();
        wire.write_all(b"d").unwrap();
        waitpid(pid, None).unwrap();
    }

    /// A guard of this file's filesystem, and a wire on which it reports its outcome: 0 for
    /// dismissed, else 1, or 2 if it had frozen the filesystem.
    fn guard(file: &Node) -> (Guard, UnixStream) {
        let (mut far, near) = UnixStream::pair().unwrap();
        let (wire, pid) = fork_helper(
            None,
            || true,
            |wire| {
                let end = match serve(wire, Some(file)) {
                    GuardOutcome::Dismissed => 0,
                    GuardOutcome::Orphaned { frozen } => 1 + u8::from(frozen),
                };
                let _ = far.write_all(&[end]);
            },
        )
        .unwrap();
        (Guard { wire, pid }, near)
    }

    #[test]
    fn a_freeze_that_failed_is_none_of_the_guards_and_one_that_is_gone_is_told() {
        // The kernel refuses to freeze /proc.
        let file = Node::open(std::path::Path::new("/proc/self/stat"), false, 0).unwrap();
        let (mut asked, mut end) = guard(&file);
        assert!(matches!(asked.freeze(), Err(errno) if errno != Errno::EPIPE));
        assert_eq!(asked.thaw(), Ok(()));
        let pid = asked.pid;
        // Its parent dies.
        drop(asked.wire);
        let mut said = [9];
        end.read_exact(&mut said).unwrap();
        assert_eq!(said, [1]);
        waitpid(pid, None).unwrap();

        let (killed, _) = guard(&file);
        kill(killed.pid, Signal::SIGKILL).unwrap();
        let mut killed = killed;
        assert_eq!(killed.freeze(), Err(Errno::EPIPE));
        killed.dismiss();
        let (dismissed, mut end) = guard(&file);
        dismissed.dismiss();
        end.read_exact(&mut said).unwrap();
        assert_eq!(said, [0]);
    }
}
