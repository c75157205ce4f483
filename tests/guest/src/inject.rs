//! Makes chosen system calls of a program and of its children fail, or kills the caller.

use std::collections::HashMap;
use std::process::ExitCode;
use std::str::FromStr;

use argh::FromArgs;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::trace::{Stop, Traced};
use crate::{Failure, dm};

/// Run a program and let some of its system calls fail; its children's count, too. Exits with the
/// program's code, with 137 if it was killed, and with 125 if a rule was never met.
///
/// A rule is CALL[:ABOUT][#N|#N+]=ERRNO, such as load:cowflush-root#2=ENOMEM: the second table that
/// is loaded into that device. ABOUT is device-mapper's name, or a part of an open file's path. #2+
/// is the second and all later ones; without a number it is all. In place of an errno, KILL kills
/// the caller before the call is made. ORPHAN kills the program itself and lets the call, which may
/// be a child's, be made. BOTH kills both. DROP fails a resume as the kernel does when it can't
/// swap in the loaded table, which it drops.
#[derive(FromArgs)]
#[argh(subcommand, name = "inject")]
pub struct Inject {
    /// what fails; may be given several times
    #[argh(option)]
    rule: Vec<Rule>,
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

/// The exit code when no call matched a rule: such a test would show nothing.
const NEVER_MET: u8 = 125;
const KILLED: u8 = 137;

/// Device-mapper's requests are numbered from here (include/uapi/linux/dm-ioctl.h).
const DM: u64 = 0xc138_fd00;
// struct dm_ioctl, by offset
const DM_FLAGS: u64 = 28;
const DM_NAME: u64 = 48;
const DM_NAME_BYTES: u64 = 128;
const DM_SUSPEND_FLAG: u32 = 2;

/// A kind of system call.
#[derive(Clone, Copy)]
enum Call {
    /// A request to device-mapper; one number suspends and resumes, by a flag.
    Mapper {
        request: u64,
        suspends: Option<bool>,
    },
    Ioctl(u64),
    Any(&'static [libc::c_long]),
}

/// The calls by the names that rules use.
const CALLS: [(&str, Call); 19] = [
    ("create", Call::Mapper { request: 3, suspends: None }),
    ("remove", Call::Mapper { request: 4, suspends: None }),
    ("rename", Call::Mapper { request: 5, suspends: None }),
    ("suspend", Call::Mapper { request: 6, suspends: Some(true) }),
    ("resume", Call::Mapper { request: 6, suspends: Some(false) }),
    ("load", Call::Mapper { request: 9, suspends: None }),
    ("clear", Call::Mapper { request: 10, suspends: None }),
    ("look", Call::Mapper { request: 12, suspends: None }),
    ("freeze", Call::Ioctl(0xc004_5877)),
    ("thaw", Call::Ioctl(0xc004_5878)),
    ("loop-free", Call::Ioctl(0x4c82)),
    ("loop-attach", Call::Ioctl(0x4c0a)),
    ("loop-resize", Call::Ioctl(0x4c04)),
    ("syncfs", Call::Any(&[libc::SYS_syncfs])),
    ("fsync", Call::Any(&[libc::SYS_fsync])),
    ("fork", Call::Any(&[libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone])),
    ("mlockall", Call::Any(&[libc::SYS_mlockall])),
    ("fsopen", Call::Any(&[libc::SYS_fsopen])),
    ("write", Call::Any(&[libc::SYS_pwrite64])),
];

/// What happens to a call.
#[derive(Clone, Copy)]
enum Fate {
    Fails(Errno),
    Drops,
    /// The caller is killed, or the program, or both.
    Killed {
        caller: bool,
        program: bool,
    },
}

const ERRNOS: [(&str, Errno); 8] = [
    ("EAGAIN", Errno::EAGAIN),
    ("EBUSY", Errno::EBUSY),
    ("EINVAL", Errno::EINVAL),
    ("EIO", Errno::EIO),
    ("ENOMEM", Errno::ENOMEM),
    ("ENOSPC", Errno::ENOSPC),
    ("ENXIO", Errno::ENXIO),
    ("EPERM", Errno::EPERM),
];

/// Which calls, and what happens to them.
struct Rule {
    text: String,
    call: Call,
    about: Option<String>,
    first: u32,
    last: u32,
    fate: Fate,
    seen: u32,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (calls, fate) = text
            .split_once('=')
            .ok_or("a rule ends with =ERRNO, =DROP, =KILL, =ORPHAN or =BOTH")?;
        let (calls, number) = calls.split_once('#').map_or((calls, None), |(c, n)| (c, Some(n)));
        let (name, about) = calls.split_once(':').map_or((calls, None), |(c, a)| (c, Some(a)));
        let (first, last) = match number {
            None => (1, u32::MAX),
            Some(number) => {
                let first = number.trim_end_matches('+').parse().map_err(|_| "#N is a number")?;
                (first, if number.ends_with('+') { u32::MAX } else { first })
            }
        };
        let fate = match fate {
            "KILL" => Fate::Killed { caller: true, program: false },
            "ORPHAN" => Fate::Killed { caller: false, program: true },
            "BOTH" => Fate::Killed { caller: true, program: true },
            "DROP" => Fate::Drops,
            _ => Fate::Fails(named(&ERRNOS, fate)?),
        };
        let (call, about) = (named(&CALLS, name)?, about.map(str::to_owned));
        Ok(Self { text: text.to_owned(), call, about, first, last, fate, seen: 0 })
    }
}

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| format!("{name} is not known"))
}

