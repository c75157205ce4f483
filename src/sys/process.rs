//! Processes: which one this is, children that are parts of this program, and programs.

use std::ffi::{CStr, CString};
use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::statfs::statfs;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

/// Whether this process is certainly the one that the kernel started from its initramfs. What such a one does to a card,
/// and in everybody's mounts, must never be done by process 1 of a container, whose root may be in RAM as well. It can be
/// told only where /proc is mounted.
pub fn is_the_machines() -> bool {
    may_be_the_machines()
        && is_first_namespace(
            std::fs::read_link("/proc/self/ns/pid").map_err(|error| error.kind()),
            Path::new("/proc/self/stat").exists(),
        )
}

/// As far as that can be told without /proc, which an initramfs begins without.
pub fn may_be_the_machines() -> bool {
    // RAMFS_MAGIC and TMPFS_MAGIC of include/uapi/linux/magic.h: what the kernel's rootfs is.
    let in_ram = |root: nix::sys::statfs::Statfs| {
        [0x8584_58f6_u32, 0x0102_1994].contains(&(root.filesystem_type().0 as _))
    };
    getpid().as_raw() == 1 && statfs("/").is_ok_and(in_ram)
}

/// PROC_PID_INIT_INO of include/linux/proc_ns.h (PID_NS_INIT_INO of include/uapi/linux/nsfs.h since 6.18): the
/// namespace that the kernel's own init is in. Every container has another one, and no other process 1 is in this.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Judges the answer to which namespace of processes this one is in. A kernel that is built without them has nothing
/// to tell, but tells other things of a process (`proc_works`).
fn is_first_namespace(namespace: Result<PathBuf, ErrorKind>, proc_works: bool) -> bool {
    match namespace {
        Ok(name) => name.as_os_str() == FIRST_NAMESPACE,
        Err(kind) => kind == ErrorKind::NotFound && proc_works,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_namespace_of_processes_is_the_machines_and_what_is_not_known_is_not() {
        for works in [false, true] {
            assert!(is_first_namespace(Ok(FIRST_NAMESPACE.into()), works));
            for other in
                ["pid:[4026532201]", "pid:[40265318360]", "pid:[402653183]", "mnt:[4026531836]", ""]
            {
                assert!(!is_first_namespace(Ok(other.into()), works), "{other}");
            }
            for kind in [ErrorKind::PermissionDenied, ErrorKind::InvalidInput, ErrorKind::Other] {
                assert!(!is_first_namespace(Err(kind), works), "{kind}");
            }
        }
        assert!(is_first_namespace(Err(ErrorKind::NotFound), true), "a kernel without namespaces");
        assert!(!is_first_namespace(Err(ErrorKind::NotFound), false), "no /proc");
    }
}
