//! `cowflush stop --shutdown`: everything else has ended or is about to, and the console is where
//! somebody looks who waits for the light to go out.

use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::Duration;

use cowflush::error::{Exit, Result};
use cowflush::ops::hold;
use cowflush::ops::session::{How, Outcome, Session};
use cowflush::report::console::Console;
use cowflush::report::progress::Meter;
use cowflush::sys::dm::Control;
use cowflush::sys::{block, signals};
use cowflush::units::{Bytes, Utc};
use nix::sys::signal::Signal;
use nix::unistd::alarm;

use crate::commands::config;
use crate::commands::flush::explain;

/// How long to wait before trying again when another command is at work.
const PAUSE: Duration = Duration::from_millis(100);

/// Does what `stop` does, tells the console, and comes back after `within` seconds with what could
/// be done. A system without a stack needs nothing.
pub fn run(within: Option<NonZeroU32>) -> Result<Exit> {
    let console = Console::open();
    // Everybody gets SIGTERM and SIGHUP now. Only the end of the time ends this.
    let mut signals = signals::hold(&[Signal::SIGALRM], &[])?;
    if let Some(seconds) = within {
        alarm::set(seconds.get());
    }
    if Control::open().and_then(|control| control.stack()).is_ok_and(|stack| stack.root.is_none()) {
        return Ok(Exit::Done);
    }
    if let Some(since) = hold::since() {
        console.say(&format!(
            "nothing may reach the card since {}: what was written since then is dropped now.",
            Utc(since)
        ));
        return Ok(Exit::Done);
    }
    let mut told = false;
    loop {
        match stop(&console, &mut signals) {
            Err(error) if error.exit_code() == Exit::Busy && signals.arrived().is_none() => {
                // The daemon, most likely, in the middle of a flush. It is told to end as well.
                if !told {
                    console.say(&format!("{error}"));
                    told = true;
                }
                sleep(PAUSE);
            }
            Err(error) => {
                console.say(&format!("{error}"));
                console.say(&lost());
                return Err(error);
            }
            done => return done,
        }
    }
}

fn stop(console: &Console, signals: &mut signals::Held) -> Result<Exit> {
    let config = config();
    let session = Session::begin("stop", &config, signals)?.showing(Meter::on_console());
    let mut session = session.settled_anyhow()?;
    let pending = session.stack()?.pending().bytes();
    if pending > Bytes(0) {
        console.say(&format!("{pending} are in RAM only and go to the card now: DON'T POWER OFF."));
    }
    // First into the flush log, if there is one: that is quick, and from then on nothing can be lost.
    let flushed = session.flush(How::default());
    // The time is over: there is none for another try either.
    if let Err(error) = flushed.as_ref()
        && error.exit_code() == Exit::Interrupted
    {
        return flushed.map(|_| Exit::Interrupted);
    }
    let stack = session.stack()?;
    if let (Ok(Outcome::Flushed { record, .. }), Some(log)) = (&flushed, stack.log_partition())
        && record.logged > Bytes(0)
    {
        console.say(&format!(
            "all data are safe in the flush log on {}; it is merged now. Don't power off yet.",
            block::name(log)
        ));
    }
    // One that failed is tried again by the stop, past the log.
    let outcome = session.stop()?;
    let (text, exit) = verdict(flushed.ok().as_ref(), &outcome);
    console.say(&text);
    Ok(exit)
}

/// What a stop in two parts comes to: a flush, unless that failed, and the stop itself.
fn verdict(flushed: Option<&Outcome>, stopped: &Outcome) -> (String, Exit) {
    let incomplete = flushed.and_then(Outcome::incomplete).or(stopped.incomplete());
    match incomplete {
        Some(incomplete) => (explain(incomplete), Exit::Failed),
        None => ("all data are on the card.".to_owned(), Exit::Done),
    }
}

/// What a power cut would cost now.
fn lost() -> String {
    match Control::open().and_then(|control| control.stack()) {
        Ok(stack) => at_risk(stack.pending().bytes(), stack.logged.is_some()),
        Err(error) => error.to_string(),
    }
}

/// The same, where so much is in RAM only and the log holds something or not.
fn at_risk(pending: Bytes, logged: bool) -> String {
    match (pending, logged) {
        (Bytes(0), true) => {
            "all data are safe in the flush log; the next boot goes on with it.".to_owned()
        }
        (Bytes(0), false) => "all data are on the card.".to_owned(),
        (pending, _) => {
            format!("NOT ON THE CARD: {pending} that were written since the last flush.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowflush::ops::session::Incomplete;
    use cowflush::report::record::Record;

    fn done(incomplete: Option<Incomplete>) -> Outcome {
        Outcome::Flushed { record: Record::default(), incomplete }
    }

    #[test]
    fn a_shutdown_says_that_all_is_saved_only_if_both_of_its_parts_saved_all() {
        let lacking = || done(Some(Incomplete::Unfrozen));
        // A first part that failed was done again by the second.
        for first in [None, Some(done(None)), Some(Outcome::Nothing)] {
            for second in [done(None), Outcome::Nothing] {
                let (text, exit) = verdict(first.as_ref(), &second);
                assert!(text.contains("all data are on the card") && exit == Exit::Done, "{text}");
            }
            let (text, exit) = verdict(first.as_ref(), &lacking());
            assert!(!text.contains("all data") && exit == Exit::Failed, "{text}");
        }
        for second in [done(None), Outcome::Nothing, lacking()] {
            let (text, exit) = verdict(Some(&lacking()), &second);
            assert!(!text.contains("all data") && exit == Exit::Failed, "{text}");
        }
    }

    #[test]
    fn a_stop_that_failed_calls_nothing_safe_that_is_in_ram_only() {
        for logged in [false, true] {
            assert!(at_risk(Bytes(4096), logged).starts_with("NOT ON THE CARD: 4.0 KiB"));
            assert!(!at_risk(Bytes(0), logged).contains("NOT"));
        }
        assert!(at_risk(Bytes(0), true).contains("in the flush log"), "not on the card yet");
    }
}
