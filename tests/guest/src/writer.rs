//! A writer that appends numbered lines, fsyncs each, and measures how long that took.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;

use crate::Failure;

/// Append numbered lines to a file, fsync after each, and print how long the fsyncs took:
/// `lines N longest_us N median_us N`. Ends when the file `FILE.stop` appears.
#[derive(FromArgs)]
#[argh(subcommand, name = "writer")]
pub struct Writer {
    /// the file to append to
    #[argh(positional)]
    file: String,
    /// give up after so many seconds (default 60)
    #[argh(option, default = "60")]
    seconds: u64,
    /// pause after each line, in microseconds (default 2000)
    #[argh(option, default = "2000")]
    pause: u64,
    /// bytes to which a line is filled up (default 100)
    #[argh(option, default = "100")]
    width: usize,
}

impl Writer {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let mut file = File::options().append(true).create(true).open(&self.file)?;
        // In a tmpfs, so that looking for it never waits for root.
        let stop = format!("/run/{}.stop", self.file.replace('/', "_"));
        let begin = Instant::now();
        let mut times = Vec::new();
        while begin.elapsed() < Duration::from_secs(self.seconds)
            && !std::path::Path::new(&stop).exists()
        {
            let mut line = format!("line {} ", times.len());
            while line.len() + 1 < self.width {
                line.push('.');
            }
            line.push('\n');
            let before = Instant::now();
            file.write_all(line.as_bytes())?;
            file.sync_data()?;
            times.push(before.elapsed().as_micros() as u64);
            std::thread::sleep(Duration::from_micros(self.pause));
        }
        let lines = times.len();
        times.sort_unstable();
        let longest = times.last().copied().unwrap_or(0);
        let median = times.get(lines / 2).copied().unwrap_or(0);
        println!("lines {lines} longest_us {longest} median_us {median}");
        Ok(ExitCode::SUCCESS)
    }
}
