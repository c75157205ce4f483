//! `cowflush discard`.

use argh::FromArgs;

use crate::commands::held::{deferring, say};
use crate::error::{Exit, Result};
use crate::notes::hold as note;

/// Throw away everything since the last flush: reboots, and what is in RAM is dropped.
#[derive(FromArgs)]
#[argh(subcommand, name = "discard")]
pub struct Arguments {
    /// reboot at once, without asking programs to end
    #[argh(switch)]
    pub now: bool,
}

/// Reboots, so that nothing is flushed on the way down.
pub fn run(now: bool) -> Result<Exit> {
    deferring("discard")?;
    // With the hold in place a `stop` on the way down writes nothing.
    note::begin()?;
    say("rebooting: everything since the last flush is dropped");
    note::discard(now).map(|()| Exit::Done)
}
