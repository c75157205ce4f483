//! Copies from or to block devices with O_DIRECT.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;

const SECTOR: u64 = 512;

/// Copy FROM to TO, block devices with O_DIRECT: what is read is what the device below holds now,
/// and what is written has reached it, without a FLUSH. busybox' dd can't: its buffer is not
/// aligned, so it silently goes on without O_DIRECT.
#[derive(FromArgs)]
#[argh(subcommand, name = "direct")]
pub struct Direct {
    /// a file or device, read to its end
    #[argh(positional)]
    from: String,
    /// a file or device that exists
    #[argh(positional)]
    to: String,
    /// the sector in TO to begin at (default 0)
    #[argh(option, default = "0")]
    seek: u64,
}

#[repr(align(4096))]
struct Buffer([u8; 1 << 17]);

impl Direct {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let mut from = open(&self.from, OpenOptions::new().read(true))?;
        let mut to = open(&self.to, OpenOptions::new().write(true))?;
        to.seek(SeekFrom::Start(self.seek * SECTOR))?;
        let mut buffer = Box::new(Buffer([0; 1 << 17]));
        loop {
            let count = from.read(&mut buffer.0)?;
            if count == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            to.write_all(&buffer.0[..count])?;
        }
    }
}

fn open(path: &str, options: &mut OpenOptions) -> Result<File, Failure> {
    let device = std::fs::metadata(path)?.file_type().is_block_device();
    let flags = if device { libc::O_DIRECT } else { 0 };
    options.custom_flags(flags).open(path).map_err(|error| format!("{path}: {error}").into())
}
