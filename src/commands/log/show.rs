//! `cowflush log`: shows what is in the flush log.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commands::status::text::log_trouble;
use crate::error::{Exit, Result};
use crate::flush::flushlog::FlushLog;
use crate::flush::status;
use crate::notes::{self, run_dir};
use crate::output::put;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::disk::filesystem::uuid_text;
use crate::pure::flushlog::chain::{Bad, ChainEnd};
use crate::pure::flushlog::records::Life;
use crate::pure::flushlog::segment::Segment;
use crate::pure::report::json::Object;
use crate::pure::units::{Bytes, Utc};
use crate::sys::dm::Control;
use crate::sys::lock;

const VERSION: u64 = 1;

/// Shows the log in use, or the one that the boot kept.
pub fn run(verify: bool, json: bool) -> Result<Exit> {
    let control = Control::open()?;
    let stack = control.stack()?;
    let (check, kept) = match stack.log_partition() {
        Some(log) => (status::check_log(&control, log, LOOK_FOR, verify), None),
        None => match kept_log() {
            // No process writes to a log that is not in use.
            Some((path, why)) => (status::LogCheck::plain(&path, verify), Some(why)),
            None => return none(json),
        },
    };
    let Some(state) = check.state() else {
        return Err(lock::busy(lock::holder(&control)));
    };
    let (log, bad) = match check.log {
        Ok(log) => (log, check.bad),
        Err(error) => {
            // The boot's reason says more about a log that is kept.
            let why = kept.unwrap_or_else(|| error.to_string());
            put(std::io::stderr(), &format!("cowflush: {why}\n"));
            // If the log no longer reads as one, what was in it is lost.
            let exit = error.exit_code();
            return Ok(if exit.may_be_intact() { exit } else { Exit::Lost });
        }
    };
    let mut text =
        if json { to_json(&log, kept.as_deref(), &bad) } else { to_text(&log, kept, &bad) };
    let differs = matches!(state, "ahead" | "behind");
    if differs && !json {
        text.push_str(&format!("\n{}{}\n", log.path().display(), log_trouble(state)));
    }
    put(std::io::stdout(), &text);
    let verdict = verdict(log.chain.end, &bad);
    Ok(if differs && verdict == Exit::Done { Exit::Card } else { verdict })
}

/// How long to wait for a moment in which no process writes to the log.
const LOOK_FOR: Duration = Duration::from_secs(10);

/// The exit code, from how the log ends and which of its chunks are damaged or can't be read.
pub fn verdict(end: ChainEnd, bad: &[Bad]) -> Exit {
    let hidden = |bad: &Bad| bad.unreadable;
    if matches!(end, ChainEnd::Damaged(_)) || !bad.iter().all(hidden) {
        Exit::Lost
    } else if matches!(end, ChainEnd::Unreadable { .. }) || bad.iter().any(hidden) {
        Exit::Card
    } else {
        Exit::Done
    }
}

/// How many chunks are damaged, and how many can't be read.
pub fn count(bad: &[Bad]) -> (u64, u64) {
    let unreadable = bad.iter().filter(|bad| bad.unreadable).count();
    (bad.len().saturating_sub(unreadable) as u64, unreadable as u64)
}

/// A log that the boot found and did not use, and why.
fn kept_log() -> Option<(PathBuf, String)> {
    let note = run_dir::read(run_dir::BOOT)?;
    let (name, why) = (notes::value(&note, "log"), notes::value(&note, "log_kept"));
    (!why.is_empty()).then(|| (Path::new("/dev").join(name), why.to_owned()))
}

fn none(json: bool) -> Result<Exit> {
    let text = if json {
        Object::new().number("version", VERSION).text("state", "none").end()
    } else {
        "There is no flush log: a power cut during a flush can tear root. `cowflush log --help` \
         tells how to add one."
            .to_owned()
    };
    put(std::io::stdout(), &format!("{text}\n"));
    Ok(Exit::Done)
}

fn bytes(chunks: u64) -> Bytes {
    Bytes(chunks.saturating_mul(CHUNK_BYTES as u64))
}

fn segment_word(segment: &Segment) -> &'static str {
    match segment.is_flush() {
        false => "boot",
        true if segment.committed => "committed",
        true => "complete",
    }
}

/// One segment as JSON.
pub fn segment_json(segment: &Segment) -> Object {
    let head = &segment.head;
    Object::new()
        .number("sequence", head.sequence)
        .signed("when", head.when)
        .number("chunks", u64::from(head.count))
        .number("bytes", bytes(u64::from(head.count)).0)
        .text("state", segment_word(segment))
}

