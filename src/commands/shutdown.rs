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
    let incomplete =
        [flushed.as_ref().ok(), Some(&outcome)].into_iter().flatten().find_map(|done| match done {
            Outcome::Flushed { incomplete, .. } => *incomplete,
            Outcome::Nothing => None,
        });
    Ok(match incomplete {
        Some(incomplete) => {
            console.say(&explain(incomplete));
            Exit::Failed
        }
        None => {
            console.say("all data are on the card.");
            Exit::Done
        }
    })
}

/// What a power cut would cost now.
fn lost() -> String {
    let stack = Control::open().and_then(|control| control.stack());
    match stack.map(|stack| (stack.pending().bytes(), stack.logged.is_some())) {
        Ok((Bytes(0), true)) => {
            "all data are safe in the flush log; the next boot goes on with it.".to_owned()
        }
        Ok((Bytes(0), false)) => "all data are on the card.".to_owned(),
        Ok((pending, _)) => {
            format!("NOT ON THE CARD: {pending} that were written since the last flush.")
        }
        Err(error) => error.to_string(),
    }
}
