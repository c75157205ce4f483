//! `cowflush daemon`.

use argh::FromArgs;

use crate::commands::asked::read;
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

/// Runs until a signal ends it.
pub fn run() -> Result<Exit> {
    let ending = [Signal::SIGTERM, Signal::SIGINT];
    let signals = signals::hold(&ending, &[Signal::SIGHUP, Signal::SIGUSR1])?;
    let ended = daemon::run(read, signals, &mut log);
    // The program says on standard error why it ends, and procd reads that of no daemon.
    if let Err(error) = &ended
        && !syslog::has(std::io::stderr())
    {
        syslog::notice(&error.to_string());
    }
    ended.map(|()| Exit::Done)
}

/// Writes a line to standard error and to the system's log; only once where both are the same. A
/// stopped terminal, as after Ctrl-S, does not delay a flush.
fn log(text: &str) {
    let line = format!("cowflush: {text}\n");
    match standard_error() {
        Some(terminal) => put(terminal, &line),
        None if syslog::has(std::io::stderr()) => {}
        None => put(std::io::stderr(), &line),
    }
    syslog::notice(text);
}
