//! Device-mapper requests that cowflush itself never makes: any target, and messages to one.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;

// struct dm_ioctl of include/uapi/linux/dm-ioctl.h, by offset.
const SIZE: usize = 4096;
const HEADER: usize = 312;
const VERSION: usize = 0;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const NAME: usize = 48;
// struct dm_target_spec, after the header: start, length, status, next, type, then the parameters
const LENGTH: usize = HEADER + 8;
const TYPE: usize = HEADER + 24;
const PARAMETERS: usize = HEADER + 40;
// struct dm_target_msg: a sector, then the text.
const TEXT: usize = HEADER + 8;
const DM_DEV_CREATE: u8 = 3;
const DM_DEV_REMOVE: u8 = 4;
const DM_DEV_SUSPEND: u8 = 6;
const DM_TABLE_LOAD: u8 = 9;
const DM_TABLE_CLEAR: u8 = 10;
const DM_TARGET_MSG: u8 = 14;

/// Ask device-mapper about the device NAME: `create NAME` makes one; `table NAME SECTORS TYPE
/// PARAMETERS` loads a table of one target and swaps it in, with the filesystem frozen meanwhile;
/// `message NAME TEXT` sends a message; `remove NAME` removes it.
#[derive(FromArgs)]
#[argh(subcommand, name = "dm")]
pub struct Dm {
    /// create, table, message or remove
    #[argh(positional)]
    request: String,
    /// the device
    #[argh(positional)]
    name: String,
    /// the rest
    #[argh(positional, greedy)]
    words: Vec<String>,
}

impl Dm {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match (self.request.as_str(), self.words.as_slice()) {
            ("create", []) => ask(DM_DEV_CREATE, &mut *self.buffer()?)?,
            ("remove", []) => ask(DM_DEV_REMOVE, &mut *self.buffer()?)?,
            ("table", [length, kind, parameters @ ..]) => {
                let mut load = self.buffer()?;
                load[TARGET_COUNT] = 1;
                load[LENGTH..LENGTH + 8].copy_from_slice(&length.parse::<u64>()?.to_ne_bytes());
                put(&mut load, TYPE, kind)?;
                put(&mut load, PARAMETERS, &parameters.join(" "))?;
                ask(DM_TABLE_LOAD, &mut load)?;
                ask(DM_DEV_SUSPEND, &mut *self.buffer()?)?;
            }
            ("message", words) => {
                let mut message = self.buffer()?;
                put(&mut message, TEXT, &words.join(" "))?;
                ask(DM_TARGET_MSG, &mut message)?;
            }
            _ => return Err("no such request, or with other words".into()),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn buffer(&self) -> Result<Box<Buffer>, Failure> {
        about(&self.name)
    }
}

/// Drops the loaded table of this device.
pub fn clear(name: &str) -> Result<(), Failure> {
    ask(DM_TABLE_CLEAR, &mut *about(name)?)
}

/// A request about this device.
fn about(name: &str) -> Result<Box<Buffer>, Failure> {
    let mut buffer = Box::new(Buffer([0; SIZE]));
    buffer[VERSION] = 4;
    buffer[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&u32::try_from(SIZE)?.to_ne_bytes());
    buffer[DATA_START..DATA_START + 4].copy_from_slice(&u32::try_from(HEADER)?.to_ne_bytes());
    put(&mut buffer, NAME, name)?;
    Ok(buffer)
}

/// An aligned buffer, for the kernel's numbers.
#[repr(align(8))]
struct Buffer([u8; SIZE]);

impl std::ops::Deref for Buffer {
    type Target = [u8; SIZE];
    fn deref(&self) -> &[u8; SIZE] {
        &self.0
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8; SIZE] {
        &mut self.0
    }
}

fn put(buffer: &mut Buffer, at: usize, text: &str) -> Result<(), Failure> {
    let place = buffer.get_mut(at..at + text.len()).ok_or("a text that is too long")?;
    place.copy_from_slice(text.as_bytes());
    Ok(())
}

fn ask(number: u8, buffer: &mut Buffer) -> Result<(), Failure> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
    let code = nix::request_code_readwrite!(0xfd, number, HEADER);
    // SAFETY: the buffer is as large as its data_size says, and the kernel writes no more than that.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), code as _, buffer.as_mut_ptr()) };
    if done < 0 {
        return Err(format!(
            "device-mapper's request {number}: {}",
            std::io::Error::last_os_error()
        )
        .into());
    }
    Ok(())
}
