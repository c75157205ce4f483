//! How much memory a program needs at its peak.

use std::process::ExitCode;

use argh::FromArgs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::Failure;

/// Run a program and print `max_rss_kib N`, its largest resident set.
#[derive(FromArgs)]
#[argh(subcommand, name = "memory")]
pub struct Memory {
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

impl Memory {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let (program, arguments) = self.program.split_first().ok_or("no program to run")?;
        let child = std::process::Command::new(program).args(arguments).spawn()?;
        let status = waitpid(nix::unistd::Pid::from_raw(child.id() as i32), None)?;
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        println!("max_rss_kib {}", usage.max_rss());
        Ok(match status {
            WaitStatus::Exited(_, code) => ExitCode::from(code as u8),
            _ => ExitCode::FAILURE,
        })
    }
}
