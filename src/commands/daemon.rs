//! `cowflush daemon`.

use cowflush::error::{Exit, Result};
use cowflush::ops::daemon;
use cowflush::report::syslog;
use cowflush::sys::signals;
use nix::sys::signal::Signal;

use crate::commands::config;
use crate::put;

/// Runs until it is told to end.
pub fn run() -> Result<Exit> {
    let ending = [Signal::SIGTERM, Signal::SIGINT];
    let signals = signals::hold(&ending, &[Signal::SIGHUP, Signal::SIGUSR1])?;
    daemon::run(config, signals, &mut tell)?;
    Ok(Exit::Done)
}

/// One line for whoever reads the daemon's output, and for the system's log.
fn tell(text: &str) {
    put(std::io::stderr(), &format!("cowflush: {text}\n"));
    syslog::notice(text);
}
