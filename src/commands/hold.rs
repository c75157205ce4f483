//! `cowflush hold`.

use argh::FromArgs;

use crate::commands::held::{deferring, say};
use crate::error::{Exit, Result};
use crate::notes::hold as note;
use crate::pure::units::Utc;
use crate::sys::users;

/// Let nothing reach the card, as for an upgrade on trial, until `flush` keeps it, `discard` throws
/// it away, or `release` ends the hold.
#[derive(FromArgs)]
#[argh(subcommand, name = "hold")]
pub struct Arguments {}

/// Begins a hold.
pub fn run() -> Result<Exit> {
    let report = deferring("hold")?;
    note::begin()?;
    let since = Utc(note::since().unwrap_or(0));
    say(&format!(
        "held since {since}: nothing reaches the card. `cowflush flush` keeps what changes, `cowflush \
         discard` drops it, `cowflush release` ends the hold."
    ));
    let not_held = users::not_held(&report.beside);
    if !not_held.is_empty() {
        say(&format!(
            "Only root is held: what is written to {not_held} is there at once, and stays after a discard."
        ));
    }
    Ok(Exit::Done)
}
