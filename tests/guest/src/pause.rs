//! Holds a program at one of its system calls, so that the world can change under it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use crate::Failure;
use crate::trace::{End, Stop, Traced};

/// Run a program and hold it before its nth call of one kind: FILE.held appears, and the program
/// goes on when FILE.go does. Exits with the program's code.
#[derive(FromArgs)]
#[argh(subcommand, name = "pause")]
pub struct Pause {
    /// number of the system call
    #[argh(option)]
    call: i64,
    /// which of these calls, from 1
    #[argh(option)]
    nth: u32,
    /// the file whose name the two flags begin with
    #[argh(option)]
    file: String,
    /// the program and its arguments
    #[argh(positional, greedy)]
    program: Vec<String>,
}

impl Pause {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let traced = Traced::start(&self.program)?;
        let mut seen = 0;
        loop {
            match traced.next()? {
                Ok(Stop::Entry { number, .. }) if number == self.call => {
                    seen += 1;
                    if seen == self.nth {
                        self.hold()?;
                    }
                }
                Ok(_) => {}
                Err(End::Exited(code)) if seen >= self.nth => {
                    return Ok(ExitCode::from(code as u8));
                }
                Err(End::Exited(_)) => return Err(format!("only {seen} such calls").into()),
                Err(End::Signaled(signal)) => return Err(format!("died of {signal}").into()),
            }
        }
    }

    fn hold(&self) -> Result<(), Failure> {
        std::fs::write(format!("{}.held", self.file), "")?;
        let go = format!("{}.go", self.file);
        while !Path::new(&go).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
