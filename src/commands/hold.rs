//! `cowflush hold`, `release` and `discard`.

use crate::put;
use cowflush::error::{Error, Exit, Result};
use cowflush::flush::status::{self, Report};
use cowflush::flush::trouble;
use cowflush::notes::hold::{self as note, Hold};
use cowflush::pure::stack::{Mode, Trouble};
use cowflush::pure::units::Utc;
use cowflush::sys::users;

/// `cowflush hold`.
pub fn hold() -> Result<Exit> {
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

/// `cowflush release`.
pub fn release() -> Result<Exit> {
    root("release")?;
    let was = note::end();
    if note::since().is_some() {
        return Err(Error::new("release", "the note of the hold stays in /run/cowflush")
            .advise("Is /run read-only? Remove /run/cowflush/hold."));
    }
    say(if was { "released: flushes come as before" } else { "nothing was held" });
    Ok(Exit::Done)
}

/// `cowflush discard`: a reboot during which nothing is flushed.
pub fn discard(now: bool) -> Result<Exit> {
    deferring("discard")?;
    // With the hold in place a `stop` on the way down writes nothing.
    note::begin()?;
    say("rebooting: everything since the last flush is dropped");
    note::discard(now).map(|()| Exit::Done)
}

/// Refuses what would write to the card during a hold.
pub fn refuse_while_held(what: &'static str) -> Result<()> {
    refuse_in_doubt(what)?;
    match note::since() {
        Some(since) => Err(Error::new(
            what,
            format!("nothing may reach the card since {}", Utc(since)),
        )
        .advise(
            "`cowflush flush` keeps what is on trial; a reboot or `cowflush discard` drops it; \
             `cowflush release` ends the hold.",
        )),
        None => Ok(()),
    }
}

/// Refuses a flush while the boot's own hold lasts: it could not tell what is in the flush log, and whoever calls this may
/// not know of it.
pub fn refuse_in_doubt(what: &'static str) -> Result<()> {
    let Some(Hold { since, for_log: true }) = note::look() else { return Ok(()) };
    let cause = format!("since {} the owner's word about the flush log is waited for", Utc(since));
    Err(Error::new(what, cause).advise(
        "`cowflush status` says why. To have the flushes that may be in it, bring the log back and reboot; what was \
         written since is lost then. `cowflush release` goes on without them, and after that they can't be had any more.",
    ))
}

fn root(what: &'static str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(what, "only root may").advise("Run this as root."))
}

fn deferring(what: &'static str) -> Result<Report> {
    root(what)?;
    let report = status::gather();
    if let Some(why) = report.unknown {
        return Err(Error::new(what, why));
    }
    match report.mode {
        Some(Mode::Deferring) => Ok(report),
        Some(Mode::WriteThrough) => Err(Error::new(what, "writes go straight to the card now")
            .advise("`cowflush start` keeps them in RAM.")
            .exit(Exit::NotActive)),
        None => Err(trouble::explain(Trouble::NotActive)),
    }
}

fn say(text: &str) {
    put(std::io::stdout(), &format!("{text}\n"));
}
