//! `cowflush daemon`.

use argh::FromArgs;

use crate::commands::asked::config;
use crate::daemon;
use crate::error::{Exit, Result};
use crate::output::put;
use crate::output::syslog;
use crate::sys::signals;
use crate::sys::terminal::standard_error;
use nix::sys::signal::Signal;

/// Flush by itself: at intervals, at times of day, when the COW fills up, when /etc changes.
/// /etc/cowflush.conf says how. Stays in the foreground.
#[derive(FromArgs)]
#[argh(subcommand, name = "daemon")]
pub struct Arguments {}

/// Runs until it is told to end.
pub fn run() -> Result<Exit> {
    let ending = [Signal::SIGTERM, Signal::SIGINT];
    let signals = signals::hold(&ending, &[Signal::SIGHUP, Signal::SIGUSR1])?;
    daemon::run(config, signals, &mut log)?;
    Ok(Exit::Done)
}

/// One line for whoever reads the daemon's output, and for the system's log; one for both where that is the same. A
/// terminal that takes nothing, as after Ctrl-S, holds up no flush.
fn log(text: &str) {
    let line = format!("cowflush: {text}\n");
    match standard_error() {
        Some(terminal) => put(terminal, &line),
        None if syslog::has(std::io::stderr()) => {}
        None => put(std::io::stderr(), &line),
    }
    syslog::notice(text);
}