fn to_json(log: &FlushLog, kept: Option<&str>, bad: &[Bad]) -> String {
    let (damaged, unreadable) = count(bad);
    let (header, chain) = (log.header(), &log.chain);
    let object = Object::new()
        .number("version", VERSION)
        .text("state", if kept.is_some() { "kept" } else { "in-use" })
        .text("reason", kept.unwrap_or_default())
        .text("device", &log.path().display().to_string())
        .text("uuid", &uuid_text(&header.uuid))
        .text("root_uuid", &uuid_text(&header.root_uuid))
        .number("size", bytes(chain.ring.length).0)
        .number("used", bytes(chain.used()).0)
        .number("wear_position", bytes(chain.ring.chunk(chain.next.position)).0)
        .number("wear_rounds", chain.next.position / chain.ring.length.max(1))
        .flag("header_whole", log.whole)
        .text("end", chain.end.word())
        .number("damaged_chunks", damaged)
        .number("unreadable_chunks", unreadable)
        .list("segments", chain.segments.iter().map(segment_json))
        .object("life", Some(life_json(&log.life())));
    format!("{}\n", object.end())
}

/// Figures over a log's life as JSON.
pub fn life_json(life: &Life) -> Object {
    Object::new()
        .signed("made", life.made)
        .number("segments", life.segments)
        .number("bytes", bytes(life.chunks).0)
        .number("merges", life.merges)
        .number("merged", bytes(life.merged).0)
}

fn to_text(log: &FlushLog, kept: Option<String>, bad: &[Bad]) -> String {
    let chain = &log.chain;
    let ring = chain.ring;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("flush log", format!("{}, {}", log.path().display(), bytes(ring.length)));
    line("state", kept.unwrap_or_else(|| "in use".to_owned()));
    line("used", format!("{} ({} %)", bytes(chain.used()), log.used_percent()));
    let position = ring.chunk(chain.next.position);
    let rounds = chain.next.position / ring.length.max(1);
    line("position", format!("chunk {position}, round {} through the ring", rounds + 1));
    line("life", log.life().sentence());
    match chain.end {
        ChainEnd::Clean => {}
        ChainEnd::Torn => line("end", log.torn().to_owned()),
        ChainEnd::Damaged(_) => line("DAMAGED", log.damage().unwrap_or_default()),
        ChainEnd::Unreadable { .. } => line("UNREADABLE", log.hidden().unwrap_or_default()),
    }
    if !log.whole {
        line("DAMAGED", "one of the two copies of the header; the next merge mends it".to_owned());
    }
    for bad in bad {
        let word = if bad.unreadable { "UNREADABLE" } else { "DAMAGED" };
        line(word, format!("the data at chunk {}", bad.place));
    }
    if !chain.segments.is_empty() {
        let _ = writeln!(
            text,
            "\n{:>8}  {:<23}  {:>7}  {:>10}  state",
            "flush", "time", "chunks", "bytes"
        );
    }
    for segment in &chain.segments {
        let head = &segment.head;
        let _ = writeln!(
            text,
            "{:>8}  {:<23}  {:>7}  {:>10}  {}",
            head.sequence,
            Utc(head.when).to_string(),
            head.count,
            bytes(u64::from(head.count)).to_string(),
            segment_word(segment)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::flushlog::chain::{Damage, DamagedPart};

    const WRONG: Bad = Bad { place: 7, unreadable: false };
    const HIDDEN: Bad = Bad { place: 8, unreadable: true };

    #[test]
    fn damage_is_told_wherever_it_is_and_a_flush_that_was_cut_short_is_none() {
        let damaged = ChainEnd::Damaged(Damage { chunk: 9, what: DamagedPart::Head, youngest: 3 });
        for end in [ChainEnd::Clean, ChainEnd::Torn] {
            assert_eq!(verdict(end, &[]), Exit::Done);
            assert_eq!(verdict(end, &[WRONG]), Exit::Lost, "found by --verify");
            assert_eq!(verdict(end, &[HIDDEN]), Exit::Card, "found by --verify");
            assert_eq!(verdict(end, &[HIDDEN, WRONG]), Exit::Lost);
        }
        let unreadable = ChainEnd::Unreadable { chunk: 9, youngest: None };
        assert_eq!(verdict(damaged, &[HIDDEN]), Exit::Lost);
        assert_eq!(verdict(unreadable, &[]), Exit::Card);
        assert_eq!(verdict(unreadable, &[WRONG]), Exit::Lost);
        assert_eq!(count(&[HIDDEN, WRONG, HIDDEN]), (1, 2));
        let words = [ChainEnd::Clean, ChainEnd::Torn, damaged, unreadable].map(ChainEnd::word);
        assert_eq!(words, ["clean", "torn", "damaged", "unreadable"]);
    }
}
