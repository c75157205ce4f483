//! Seeded work for the bench: the same seed writes the same bytes in the same order.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;
use crate::random::Random;

const BLOCK: usize = 4096;
const LOG_LINE: usize = 256;
const LOGS: usize = 8;

/// Write `--bytes` in a folder, the same for the same seed, and sync: `scattered` rewrites
/// different random 4 KiB blocks of FOLDER/base, `sequential` writes FOLDER/new anew, `logs` appends
/// lines to eight files in turn. Prints `bytes N fsyncs N`.
#[derive(FromArgs)]
#[argh(subcommand, name = "load")]
pub struct Load {
    /// scattered, sequential or logs
    #[argh(positional)]
    kind: String,
    /// the folder
    #[argh(positional)]
    folder: String,
    /// how much to write
    #[argh(option)]
    bytes: usize,
    /// what to begin the random numbers with
    #[argh(option, default = "1")]
    seed: u64,
    /// an fsync after so many writes; 0 means only the sync at the end (default 16)
    #[argh(option, default = "16")]
    fsync_every: usize,
}

impl Load {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let mut random = Random::new(self.seed);
        let (bytes, fsyncs) = match self.kind.as_str() {
            "scattered" => self.scattered(&mut random)?,
            "sequential" => self.sequential(&mut random)?,
            "logs" => self.logs(&mut random)?,
            kind => return Err(format!("{kind} is no kind of work that load knows").into()),
        };
        nix::unistd::sync();
        println!("bytes {bytes} fsyncs {fsyncs}");
        Ok(ExitCode::SUCCESS)
    }

    fn scattered(&self, random: &mut Random) -> Result<(usize, usize), Failure> {
        let path = format!("{}/base", self.folder);
        let mut file = File::options().write(true).open(&path)?;
        let mut blocks: Vec<u64> = (0..file.metadata()?.len() / BLOCK as u64).collect();
        let count = self.bytes / BLOCK;
        if count > blocks.len() {
            return Err(format!("{path} has only {} blocks", blocks.len()).into());
        }
        let mut content = [0; BLOCK];
        let mut fsyncs = 0;
        for n in 0..count {
            // A shuffle that stops once it has enough: no block comes twice.
            let other = n + random.below(blocks.len() - n);
            blocks.swap(n, other);
            random.fill(&mut content);
            file.seek(SeekFrom::Start(blocks[n] * BLOCK as u64))?;
            file.write_all(&content)?;
            fsyncs += self.fsync(&file, n)?;
        }
        Ok((count * BLOCK, fsyncs))
    }

    fn sequential(&self, random: &mut Random) -> Result<(usize, usize), Failure> {
        let mut file = File::create(format!("{}/new", self.folder))?;
        let mut content = vec![0; 16 * BLOCK];
        let count = self.bytes / content.len();
        for _ in 0..count {
            random.fill(&mut content);
            file.write_all(&content)?;
        }
        Ok((count * content.len(), 0))
    }

    fn logs(&self, random: &mut Random) -> Result<(usize, usize), Failure> {
        let open = |n| {
            let path = format!("{}/log{n}", self.folder);
            File::options().append(true).create(true).open(path)
        };
        let mut files = (0..LOGS).map(open).collect::<Result<Vec<_>, _>>()?;
        let mut line = [0; LOG_LINE];
        let (count, mut fsyncs) = (self.bytes / LOG_LINE, 0);
        for n in 0..count {
            random.fill(&mut line);
            let file = &mut files[n % LOGS];
            file.write_all(&line)?;
            fsyncs += self.fsync(file, n)?;
        }
        Ok((count * LOG_LINE, fsyncs))
    }

    /// Returns how many fsyncs it made: 0 or 1.
    fn fsync(&self, file: &File, n: usize) -> Result<usize, Failure> {
        if self.fsync_every == 0 || !(n + 1).is_multiple_of(self.fsync_every) {
            return Ok(0);
        }
        file.sync_data()?;
        Ok(1)
    }
}
