//! `cowflush stop`.

use argh::FromArgs;
use nix::sys::signal::Signal;

use crate::commands::asked::config;
use crate::commands::held::refuse_while_held;
use crate::commands::outcome::{counted, print};
use crate::commands::shutdown;
use crate::commands::waiting::{PATIENCE, begin};
use crate::error::{Error, Exit, Result};
use crate::flush::session::Session;
use crate::notes::{daemon_note, settings, swaps};
use crate::output::{put, syslog};
use crate::sys::signals;

/// Flush, then write straight through to the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "stop")]
pub struct Arguments {
    /// the machine goes down: tell the console, wait for other commands, drop what is held
    #[argh(switch)]
    pub shutdown: bool,
    /// with --shutdown: come back after so many seconds, done or not
    #[argh(option)]
    pub within: Option<std::num::NonZeroU32>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Stops, for a user or for a shutdown.
pub fn run(wanted: &Arguments) -> Result<Exit> {
    if wanted.shutdown && !wanted.json {
        return shutdown::run(wanted.within);
    }
    if wanted.shutdown || wanted.within.is_some() {
        let cause = "--within is for --shutdown, and --json is not";
        return Err(Error::new("stop", cause).exit(Exit::Usage));
    }
    stop(wanted.json)
}

/// Stops for a user. A shutdown sends SIGTERM and SIGHUP to all processes; neither ends this one.
fn stop(json: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT], &[])?;
    let config = config();
    refuse_while_held("stop")?;
    let session = begin("stop", refuse_while_held, PATIENCE, &config, &mut signals);
    let mut session = counted(session.and_then(Session::settled_anyhow))?;
    let outcome = counted(session.stop())?;
    // With nothing left in RAM the spill area is not needed. The daemon puts the other settings
    // back, unless it was killed.
    settings::restore(&[settings::SWAPPINESS]);
    if daemon_note::running().is_none() {
        settings::restore(&settings::dirty());
    }
    let mut said = Vec::new();
    swaps::bring_back(&mut |text| said.push(text.to_owned()));
    let told = print(
        session,
        &outcome,
        json,
        "stopped, flushed",
        "stopped already: writes go to the card",
    );
    // After the lock is given back, as with all output.
    for text in said {
        put(std::io::stderr(), &format!("cowflush: {text}\n"));
        syslog::notice(&text);
    }
    told
}
