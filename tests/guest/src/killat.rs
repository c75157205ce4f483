//! Kills a program with SIGKILL at one of its system calls.

use std::process::ExitCode;

use argh::FromArgs;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Failure;
use crate::deny::hexadecimal;
use crate::trace::{End, Stop, Traced};

/// Run a program and kill it (-9) before or after its Nth system call that changes anything. Exits
/// with 137 if it was killed; else, if it had fewer, with the program's own code.
#[derive(FromArgs)]
#[argh(subcommand, name = "killat")]
pub struct KillAt {
    /// which stop to kill at, from 1; each system call has two, before and after
    #[argh(positional)]
    stop: u32,
    /// count only the stops of this ioctl request, in hexadecimal
    #[argh(option, from_str_fn(hexadecimal))]
    ioctl: Option<u64>,
    /// kill its children first
    #[argh(switch)]
    family: bool,
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

/// The system calls after which the world may differ. Reading, printing and waiting are left out,
/// so that every stop is worth a test.
const ACTING: [libc::c_long; 17] = [
    libc::SYS_ioctl,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_pwrite64,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount,
    libc::SYS_rename,
    libc::SYS_fork,
    libc::SYS_clone,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    libc::SYS_syncfs,
    libc::SYS_fsync,
    libc::SYS_close,
];

impl KillAt {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let traced = Traced::start(&self.program)?;
        // This program may be on the device that the other has suspended when it is killed.
        // SAFETY: mlockall takes flags by value.
        Errno::result(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })?;
        let mut stops = 0;
        let mut acting = false;
        loop {
            let number = match traced.next()? {
                Ok(Stop::Entry { number, arguments }) => {
                    acting = self.counts(number as libc::c_long, arguments[1] & 0xffff_ffff);
                    number
                }
                Ok(Stop::Exit) => -1,
                Err(End::Exited(code)) => {
                    println!("finished after {stops} stops");
                    return Ok(ExitCode::from(code as u8));
                }
                Err(End::Signaled(signal)) => return Err(format!("died of {signal}").into()),
            };
            stops += u32::from(acting);
            if acting && stops == self.stop {
                if self.family {
                    kill_children(traced.pid)?;
                }
                traced.kill()?;
                println!("killed at stop {stops}, system call {number}");
                return Ok(ExitCode::from(137));
            }
        }
    }

    fn counts(&self, number: libc::c_long, request: u64) -> bool {
        match self.ioctl {
            Some(wanted) => number == libc::SYS_ioctl && request == wanted,
            None => ACTING.contains(&number),
        }
    }
}

/// Kills all processes whose parent is `parent`.
fn kill_children(parent: Pid) -> Result<(), Failure> {
    let wanted = format!("PPid:\t{parent}");
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == wanted) {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
    }
    Ok(())
}
