//! `cowflush flush`, `stop` and `start`.

use std::time::{Duration, Instant};

use crate::commands::config;
use crate::commands::hold::{refuse_in_doubt, refuse_while_held};
use crate::put;
use cowflush::error::{Doing, Exit, Result};
use cowflush::flush::prune::Pruned;
use cowflush::flush::session::{How, Outcome, Session};
use cowflush::flush::settle::Settled;
use cowflush::notes::{daemon_note, hold, run_dir, settings, spill, swaps};
use cowflush::output::syslog;
use cowflush::pure::config::Config;
use cowflush::pure::report::json::Object;
use cowflush::pure::report::record::Record;
use cowflush::pure::stack::{Mode, Wish};
use cowflush::sys::block;
use cowflush::sys::dm::Control;
use cowflush::sys::signals::{self, Held};
use nix::sys::signal::Signal;

/// `cowflush flush`.
pub fn flush(json: bool, direct: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    refuse_in_doubt("flush")?;
    let wish = Wish { direct, ..Wish::default() };
    let session = begin("flush", refuse_in_doubt, PATIENCE, &config, &mut signals);
    let mut session =
        counted(session.and_then(|session| session.forgetting(direct).settled(wish)))?;
    let outcome = counted(session.flush(How { direct, ..How::default() }))?;
    // Asked for by hand: what was on trial is kept.
    let kept = hold::end();
    let (did, nothing) = words(kept);
    tell(session, &outcome, json, did, nothing)
}

/// What a flush says if it flushed something, and if there was nothing to flush. `kept`: it ended a hold.
fn words(kept: bool) -> (&'static str, &'static str) {
    match kept {
        true => ("ended the hold, flushed", "ended the hold: the card is up to date"),
        false => ("flushed", "nothing to flush: the card is up to date"),
    }
}

/// `cowflush merge`.
pub fn merge(json: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP], &[])?;
    let config = config();
    refuse_while_held("merge")?;
    let (session, merged) =
        begin("merge", refuse_while_held, PATIENCE, &config, &mut signals)?.merged()?;
    let card = card(&session)?;
    drop(session);
    let Settled {
        merged: bytes, merging: time, log_pruned: Pruned { bytes: pruned, refused }, ..
    } = merged.unwrap_or_default();
    let millis = time.as_millis() as u64;
    let text = if json {
        let object = Object::new()
            .text("card", &card)
            .number("merged", bytes.0)
            .number("merge_ms", millis)
            .number("pruned", pruned.0)
            .text("not_pruned", refused.unwrap_or_default());
        object.end()
    } else if merged.is_some() {
        let mut text = format!("merged the flush log into {card}: {bytes} in {millis} ms");
        if pruned.0 > 0 {
            text.push_str(&format!(", {pruned} pruned"));
        }
        log_once(&text);
        text
    } else {
        "nothing to merge: the flush log is empty, or there is none".to_owned()
    };
    put(std::io::stdout(), &format!("{text}\n"));
    Ok(Exit::Done)
}

/// `cowflush stop`. A shutdown sends SIGTERM and SIGHUP to everybody; that must not end it.
pub fn stop(json: bool) -> Result<Exit> {
    let mut signals = signals::hold(&[Signal::SIGINT], &[])?;
    let config = config();
    refuse_while_held("stop")?;
    let session = begin("stop", refuse_while_held, PATIENCE, &config, &mut signals);
    let mut session = counted(session.and_then(Session::settled_anyhow))?;
    let outcome = counted(session.stop())?;
    // Nothing is in RAM that the spill area could take. A daemon puts the rest back itself, unless it was killed.
    settings::restore(&[settings::SWAPPINESS]);
    if daemon_note::running().is_none() {
        settings::restore(&settings::dirty());
    }
    let mut said = Vec::new();
    swaps::bring_back(&mut |text| said.push(text.to_owned()));
    let told =
        tell(session, &outcome, json, "stopped, flushed", "stopped already: writes go to the card");
    // Without the lock, as all that somebody reads.
    for text in said {
        put(std::io::stderr(), &format!("cowflush: {text}\n"));
        syslog::notice(&text);
    }
    told
}

/// `cowflush start`.
pub fn start() -> Result<Exit> {
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
    let mut session = begin("start", refuse_while_held, PATIENCE_OF_START, &config, &mut signals)?
        .settled(Wish::default())?;
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

/// For how long a command waits while another is at work, as the daemon in a flush, which ends by itself: so that no script
/// has to ask again and again. A slow card takes minutes to merge a full flush log.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same for `start`: systemd gives a service's start 90 seconds.
const PATIENCE_OF_START: Duration = Duration::from_secs(60);

/// Takes the lock for a command, as soon as others have ended, and says that it waits. Whether it `may` be run is asked
/// again after that: a hold may have begun meanwhile.
fn begin<'a>(
    command: &'static str,
    may: fn(&'static str) -> Result<()>,
    patience: Duration,
    config: &'a Config,
    signals: &'a mut Held,
) -> Result<Session<'a>> {
    let (since, mut told) = (Instant::now(), false);
    let session = Session::begin(command, config, signals, &mut |busy| {
        if !std::mem::replace(&mut told, true) {
            let text = format!("{}; {command} waits for its end", busy.cause());
            put(std::io::stderr(), &format!("cowflush: {text}\n"));
        }
        since.elapsed() < patience
    })?;
    may(command)?;
    Ok(session)
}

/// Counts a flush that failed.
fn counted<T>(result: Result<T>) -> Result<T> {
    result.inspect_err(|error| {
        if error.exit_code().is_failure() {
            run_dir::note_failure();
        }
    })
}

fn card(session: &Session<'_>) -> Result<String> {
    Ok(session.stack()?.card().map_or_else(String::new, |(card, _)| block::name(card)))
}

fn tell(
    session: Session<'_>,
    outcome: &Outcome,
    json: bool,
    did: &str,
    nothing: &str,
) -> Result<Exit> {
    let (card, log) = (card(&session)?, session.stack()?.log_partition());
    // Whoever reads this may be slow, or wait for root: the next flush must not wait for them.
    drop(session);
    let record = outcome.record();
    let complaints = outcome.complaints();
    let mut text = match record {
        Some(record) => {
            let to = match log {
                Some(log) if record.logged.0 > 0 => format!("the log on {}", block::name(log)),
                _ => card.clone(),
            };
            let mut text = format!("{did} to {to}: {record}");
            if record.logged.0 > 0 && record.merged.0 > 0 {
                text.push_str(&format!("; merged {} into {card}", record.merged));
            }
            text
        }
        // That nothing was left to be done is no news where something is wrong.
        None if outcome.incomplete().is_some() => String::new(),
        None => nothing.to_owned(),
    };
    text.push_str(&complaints);
    let text = text.trim_start();
    if json && (record.is_some() || !complaints.is_empty()) {
        syslog::notice(text);
    } else if record.is_some() || !complaints.is_empty() {
        log_once(text);
    }
    if outcome.exit().is_failure() {
        run_dir::note_failure();
    }
    if json {
        let json = Object::new()
            .text("card", &card)
            .flag("complete", outcome.incomplete().is_none())
            .text("refused", outcome.refused().unwrap_or_default())
            .object("flush", record.map(Record::to_json));
        put(std::io::stdout(), &format!("{}\n", json.end()));
    } else {
        put(std::io::stdout(), &format!("{text}\n"));
    }
    Ok(outcome.exit())
}

/// Logs what is printed as well, unless the log has it by that.
fn log_once(text: &str) {
    if !syslog::has(std::io::stdout()) {
        syslog::notice(text);
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
