//! One flush at a time: a record lock on device-mapper's control node.
//!
//! That node exists wherever cowflush can work, even when /run is gone. Only root can open it. The
//! kernel drops the lock when its holder dies, and says who holds it.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dm::{CONTROL, Control};
use super::signals;
use crate::error::{Error, Exit, Result};

/// Which byte of the node is locked.
#[derive(Clone, Copy)]
enum Byte {
    /// By the process that is at work.
    Work = 0,
    /// By its helpers, each for itself, while they may suspend root or wake it up. A helper ends
    /// soon after its parent, not with it; until then no other command may begin.
    Help = 1,
}

/// How long the helpers of a killed process may take to end by themselves, how long to wait after
/// killing them, and how often to look.
const GRACE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

fn record(byte: Byte, kind: libc::c_int) -> libc::flock {
    let start = byte as libc::off_t;
    libc::flock {
        l_type: kind as _,
        l_whence: libc::SEEK_SET as _,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the lock until [`release`] or the process's end, or says which process has it. If the
/// process that had it before was killed, its helpers have ended when this returns. A helper that
/// does not end, such as one that was stopped, is killed; the plan then repairs what it left.
///
/// A record lock goes when *any* descriptor of the file is closed, so a process opens the
/// control node once.
pub fn take(control: &Control) -> Result<()> {
    ask!(lock());
    keep(control)?;
    let since = Instant::now();
    loop {
        let refused = match user(control.file(), Byte::Help) {
            Ok(None) => return Ok(()),
            Ok(Some(pid)) if since.elapsed() < PATIENCE => {
                if since.elapsed() > GRACE && pid > 0 {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                std::thread::sleep(POLL);
                continue;
            }
            Ok(Some(pid)) => busy(Some(pid)),
            Err(errno) => unlocked(errno),
        };
        release(control);
        return Err(refused);
    }
}

/// Takes the lock for a process that may have it already, and helpers at work.
pub fn keep(control: &Control) -> Result<()> {
    ask!(lock());
    signals::never_stop()?;
    match set(control.file(), Byte::Work, libc::F_WRLCK) {
        Ok(()) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(busy(holder(control))),
        Err(errno) => Err(unlocked(errno)),
    }
}

/// Gives the lock back.
pub fn release(control: &Control) {
    ask!(unlock());
    // Unlocking what this process holds, or does not hold, can't fail.
    let _ = set(control.file(), Byte::Work, libc::F_UNLCK);
}

/// Takes the helper's lock, for a helper of `parent`, before it does anything to root. It lasts
/// until [`end_help`] or the helper's end, and a process that takes the work lock waits for that.
/// `false`: the parent no longer has the work lock, and another process may.
///
/// The helper takes its own lock first and checks the parent's then: a process that takes the work
/// lock after this check finds the helper's.
pub fn help(control: &File, parent: Pid) -> bool {
    let begun = set(control, Byte::Help, libc::F_RDLCK).is_ok();
    if begun && user(control, Byte::Work) == Ok(Some(parent.as_raw())) {
        return true;
    }
    end_help(control);
    false
}

/// Gives the helper's lock back: from here on no process needs to wait for this helper.
pub fn end_help(control: &File) {
    let _ = set(control, Byte::Help, libc::F_UNLCK);
}

fn set(control: &File, byte: Byte, kind: libc::c_int) -> nix::Result<()> {
    fcntl(control, FcntlArg::F_SETLK(&record(byte, kind))).map(drop)
}

/// Another process that has locked this byte; 0 or less for one without a number in this namespace.
fn user(control: &File, byte: Byte) -> nix::Result<Option<i32>> {
    let mut lock = record(byte, libc::F_WRLCK);
    fcntl(control, FcntlArg::F_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}

fn unlocked(errno: Errno) -> Error {
    Error::new(format!("lock {CONTROL}"), errno.desc())
}

/// The error of a command that finds the lock taken by that process.
pub fn busy(holder: Option<i32>) -> Error {
    let who = match holder.filter(|pid| *pid > 0) {
        Some(pid) => format!("process {pid} ({}) is at work", command(pid)),
        None => "another process is at work".to_owned(),
    };
    Error::new("begin", who)
        .advise("Wait for it to end, then try again; `cowflush status` shows how far it is.")
        .exit(Exit::Busy)
}

/// The process that holds the lock, if any.
pub fn holder(control: &Control) -> Option<i32> {
    ask!(holder());
    user(control.file(), Byte::Work).ok()?.filter(|pid| *pid > 0)
}

/// The command line of a process, for messages.
fn command(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::sys::wait::waitpid;
    use nix::unistd::getpid;

    use super::*;
    use crate::sys::process::child;

    #[test]
    fn who_is_at_work_is_named_if_the_kernel_tells() {
        let said = |holder| busy(holder).to_string();
        let own = format!("cannot begin: process {0} ({1}", getpid(), command(getpid().as_raw()));
        assert!(said(Some(getpid().as_raw())).starts_with(&own), "{own}");
        // 0 stands for a process in another namespace, -1 for a lock of an open file.
        for unknown in [None, Some(0), Some(-1)] {
            let words = "cannot begin: another process is at work. Wait for it to end";
            assert!(said(unknown).starts_with(words), "{}", said(unknown));
            assert_eq!(busy(unknown).exit_code(), Exit::Busy);
        }
    }

    /// Runs `help` in another process, lets `see` look when that has answered, and ends it.
    fn with_helper(file: &File, see: impl FnOnce(bool, Pid)) {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let parent = getpid();
        let helper = child(|| {
            let _ = there.write_all(&[u8::from(help(file, parent))]);
            let _ = there.read(&mut [0]);
        })
        .unwrap();
        let mut answer = [0];
        here.read_exact(&mut answer).unwrap();
        see(answer == [1], helper);
        here.write_all(&[0]).unwrap();
        waitpid(helper, None).unwrap();
    }

    #[test]
    fn a_helper_has_its_parents_lock_behind_it_and_is_seen_until_it_ends() {
        let path = std::env::temp_dir().join(format!("cowflush-lock-{}", getpid()));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // The parent was killed, and the next command may be at work: the helper begins nothing.
        with_helper(&file, |helps, _| {
            assert!(!helps);
            assert_eq!(user(&file, Byte::Help), Ok(None));
        });
        set(&file, Byte::Work, libc::F_WRLCK).unwrap();
        with_helper(&file, |helps, helper| {
            assert!(helps);
            assert_eq!(user(&file, Byte::Help), Ok(Some(helper.as_raw())));
            // Also when the parent has gone.
            set(&file, Byte::Work, libc::F_UNLCK).unwrap();
            assert_eq!(user(&file, Byte::Help), Ok(Some(helper.as_raw())));
        });
        assert_eq!(user(&file, Byte::Help), Ok(None));
    }
}
