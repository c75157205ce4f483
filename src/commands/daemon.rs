//! `cowflush daemon`.

use crate::commands::config;
use crate::put;
use cowflush::daemon;
use cowflush::error::{Exit, Result};
use cowflush::output::syslog;
use cowflush::sys::signals;
use cowflush::sys::terminal::standard_error;
use nix::sys::signal::Signal;

/// Runs until it is told to end.
pub fn run() -> Result<Exit> {
    let ending = [Signal::SIGTERM, Signal::SIGINT];
    let signals = signals::hold(&ending, &[Signal::SIGHUP, Signal::SIGUSR1])?;
    daemon::run(config, signals, &mut tell)?;
    Ok(Exit::Done)
}

/// One line for whoever reads the daemon's output, and for the system's log; one for both where that is the same. A
/// terminal that takes nothing, as after Ctrl-S, holds up no flush.
fn tell(text: &str) {
    let line = format!("cowflush: {text}\n");
    match standard_error() {
        Some(terminal) => put(terminal, &line),
        None if syslog::has(std::io::stderr()) => {}
        None => put(std::io::stderr(), &line),
    }
    syslog::notice(text);
}