impl Rule {
    /// What this rule does to this call.
    fn judge(
        &mut self,
        pid: Pid,
        number: i64,
        arguments: &[u64; 6],
    ) -> Result<Option<Fate>, Failure> {
        if !self.is_about(pid, number, arguments)? {
            return Ok(None);
        }
        self.seen += 1;
        Ok((self.first..=self.last).contains(&self.seen).then_some(self.fate))
    }

    fn is_about(&self, pid: Pid, number: i64, arguments: &[u64; 6]) -> Result<bool, Failure> {
        let ioctl = number as libc::c_long == libc::SYS_ioctl;
        let (asked, buffer) = (arguments[1] & 0xffff_ffff, arguments[2]);
        match self.call {
            Call::Mapper { request, suspends } => {
                if !ioctl || asked != DM + request {
                    return Ok(false);
                }
                let flag = peek(pid, buffer + DM_FLAGS)? & DM_SUSPEND_FLAG != 0;
                let device = text(pid, buffer + DM_NAME, DM_NAME_BYTES)?;
                Ok(suspends.is_none_or(|suspends| suspends == flag)
                    && self.about.as_ref().is_none_or(|about| *about == device))
            }
            Call::Ioctl(request) => Ok(ioctl && asked == request),
            Call::Any(numbers) => Ok(numbers.contains(&(number as libc::c_long))
                && self.about.as_ref().is_none_or(|about| is_open(pid, arguments[0], about))),
        }
    }
}

/// Reads four bytes of a process' memory.
fn peek(pid: Pid, address: u64) -> Result<u32, Failure> {
    Ok(ptrace::read(pid, address as usize as ptrace::AddressType)? as u32)
}

/// Reads a C string from a process' memory.
fn text(pid: Pid, address: u64, most: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    for at in (0..most).step_by(4) {
        let word = peek(pid, address + at)?.to_ne_bytes();
        let end = word.iter().position(|byte| *byte == 0);
        bytes.extend(&word[..end.unwrap_or(4)]);
        if end.is_some() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the path of this open file contains these words. /proc never waits for root.
fn is_open(pid: Pid, descriptor: u64, words: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))
        .is_ok_and(|path| path.to_string_lossy().contains(words))
}

impl Inject {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Self { mut rule, program } = self;
        let main = Traced::start(&program)?.pid;
        ptrace::setoptions(
            main,
            Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE,
        )?;
        // This program may be on the device that the other suspends.
        // SAFETY: mlockall takes flags by value.
        Errno::result(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })?;
        let code = follow(main, &mut rule)?;
        let mut unmet = false;
        for rule in &rule {
            unmet |= rule.seen < rule.first;
            eprintln!("injected {}: {} such calls", rule.text, rule.seen);
        }
        Ok(ExitCode::from(if unmet { NEVER_MET } else { code }))
    }
}

/// Follows the program and its children until it ends. Returns its exit code.
fn follow(main: Pid, rules: &mut [Rule]) -> Result<u8, Failure> {
    // Each process, and the errno with which its current call must fail.
    let mut processes = HashMap::from([(main, None)]);
    ptrace::syscall(main, None)?;
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
        let mut signal = None;
        let pid = match status {
            WaitStatus::PtraceSyscall(pid) => {
                let failing = processes.entry(pid).or_insert(None);
                match Traced::of(pid).stop() {
                    Ok(Stop::Entry { number, arguments }) => {
                        *failing = judge(rules, main, pid, number, &arguments)?;
                    }
                    Ok(Stop::Exit) => {
                        if let Some(errno) = failing.take() {
                            Traced::of(pid).set_result(-(errno as i64))?;
                        }
                    }
                    Err(_) => {} // killed meanwhile
                }
                pid
            }
            WaitStatus::PtraceEvent(pid, ..) => pid,
            WaitStatus::Stopped(pid, arrived) => {
                // A child begins with a SIGSTOP that no process sent.
                if processes.contains_key(&pid) {
                    signal = Some(arrived);
                }
                processes.entry(pid).or_insert(None);
                pid
            }
            WaitStatus::Exited(pid, code) if pid == main => return Ok(code as u8),
            WaitStatus::Signaled(pid, Signal::SIGKILL, _) if pid == main => return Ok(KILLED),
            WaitStatus::Signaled(pid, signal, _) if pid == main => {
                return Err(format!("died of {signal}").into());
            }
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                processes.remove(&pid);
                continue;
            }
            _ => continue,
        };
        match ptrace::syscall(pid, signal) {
            // It was killed in the meantime.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// At a call: returns the errno with which it must fail and then skips it, or kills its process.
fn judge(
    rules: &mut [Rule],
    main: Pid,
    pid: Pid,
    number: i64,
    arguments: &[u64; 6],
) -> Result<Option<Errno>, Failure> {
    let mut failing = None;
    for rule in rules {
        match rule.judge(pid, number, arguments)? {
            Some(Fate::Killed { caller, program }) => {
                for (pid, killed) in [(main, program), (pid, caller)] {
                    if killed {
                        nix::sys::signal::kill(pid, Signal::SIGKILL)?;
                    }
                }
            }
            Some(Fate::Fails(errno)) => failing = Some(errno),
            Some(Fate::Drops) => {
                dm::clear(&text(pid, arguments[2] + DM_NAME, DM_NAME_BYTES)?)?;
                failing = Some(Errno::EINVAL);
            }
            None => {}
        }
    }
    if failing.is_some() {
        Traced::of(pid).skip_call()?;
    }
    Ok(failing)
}
