//! Refuses commands during a hold, and where a hold makes no sense.

use crate::error::{Error, Exit, Result};
use crate::flush::errors;
use crate::flush::status::{self, Report};
use crate::notes::hold as note;
use crate::output::put;
use crate::pure::stack::{Mode, PlanError};
use crate::pure::units::Utc;

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

/// Refuses a flush while the boot's own hold lasts: the boot could not tell what is in the flush
/// log, and the user may not know that.
pub fn refuse_in_doubt(what: &'static str) -> Result<()> {
    let Some(note::Hold { since, for_log: true }) = note::read() else { return Ok(()) };
    let cause = format!("since {} the owner's word about the flush log is waited for", Utc(since));
    Err(Error::new(what, cause).advise(
        "`cowflush status` says why. To have the flushes that may be in it, bring the log back and reboot; what was \
         written since is lost then. `cowflush release` goes on without them, and after that they can't be had any more.",
    ))
}

/// Refuses users other than root.
pub fn root(what: &'static str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(what, "only root may").advise("Run this as root."))
}

/// Refuses a command that only makes sense while writes stay in RAM, if they don't. Returns the
/// stack's report.
pub fn deferring(what: &'static str) -> Result<Report> {
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
        None => Err(errors::explain(PlanError::NotActive)),
    }
}

/// Prints a line.
pub fn say(text: &str) {
    put(std::io::stdout(), &format!("{text}\n"));
}
