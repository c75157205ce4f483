//! The command line of `cowflush` itself.

use argh::FromArgs;

/// Keeps a flash card's root filesystem in RAM copy-on-write and flushes it on demand.
#[derive(FromArgs)]
#[argh(
    note = "Writes to / stay in RAM until a flush: a power cut loses what was not flushed. During a\nflush root stays mounted and in use.",
    example = "cowflush status        # what is in RAM, what is at risk\n  cowflush flush         # make everything until now durable\n  cowflush stop          # flush, then write straight to the card",
    error_code(0, "done"),
    error_code(1, "failed; everything that was in RAM is still there"),
    error_code(2, "the command line was not understood"),
    error_code(3, "root is not on a cowflush stack"),
    error_code(4, "another cowflush command is at work"),
    error_code(5, "the card refused a write; the data stay in RAM and readable"),
    error_code(6, "check found something missing"),
    error_code(7, "the COW was lost; the card holds the last flush"),
    error_code(8, "stopped by a signal; the next command finishes")
)]
pub struct Cli {
    #[argh(subcommand)]
    pub command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Flush(Flush),
    Stop(Stop),
    Start(Start),
    Status(Status),
    Check(Check),
    Init(Init),
    Version(Version),
}

/// Make everything that was written until now durable on the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "flush")]
pub struct Flush {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Flush, then write straight through to the card. What a shutdown hook calls.
#[derive(FromArgs)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Keep writes in RAM again after a stop.
#[derive(FromArgs)]
#[argh(subcommand, name = "start")]
pub struct Start {}

/// Show what is in RAM, what reached the card and what is at risk.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print as JSON; ARCHITECTURE.md documents the keys
    #[argh(switch)]
    pub json: bool,
}

/// Say what this kernel, memory and card can do, and what to do about what is missing.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Boot: find the card, build the stack, start the real init. The kernel runs this as /init of
/// an initramfs, where every argument is the real init's.
#[derive(FromArgs)]
#[argh(subcommand, name = "init")]
pub struct Init {}

/// Print the version.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
pub struct Version {}
