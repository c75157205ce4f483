//! Runs a program and stops it at every system call.

use std::ffi::CString;
use std::mem::size_of;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork};

use crate::Failure;

/// One stop of the traced program.
pub enum Stop {
    /// About to make a system call.
    Entry {
        /// Its number.
        number: i64,
        /// Its first arguments.
        arguments: [u64; 6],
    },
    /// Returned from a system call.
    Exit,
}

/// A traced program.
pub struct Traced {
    pub pid: Pid,
}

/// How it ended.
pub enum End {
    Exited(i32),
    Signaled(i32),
}

/// The part of `struct ptrace_syscall_info` (include/uapi/linux/ptrace.h) for an entry.
#[repr(C)]
#[derive(Default)]
struct Info {
    op: u8,
    padding: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: u64,
    arguments: [u64; 6],
}

// Places in the saved registers (arch/x86/include/asm/user_{32,64}.h): orig_eax and eax are
// words 11 and 6; orig_rax and rax are words 15 and 10.
const WORD: usize = size_of::<usize>();
const CALL_REGISTER: usize = if WORD == 4 { 11 * WORD } else { 15 * WORD };
const RESULT_REGISTER: usize = if WORD == 4 { 6 * WORD } else { 10 * WORD };

const ENTRY: u8 = 1;
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;

impl Traced {
    /// A process that is traced already, such as another one's child.
    pub fn of(pid: Pid) -> Self {
        Self { pid }
    }

    /// Starts `words` under trace.
    pub fn start(words: &[String]) -> Result<Self, Failure> {
        let words: Vec<CString> =
            words.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let program = words.first().ok_or("no program to run")?;
        // SAFETY: this program has one thread; the child only asks to be traced and execs.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let _ = ptrace::traceme();
                let _ = execvp(program, &words);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(127) }
            }
            ForkResult::Parent { child } => {
                waitpid(child, None)?;
                ptrace::setoptions(child, Options::PTRACE_O_TRACESYSGOOD)?;
                Ok(Self { pid: child })
            }
        }
    }

    /// Lets the program run to its next system call, or its end.
    pub fn next(&self) -> Result<Result<Stop, End>, Failure> {
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal.take())?;
            match waitpid(self.pid, None)? {
                WaitStatus::PtraceSyscall(_) => return Ok(Ok(self.stop()?)),
                WaitStatus::Exited(_, code) => return Ok(Err(End::Exited(code))),
                WaitStatus::Signaled(_, signal, _) => {
                    return Ok(Err(End::Signaled(signal as i32)));
                }
                WaitStatus::Stopped(_, arrived) => signal = Some(arrived),
                _ => {}
            }
        }
    }

    /// The stop at which the program is.
    pub fn stop(&self) -> Result<Stop, Failure> {
        let mut info = Info::default();
        // SAFETY: the kernel writes at most the size it is told into `info`.
        let result = unsafe {
            libc::ptrace(
                GET_SYSCALL_INFO as _,
                self.pid.as_raw(),
                size_of::<Info>(),
                std::ptr::from_mut(&mut info),
            )
        };
        nix::errno::Errno::result(result)?;
        Ok(match info.op {
            ENTRY => Stop::Entry { number: info.number as i64, arguments: info.arguments },
            _ => Stop::Exit,
        })
    }

    /// At an entry: makes the kernel skip the system call.
    pub fn skip_call(&self) -> Result<(), Failure> {
        self.poke(CALL_REGISTER, -1)
    }

    /// At an exit: replaces the result.
    pub fn set_result(&self, value: i64) -> Result<(), Failure> {
        self.poke(RESULT_REGISTER, value)
    }

    fn poke(&self, offset: usize, value: i64) -> Result<(), Failure> {
        // SAFETY: POKEUSER writes one word of the tracee's saved registers.
        let result = unsafe {
            libc::ptrace(libc::PTRACE_POKEUSER as _, self.pid.as_raw(), offset, value as usize)
        };
        Ok(nix::errno::Errno::result(result).map(drop)?)
    }

    /// Kills the program and reaps it.
    pub fn kill(&self) -> Result<(), Failure> {
        nix::sys::signal::kill(self.pid, nix::sys::signal::SIGKILL)?;
        loop {
            if let WaitStatus::Signaled(..) | WaitStatus::Exited(..) = waitpid(self.pid, None)? {
                return Ok(());
            }
        }
    }
}
