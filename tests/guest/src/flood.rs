//! A writer at full speed whose file proves itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;

use crate::Failure;

const SECTOR: usize = 512;
const BLOCK: usize = 64 << 10;

/// Write numbered blocks of 64 KiB to a file at full speed, round and round: block N at place N
/// modulo `--places`. Ends when both `--seconds` and `--at-least` are over, or when the file STOP
/// appears, and prints `blocks N`. After each block its number is in NOTE. tests/product/flood.py
/// recognizes the blocks.
#[derive(FromArgs)]
#[argh(subcommand, name = "flood")]
pub struct Flood {
    /// the file to write
    #[argh(positional)]
    file: String,
    /// how many blocks it has
    #[argh(option, default = "512")]
    places: u64,
    /// for how long
    #[argh(option)]
    seconds: u64,
    /// how many blocks at least, for a slow machine
    #[argh(option, default = "0")]
    at_least: u64,
    /// where to keep the number of blocks written; not on root
    #[argh(option, default = "String::from(\"/run/flood\")")]
    note: String,
    /// the file whose appearance ends this at once; not on root
    #[argh(option, default = "String::from(\"/run/flood.stop\")")]
    stop: String,
}

impl Flood {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let file = File::create(&self.file)?;
        let note = File::create(&self.note)?;
        let (begin, end) = (Instant::now(), Duration::from_secs(self.seconds));
        let mut block = vec![0; BLOCK];
        let mut number: u64 = 0;
        while (begin.elapsed() < end || number < self.at_least)
            && !std::path::Path::new(&self.stop).exists()
        {
            fill(&mut block, number);
            let at = number % self.places * BLOCK as u64;
            file.write_all_at(&block, at)?;
            number += 1;
            note.write_all_at(format!("{number:020}\n").as_bytes(), 0)?;
        }
        println!("blocks {number}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Fills a block: each sector has the block's number, its own place in the block, and a fill that
/// both decide, so no sector of another block or place passes for it, nor a torn one.
fn fill(block: &mut [u8], number: u64) {
    for (place, sector) in block.chunks_exact_mut(SECTOR).enumerate() {
        let (head, rest) = sector.split_at_mut(16);
        head[..8].copy_from_slice(&number.to_le_bytes());
        head[8..].copy_from_slice(&(place as u64).to_le_bytes());
        rest.fill((number * 31 + place as u64 * 7 + 1) as u8);
    }
}
