//! `cowflush flush`.

use argh::FromArgs;
use nix::sys::signal::Signal;

use crate::commands::asked::config;
use crate::commands::held::refuse_in_doubt;
use crate::commands::outcome::{counted, print};
use crate::commands::waiting::{PATIENCE, begin};
use crate::error::{Exit, Result};
use crate::flush::session::FlushOptions;
use crate::notes::hold;
use crate::pure::stack::Goal;
use crate::sys::signals;

/// Make everything that was written until now durable on the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "flush")]
pub struct Arguments {
    /// merge into the card without the flush log; a power cut meanwhile can tear root
    #[argh(switch)]
    pub direct: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Makes everything durable that was written until now.
pub fn run(json: bool, direct: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    refuse_in_doubt("flush")?;
    let goal = Goal { direct, ..Goal::default() };
    let session = begin("flush", refuse_in_doubt, PATIENCE, &config, &mut signals);
    let mut session =
        counted(session.and_then(|session| session.forgetting(direct).settled(goal)))?;
    let outcome = counted(session.flush(FlushOptions { direct, ..FlushOptions::default() }))?;
    // A flush by hand keeps what was on trial.
    let kept = hold::end();
    let (did, nothing) = words(kept);
    print(session, &outcome, json, did, nothing)
}

/// What the command says after a flush, and when there was nothing to flush. `kept`: it ended a
/// hold.
fn words(kept: bool) -> (&'static str, &'static str) {
    match kept {
        true => ("ended the hold, flushed", "ended the hold: the card is up to date"),
        false => ("flushed", "nothing to flush: the card is up to date"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_ends_a_hold_says_so_even_if_nothing_was_held() {
        assert_eq!(
            words(true),
            ("ended the hold, flushed", "ended the hold: the card is up to date")
        );
        assert_eq!(words(false), ("flushed", "nothing to flush: the card is up to date"));
    }
}
