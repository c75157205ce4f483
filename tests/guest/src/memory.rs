//! Measures how much memory a program needs at its peak.

use std::process::ExitCode;

use argh::FromArgs;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::Failure;
use crate::trace::Traced;

/// Run a program and print `max_rss_kib N anon_kib N file_kib N`: its largest resident set, and at
/// its end its own part of that and the binary's pages.
#[derive(FromArgs)]
#[argh(subcommand, name = "memory")]
pub struct Memory {
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

impl Memory {
    /// Not with getrusage, which also counts the process before its exec, that is this program.
    /// VmHWM begins anew at an exec, so it is read when the program is about to end.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let pid = Traced::start(&self.program)?.pid;
        ptrace::setoptions(pid, Options::PTRACE_O_TRACEEXIT)?;
        let mut status = String::new();
        let mut signal = None;
        loop {
            ptrace::cont(pid, signal.take())?;
            match waitpid(pid, None)? {
                WaitStatus::PtraceEvent(..) => {
                    status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
                }
                WaitStatus::Stopped(_, arrived) => signal = Some(arrived),
                WaitStatus::Exited(_, code) => {
                    let value = |key| field(&status, key);
                    let (most, own, file) = (value("VmHWM")?, value("RssAnon")?, value("RssFile")?);
                    println!("max_rss_kib {most} anon_kib {own} file_kib {file}");
                    return Ok(ExitCode::from(code as u8));
                }
                other => return Err(format!("the program ended unexpectedly: {other:?}").into()),
            }
        }
    }
}

/// A field of /proc/PID/status, in KiB.
pub fn field(status: &str, key: &str) -> Result<u64, Failure> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = value.ok_or_else(|| format!("/proc has no {key} of the program"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
