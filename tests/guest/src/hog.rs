//! A program that takes the memory that others could use, and gives it back, again and again.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use argh::FromArgs;
use cowflush::sys::memory;

use crate::Failure;

const STEP: usize = 1 << 20;
/// A look at the memory and perhaps one step more, in milliseconds.
const EVERY: u64 = 20;
/// How long it holds what it took, in milliseconds.
const HOLD: u64 = 1500;

/// Take memory until only so many MiB are available, hold that for a while, give all back, and
/// begin anew. Ends after `--seconds` and prints `rounds N most_mib N`.
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
        let (mut rounds, mut most) = (0, 0);
        while begin.elapsed() < end {
            let mut taken = Vec::new();
            let round = Instant::now();
            while round.elapsed() < Duration::from_millis(HOLD) && begin.elapsed() < end {
                if memory::info().map_err(|error| error.to_string())?.available.0 >> 20 > self.leave
                {
                    // Not zeros: every page is really had.
                    taken.push(vec![0x5a_u8; STEP]);
                } else {
                    sleep(Duration::from_millis(EVERY));
                }
            }
            rounds += 1;
            most = most.max(taken.len());
        }
        println!("rounds {rounds} most_mib {most}");
        Ok(ExitCode::SUCCESS)
    }
}
