//! `cowflush release`.

use argh::FromArgs;

use crate::commands::held::{root, say};
use crate::error::{Error, Exit, Result};
use crate::notes::hold as note;

/// End a hold: flushes come as before.
#[derive(FromArgs)]
#[argh(subcommand, name = "release")]
pub struct Arguments {}

/// Ends a hold.
pub fn run() -> Result<Exit> {
    root("release")?;
    let was = note::end();
    if note::since().is_some() {
        return Err(Error::new("release", "the note of the hold stays in /run/cowflush")
            .advise("Is /run read-only? Remove /run/cowflush/hold."));
    }
    say(if was { "released: flushes come as before" } else { "nothing was held" });
    Ok(Exit::Done)
}
