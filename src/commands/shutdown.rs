//! `cowflush stop --shutdown`: all other processes have ended or are about to, and people watch the
//! console until the machine is off.

use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::commands::asked::config;
use crate::error::{Exit, Result};
use crate::flush::flushlog::count_boots;
use crate::flush::session::{FlushOptions, Outcome, Session, at_risk};
use crate::notes::hold;
use crate::output::console::Console;
use crate::output::progress::Meter;
use crate::pure::units::{Bytes, Sectors, Utc};
use crate::sys::dm::Control;
use crate::sys::{block, signals};
use nix::sys::signal::Signal;
use nix::unistd::alarm;

/// How long to wait before trying again when another command is at work.
const PAUSE: Duration = Duration::from_millis(100);

/// Does what `stop` does, writes to the console, and returns after `within` seconds with what could
/// be done. A system without a stack needs nothing.
pub fn run(within: Option<NonZeroU32>) -> Result<Exit> {
    let console = Console::open();
    // A shutdown sends SIGTERM and SIGHUP to every process. Only the end of the time ends this one.
    let mut signals = signals::hold(&[Signal::SIGALRM], &[])?;
    let end = within.and_then(|seconds| {
        alarm::set(seconds.get());
        Instant::now().checked_add(Duration::from_secs(seconds.get().into()))
    });
    if Control::open().and_then(|control| control.stack()).is_ok_and(|stack| stack.root.is_none()) {
        return Ok(Exit::Done);
    }
    // A system that shuts down had come up.
    let _ = Control::open().and_then(|control| count_boots::reached(&control));
    if let Some(since) = hold::since() {
        console.say(&format!(
            "nothing may reach the card since {}: what was written since then is dropped now.",
            Utc(since)
        ));
        return Ok(Exit::Done);
    }
    let mut told = false;
    loop {
        let mut flushed = false;
        match stop(&console, end, &mut signals, &mut flushed) {
            Err(error) if error.exit_code() == Exit::Busy && signals.arrived().is_none() => {
                // The lock is taken, most likely by the daemon in the middle of a flush, which has
                // been told to end as well.
                if !told {
                    console.say(&format!("{error}"));
                    told = true;
                }
                sleep(PAUSE);
            }
            Err(error) => {
                console.say(&format!("{error}"));
                console.say(&lost(flushed));
                return Err(error);
            }
            done => return done,
        }
    }
}

/// Stops. Sets `safe` once everything that was written is durable, even if a later step fails.
fn stop(
    console: &Console,
    end: Option<Instant>,
    signals: &mut signals::Held,
    safe: &mut bool,
) -> Result<Exit> {
    let config = config();
    let session = Session::begin("stop", &config, signals, &mut |_| false)?;
    let mut session = session.showing(Meter::on_console(end)).settled_anyhow()?;
    let pending = session.stack()?.pending().map(Sectors::bytes);
    if let Some(pending) = pending.filter(|pending| *pending > Bytes(0)) {
        console.say(&format!("{pending} are in RAM only and go to the card now: DON'T POWER OFF."));
    }
    // First into the flush log, if there is one: that is quick, and from then on nothing can be
    // lost.
    let flushed = session.flush(FlushOptions::default());
    // The time is over, so there is no time for another try.
    if let Err(error) = flushed.as_ref()
        && error.exit_code() == Exit::Interrupted
    {
        return flushed.map(|_| Exit::Interrupted);
    }
    let stack = session.stack()?;
    *safe = flushed.as_ref().is_ok_and(|flushed| flushed.incomplete().is_none());
    let logged = flushed.as_ref().ok().and_then(Outcome::record);
    if let (true, Some(record), Some(log)) = (*safe, logged, stack.log_partition())
        && record.logged > Bytes(0)
    {
        console.say(&format!(
            "all data are safe in the flush log on {}; it is merged now. Don't power off yet.",
            block::name(log)
        ));
    }
    // If the flush failed, the stop tries again, past the log.
    let stopped = session.stop()?;
    let outcome = match flushed {
        Ok(flushed) => flushed.and(stopped),
        Err(_) => stopped,
    };
    outcome.last_word().lines().for_each(|line| console.say(line));
    Ok(outcome.exit())
}

/// What a power cut would cost now, after a stop that failed.
fn lost(flushed: bool) -> String {
    match Control::open().and_then(|control| control.stack()) {
        Ok(stack) => at_risk(flushed, stack.pending().map(Sectors::bytes), stack.logged.is_some()),
        Err(error) => error.to_string(),
    }
}
