//! Processes: which one this is, children that are parts of this program, and programs.

use std::ffi::{CStr, CString};
use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::statfs::statfs;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, execv, fork, getpid};

/// Whether this process is certainly the one that the kernel started from its initramfs. What that
/// process does to a card and to the machine's mounts, process 1 of a container must never do; its
/// root may be in RAM as well. The answer needs /proc mounted.
pub fn is_the_machines() -> bool {
    may_be_the_machines()
        && is_first_namespace(
            std::fs::read_link("/proc/self/ns/pid").map_err(|error| error.kind()),
            Path::new("/proc/self/stat").exists(),
        )
}

/// As [`is_the_machines`], as far as it can be told without /proc, which an initramfs does not have
/// at its start.
pub fn may_be_the_machines() -> bool {
    getpid().as_raw() == 1 && is_in_initramfs()
}

/// Whether this process's root is in RAM, as an initramfs is.
pub fn is_in_initramfs() -> bool {
    // RAMFS_MAGIC and TMPFS_MAGIC of include/uapi/linux/magic.h: what the kernel's rootfs is.
    let in_ram = |root: nix::sys::statfs::Statfs| {
        [0x8584_58f6_u32, 0x0102_1994].contains(&(root.filesystem_type().0 as _))
    };
    statfs("/").is_ok_and(in_ram)
}

/// PROC_PID_INIT_INO of include/linux/proc_ns.h (PID_NS_INIT_INO of include/uapi/linux/nsfs.h since
/// 6.18): the namespace that the kernel's own init is in. Every container has another one, and no
/// other process 1 is in this.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Judges the answer to which namespace of processes this one is in. A kernel without namespaces
/// gives no answer, although /proc works otherwise (`proc_works`).
fn is_first_namespace(namespace: Result<PathBuf, ErrorKind>, proc_works: bool) -> bool {
    match namespace {
        Ok(name) => name.as_os_str() == FIRST_NAMESPACE,
        Err(kind) => kind == ErrorKind::NotFound && proc_works,
    }
}

/// Starts a child that does `work` and ends.
pub fn child(work: impl FnOnce()) -> nix::Result<Pid> {
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

/// Executes another program in this process, with all signals as by default, since every process
/// that it starts would inherit them. Returns only on failure.
pub fn turn_into(program: &CStr, words: &[CString]) -> Errno {
    let _ = SigSet::empty().thread_set_mask();
    // Rust's runtime ignores SIGPIPE.
    // SAFETY: the default is no handler of this program's.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let Err(errno) = execv(program, words);
    errno
}

/// Whether the kernel would start this program with `root` as the root; the error is the kernel's.
/// A child asks to be traced and executes the program; the kernel stops it before its first
/// instruction, and it is killed there.
///
/// Where this can't find out, the answer is yes: the real start will show it.
pub fn could_start(root: &Path, program: &CStr) -> Result<(), Errno> {
    let tried = child(|| {
        let traced = || {
            // SAFETY: PTRACE_TRACEME takes no pointers.
            Errno::result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
        };
        // Without the trace the program would run.
        if chroot(root).and_then(|()| chdir("/")).is_ok() && traced().is_ok() {
            let Err(errno) = execv(program, &[program]);
            // SAFETY: as in `child`.
            unsafe { libc::_exit(errno as i32) };
        }
    });
    let Ok(pid) = tried else { return Ok(()) };
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(..)) => _ = kill(pid, Signal::SIGKILL),
            Ok(WaitStatus::Exited(_, errno)) if errno != 0 => return Err(Errno::from_raw(errno)),
            // The kernel kills the child if it finds out too late that the program can't be
            // started.
            Ok(WaitStatus::Signaled(_, Signal::SIGSEGV | Signal::SIGBUS, _)) => {
                return Err(Errno::ENOEXEC);
            }
            Err(Errno::EINTR) => {}
            _ => return Ok(()),
        }
    }
}

/// Gives this process, a child, a name of its own, so that `killall cowflush` does not end it.
pub fn rename(name: &CStr) {
    // SAFETY: PR_SET_NAME reads a C string, of which it takes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Closes the files that this child inherited, except `keep` and the three standard ones: a child
/// that lives long would keep in use what its parent has closed.
pub fn close_others(keep: &[RawFd]) {
    for descriptor in (3..DESCRIPTORS).filter(|number| !keep.contains(number)) {
        // SAFETY: the child leaves by _exit and never drops, nor uses, what it closes here.
        unsafe { libc::close(descriptor) };
    }
}

/// The highest descriptor: cowflush never has more open. A pass over the flush log has the most,
/// some twenty.
const DESCRIPTORS: RawFd = 64;

/// The number of this process.
pub fn number() -> u32 {
    ask!(number_of_process());
    std::process::id()
}

/// Boots the machine again, at once and without its programs' consent. Returns only on failure.
pub fn reboot() -> Errno {
    ask!(reboot());
    let Err(errno) = nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT);
    errno
}

/// A program that was started. Waiting for its end is optional.
pub struct Program(Pid);

impl Program {
    /// Starts the program of this name on PATH, with this process's environment and all signals as
    /// by default. The program's own name (`argv[0]`) is `title`.
    pub fn start(name: &CStr, title: &CStr) -> nix::Result<Self> {
        ask!(start_program(name).map(|()| Self(Pid::from_raw(0))));
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(&SigSet::empty())?;
        // Rust's runtime ignores SIGPIPE.
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

    /// Waits for its end, and says whether it succeeded.
    pub fn wait(self) -> bool {
        ask!(program_succeeds());
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
