//! Makes some of a program's system calls fail, as an older kernel would.

use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;
use crate::trace::{End, Stop, Traced};

/// Run a program whose calls of one kind fail, as on a kernel that lacks them.
#[derive(FromArgs)]
#[argh(subcommand, name = "deny")]
pub struct Deny {
    /// number of a system call, any number of times
    #[argh(option)]
    call: Vec<i64>,
    /// ioctl request to fail, in hexadecimal
    #[argh(option, from_str_fn(hexadecimal))]
    ioctl: Option<u64>,
    /// errno that the program sees
    #[argh(option)]
    errno: i64,
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

/// Parses a number as the kernel's headers write it.
pub fn hexadecimal(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|error| error.to_string())
}

impl Deny {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let traced = Traced::start(&self.program)?;
        let (mut denied, mut count) = (false, 0);
        loop {
            match traced.next()? {
                Ok(Stop::Entry { number, arguments }) => {
                    let request = arguments[1] & 0xffff_ffff;
                    denied = self.call.contains(&number)
                        || number as libc::c_long == libc::SYS_ioctl && self.ioctl == Some(request);
                    if denied {
                        count += 1;
                        traced.skip_call()?;
                    }
                }
                Ok(Stop::Exit) if denied => traced.set_result(-self.errno)?,
                Ok(Stop::Exit) => {}
                Err(End::Exited(code)) => {
                    eprintln!("denied {count} calls");
                    return Ok(ExitCode::from(code as u8));
                }
                Err(End::Signaled(signal)) => return Err(format!("died of {signal}").into()),
            }
        }
    }
}
