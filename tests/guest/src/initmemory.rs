//! Measures how much memory the program that was PID 1 before needed.

use std::process::ExitCode;

use argh::FromArgs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::execv;

use crate::Failure;
use crate::memory::field;

/// As root's init (`init=/usr/bin/guest-tools -- init-memory`): print to the kernel log
/// `init_memory max_rss_kib N own_kib N`, then become /sbin/init.
#[derive(FromArgs)]
#[argh(subcommand, name = "init-memory")]
pub struct InitMemory {}

impl InitMemory {
    /// A process' largest resident set survives its execs, VmHWM does not: where the first is
    /// larger than the second, it is an earlier program's, here that of the initramfs' init.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let inherited = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();
        let own = field(&std::fs::read_to_string("/proc/self/status")?, "VmHWM")?;
        std::fs::write("/dev/kmsg", format!("init_memory max_rss_kib {inherited} own_kib {own}"))?;
        let init = c"/sbin/init";
        execv(init, &[init])?;
        Ok(ExitCode::FAILURE)
    }
}
