//! `cowflush start`.

use argh::FromArgs;
use nix::sys::signal::Signal;

use crate::commands::asked::config;
use crate::commands::held::refuse_while_held;
use crate::commands::waiting::{PATIENCE_OF_START, begin};
use crate::error::{Doing, Exit, Result};
use crate::notes::{run_dir, spill};
use crate::output::put;
use crate::pure::stack::{Goal, Mode};
use crate::sys::dm::Control;
use crate::sys::signals;

/// Keep writes in RAM again after a stop.
#[derive(FromArgs)]
#[argh(subcommand, name = "start")]
pub struct Arguments {}

/// Keeps writes in RAM again.
pub fn run() -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    if let Err(held) = refuse_while_held("start") {
        // Services begin with a `start`, so it must succeed during a hold if there is nothing to
        // start: it writes nothing then, and without the daemon nothing would keep the COW from
        // filling up.
        let stack = Control::open()?.stack()?;
        return if stack.mode() == Some(Mode::Deferring) && stack.sealed.is_none() {
            Ok(started(STARTED_ALREADY))
        } else {
            Err(held)
        };
    }
    let mut session = begin("start", refuse_while_held, PATIENCE_OF_START, &config, &mut signals)?
        .settled(Goal::default())?;
    let mut unspilled = None;
    let text = if session.start()? {
        unspilled = config.spill.as_ref().and_then(|spill| spill::begin(spill).err());
        format!("started: writes stay in RAM, up to {}\n", session.limit())
    } else {
        STARTED_ALREADY.to_owned()
    };
    // The reader of the output must not delay the next flush.
    drop(session);
    if let Some(error) = unspilled {
        put(std::io::stderr(), &format!("cowflush: {error}\n"));
    }
    Ok(started(&text))
}

const STARTED_ALREADY: &str = "started already: writes stay in RAM\n";

/// Prints the result, and leaves a copy of the program in RAM.
fn started(text: &str) -> Exit {
    put(std::io::stdout(), text);
    // After an upgrade this is the first command of the new program.
    if let Err(error) = run_dir::keep_program().doing(|| "renew the program in /run/cowflush") {
        put(std::io::stderr(), &format!("cowflush: {error}\n"));
    }
    Exit::Done
}
