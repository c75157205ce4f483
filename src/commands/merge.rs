//! `cowflush merge`.

use argh::FromArgs;
use nix::sys::signal::Signal;

use crate::commands::asked::config;
use crate::commands::held::refuse_while_held;
use crate::commands::outcome::{card, log_once};
use crate::commands::waiting::{PATIENCE, begin};
use crate::error::{Exit, Result};
use crate::flush::figures::Settled;
use crate::flush::prune::Pruned;
use crate::output::put;
use crate::pure::report::json::Object;
use crate::sys::signals;

/// Merge what is in the flush log into the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "merge")]
pub struct Arguments {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Merges the flush log into the card.
pub fn run(json: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    refuse_while_held("merge")?;
    let (session, merged) =
        begin("merge", refuse_while_held, PATIENCE, &config, &mut signals)?.merged()?;
    let card = card(&session.stack()?);
    drop(session);
    let Settled {
        merged: bytes, merging: time, log_pruned: Pruned { bytes: pruned, refused }, ..
    } = merged.unwrap_or_default();
    let millis = time.as_millis() as u64;
    let text = if json {
        let object = Object::new()
            .text("card", &card)
            .number("merged", bytes.0)
            .number("merge_ms", millis)
            .number("pruned", pruned.0)
            .text("not_pruned", refused.unwrap_or_default());
        object.end()
    } else if merged.is_some() {
        let mut text = format!("merged the flush log into {card}: {bytes} in {millis} ms");
        if pruned.0 > 0 {
            text.push_str(&format!(", {pruned} pruned"));
        }
        log_once(&text);
        text
    } else {
        "nothing to merge: the flush log is empty, or there is none".to_owned()
    };
    put(std::io::stdout(), &format!("{text}\n"));
    Ok(Exit::Done)
}
