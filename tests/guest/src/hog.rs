//! A program that takes the memory of others, and gives it back, again and again.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use argh::FromArgs;
use cowflush::sys::memory;

use crate::Failure;

const STEP: usize = 1 << 20;
/// How often it looks at the memory and perhaps takes more, in milliseconds.
const EVERY: u64 = 20;
/// How long it holds the memory once it has everything, in milliseconds.
const HOLD: u64 = 1500;

/// Take memory until only so many MiB are available, hold that for a while, free everything, and
/// begin again. Ends after `--seconds`. Prints a line each time: `took_mib N least_mib N`, what it
/// took, and the least that it saw left to others.
#[derive(FromArgs)]
#[argh(subcommand, name = "hog")]
pub struct Hog {
    /// what to leave to others, in MiB of MemAvailable
    #[argh(option)]
    leave: u64,
    /// when to end
    #[argh(option)]
    seconds: u64,
}

impl Hog {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let (begin, end) = (Instant::now(), Duration::from_secs(self.seconds));
        while begin.elapsed() < end {
            let mut taken = Vec::new();
            let (mut since, mut least) = (None::<Instant>, u64::MAX);
            while since.is_none_or(|since| since.elapsed() < Duration::from_millis(HOLD))
                && begin.elapsed() < end
            {
                let memory = memory::info().map_err(|error| error.to_string())?;
                let available = memory.available.0 >> 20;
                least = least.min(available);
                if available > self.leave {
                    // Not zeros, so that the kernel provides every page.
                    taken.push(vec![0x5a_u8; STEP]);
                } else {
                    since.get_or_insert_with(Instant::now);
                    sleep(Duration::from_millis(EVERY));
                }
            }
            println!("took_mib {} least_mib {least}", taken.len());
        }
        Ok(ExitCode::SUCCESS)
    }
}
