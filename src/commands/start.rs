//! `cowflush start`.

use std::time::{Duration, Instant};

use argh::FromArgs;
use nix::sys::signal::Signal;

use crate::commands::asked::config;
use crate::commands::held::refuse_while_held;
use crate::error::{Doing, Exit, Result};
use crate::flush::session::Session;
use crate::notes::{run_dir, spill};
use crate::output::put;
use crate::pure::stack::{Mode, Wish};
use crate::sys::dm::Control;
use crate::sys::lock;
use crate::sys::signals::{self, Held};

/// Keep writes in RAM again after a stop.
#[derive(FromArgs)]
#[argh(subcommand, name = "start")]
pub struct Arguments {}

/// Keeps writes in RAM again.
pub fn run() -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    if let Err(held) = refuse_while_held("start") {
        // Services begin with a `start`. Where there is nothing to start it writes nothing, and a daemon that did not
        // come up in a hold would not be there to keep the COW from filling up.
        let stack = Control::open()?.stack()?;
        return if stack.mode() == Some(Mode::Deferring) && stack.sealed.is_none() {
            Ok(started(STARTED_ALREADY))
        } else {
            Err(held)
        };
    }
    wait_for_others(&mut signals)?;
    let mut session = Session::begin("start", &config, &mut signals)?.settled(Wish::default())?;
    let mut unspilled = None;
    let text = if session.start()? {
        unspilled = config.spill.as_ref().and_then(|spill| spill::begin(spill).err());
        format!("started: writes stay in RAM, up to {}\n", session.limit())
    } else {
        STARTED_ALREADY.to_owned()
    };
    // Nobody who reads this may hold up the next flush.
    drop(session);
    if let Some(error) = unspilled {
        put(std::io::stderr(), &format!("cowflush: {error}\n"));
    }
    Ok(started(&text))
}

const STARTED_ALREADY: &str = "started already: writes stay in RAM\n";

/// Says so, and leaves a copy of the program in RAM.
fn started(text: &str) -> Exit {
    put(std::io::stdout(), text);
    // After an upgrade this is the first command of the new program.
    if let Err(error) = run_dir::keep_program().doing(|| "renew the program in /run/cowflush") {
        put(std::io::stderr(), &format!("cowflush: {error}\n"));
    }
    Exit::Done
}

/// Waits while another command is at work. Services begin with a `start`, and one that fails at once and again is given up
/// by its supervisor; a flush ends by itself.
fn wait_for_others(signals: &mut Held) -> Result<()> {
    let control = Control::open()?;
    let begin = Instant::now();
    while lock::holder(&control).is_some()
        && begin.elapsed() < PATIENCE
        && signals.arrived().is_none()
    {
        std::thread::sleep(PAUSE);
    }
    // This closes the control node, before the session takes a lock on one of its own.
    drop(control);
    Ok(())
}

/// How long [`wait_for_others`] waits. systemd gives a service's start 90 seconds.
const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(200);
