//! `cowflush log`, and `cowflush log format`.

mod format;
pub mod show;
pub mod word;

use argh::FromArgs;

use crate::error::{Exit, Result};

/// Show the flush log: its segments, its usage, its wear position.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "log",
    note = "With a flush log a power cut during a flush can't tear root. It is a partition of the card,\n64 MiB or more. To add one in the card's unpartitioned tail, with the card sda:\n  echo ',,da' | sfdisk --append /dev/sda     # a new partition, say sda2\n  cowflush log format /dev/sda2"
)]
pub struct Arguments {
    #[argh(subcommand)]
    pub command: Option<LogCommand>,
    /// read all of its data and compare their checksums
    #[argh(switch)]
    pub verify: bool,
    /// print the kernel command line's word for it, if it is on another disk than root: what is put
    /// into an initramfs
    #[argh(switch)]
    pub word: bool,
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum LogCommand {
    Format(format::Arguments),
}

/// Shows the log, or makes one.
pub fn run(wanted: &Arguments) -> Result<Exit> {
    match &wanted.command {
        None if wanted.word => word::run(),
        None => show::run(wanted.verify, wanted.json),
        Some(LogCommand::Format(wanted)) => format::run(wanted),
    }
}
