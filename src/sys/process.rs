//! Other processes: children that are parts of this program, and programs.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Starts a child that does this and ends.
pub(super) fn child(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: cowflush has one thread, so the child may do all that its parent could; it leaves
    // by _exit and never returns into the caller.
    match unsafe { fork() }? {
        ForkResult::Child => {
            work();
            // SAFETY: _exit ends the process at once, without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Gives this process, a child, a name of its own: what `killall cowflush` ends is another.
pub(super) fn rename(name: &CStr) {
    // SAFETY: PR_SET_NAME reads a C string, of which it takes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
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

/// A program that was started. Nobody needs to wait for its end.
pub struct Program(Pid);

impl Program {
    /// Starts the program that is found on PATH by this name, with this process's environment and
    /// without what it does about signals. It sees itself called `title`.
    pub fn start(name: &CStr, title: &CStr) -> nix::Result<Self> {
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(&SigSet::empty())?;
        // Rust's runtime ignores it.
        attributes.set_sigdefault(&Signal::SIGPIPE.into())?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        let environment: Vec<CString> = std::env::vars_os()
            .filter_map(|(key, value)| {
                CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
            })
            .collect();
        let actions = PosixSpawnFileActions::init()?;
        posix_spawnp(name, &actions, &attributes, &[title], &environment).map(Self)
    }

    /// Waits for its end. Whether it was a success.
    pub fn wait(self) -> bool {
        matches!(waitpid(self.0, None), Ok(WaitStatus::Exited(_, 0)))
    }
}
