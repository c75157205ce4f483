//! `cowflush hold`, `release` and `discard`.

use argh::FromArgs;

use crate::error::{Error, Exit, Result};
use crate::flush::{status, trouble};
use crate::notes::hold as note;
use crate::output::put;
use crate::pure::stack::{Mode, Trouble};
use crate::pure::units::Utc;

/// Let nothing reach the card, as for an upgrade on trial, until `flush` keeps it, `discard` throws it
/// away, or `release` ends the hold.
#[derive(FromArgs)]
#[argh(subcommand, name = "hold")]
pub struct Hold {}

/// End a hold: flushes come as before.
#[derive(FromArgs)]
#[argh(subcommand, name = "release")]
pub struct Release {}

/// Throw away everything since the last flush: reboots, and what is in RAM is dropped.
#[derive(FromArgs)]
#[argh(subcommand, name = "discard")]
pub struct Discard {
    /// reboot at once, without asking programs to end
    #[argh(switch)]
    pub now: bool,
}

/// `cowflush hold`.
pub fn hold() -> Result<Exit> {
    deferring("hold")?;
    note::begin()?;
    let since = Utc(note::since().unwrap_or(0));
    say(&format!(
        "held since {since}: nothing reaches the card. `cowflush flush` keeps what changes, `cowflush \
         discard` drops it, `cowflush release` ends the hold."
    ));
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
    let Some(note::Hold { since, for_log: true }) = note::look() else { return Ok(()) };
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

fn deferring(what: &'static str) -> Result<()> {
    root(what)?;
    let report = status::gather();
    if let Some(why) = report.unknown {
        return Err(Error::new(what, why));
    }
    match report.mode {
        Some(Mode::Deferring) => Ok(()),
        Some(Mode::WriteThrough) => Err(Error::new(what, "writes go straight to the card now")
            .advise("`cowflush start` keeps them in RAM.")
            .exit(Exit::NotActive)),
        None => Err(trouble::explain(Trouble::NotActive)),
    }
}

fn say(text: &str) {
    put(std::io::stdout(), &format!("{text}\n"));
}
