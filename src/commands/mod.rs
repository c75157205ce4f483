//! The subcommands: each has a file with its options, its help and its output.

// The options' doc comments are the help that users get.
#![allow(missing_docs)]

mod asked;
pub mod attach;
pub mod check;
pub mod daemon;
pub mod discard;
pub mod flush;
mod held;
pub mod history;
pub mod hold;
pub mod init;
pub mod log;
pub mod merge;
mod outcome;
pub mod recover;
pub mod release;
pub mod shutdown;
pub mod start;
pub mod status;
pub mod stop;
pub mod version;
mod waiting;

use argh::FromArgs;

use crate::error::{Exit, Result};

/// Keeps a flash card's root filesystem in RAM copy-on-write and flushes it on demand.
#[derive(FromArgs)]
#[argh(
    note = "Writes to / stay in RAM until a flush: a power cut loses what was not flushed. During a\nflush root stays mounted and in use.",
    example = "cowflush status        # what is in RAM, what is at risk\n  cowflush flush         # make everything until now durable\n  cowflush log           # what is in the flush log\n  cowflush stop          # flush, then write straight to the card",
    error_code(0, "done"),
    error_code(1, "failed; everything that was in RAM is still there"),
    error_code(2, "the command line was not understood"),
    error_code(3, "root is not on a cowflush stack"),
    error_code(4, "another cowflush command is at work, or another program has frozen root"),
    error_code(
        5,
        "the card refused a write, or can't be read; the data stay in RAM or in the log"
    ),
    error_code(6, "check found something missing"),
    error_code(7, "something was lost: the COW, or a part of the flush log"),
    error_code(8, "stopped by a signal; the next command finishes"),
    error_code(
        9,
        "the flush log is of a newer cowflush; it is kept, and nothing is written past it"
    )
)]
pub struct Cli {
    #[argh(subcommand)]
    pub command: Command,
}

/// The subcommands, each with its options.
#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Flush(flush::Arguments),
    Merge(merge::Arguments),
    Stop(stop::Arguments),
    Start(start::Arguments),
    Status(status::Arguments),
    History(history::Arguments),
    Check(check::Arguments),
    Daemon(daemon::Arguments),
    Hold(hold::Arguments),
    Release(release::Arguments),
    Discard(discard::Arguments),
    Log(log::Arguments),
    Recover(recover::Arguments),
    Init(init::Arguments),
    Attach(attach::Arguments),
    Version(version::Arguments),
}

impl Command {
    /// Runs the subcommand.
    pub fn run(self) -> Result<Exit> {
        match self {
            Self::Flush(wanted) => flush::run(wanted.json, wanted.direct),
            Self::Merge(wanted) => merge::run(wanted.json),
            Self::Stop(wanted) => stop::run(&wanted),
            Self::Start(_) => start::run(),
            Self::Status(wanted) => status::run(wanted.json, wanted.watch),
            Self::History(wanted) => history::run(wanted.json),
            Self::Check(wanted) => check::run(wanted.json),
            Self::Daemon(_) => daemon::run(),
            Self::Hold(_) => hold::run(),
            Self::Release(_) => release::run(),
            Self::Discard(wanted) => discard::run(wanted.now),
            Self::Log(wanted) => log::run(&wanted),
            Self::Recover(wanted) => recover::run(&wanted),
            Self::Init(_) => init::refuse(),
            Self::Attach(wanted) => {
                attach::run(wanted.root.as_deref(), wanted.plain, wanted.by_log)
            }
            Self::Version(_) => Ok(version::run()),
        }
    }
}
