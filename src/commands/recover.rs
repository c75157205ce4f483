//! `cowflush recover`: applies a flush log offline.

use std::fs::File;
use std::io;

use argh::FromArgs;

use super::log::show::{count, segment_json};
use crate::error::{Doing, Error, Exit, Result};
use crate::flush::flushlog::{FlushLog, READ_AGAIN};
use crate::output::progress::Meter;
use crate::output::put;
use crate::pure::chunks::{CHUNK_BYTES, PIECE};
use crate::pure::disk::filesystem::uuid_bytes;
use crate::pure::flushlog::chain::{Bad, ChainEnd, Live};
use crate::pure::flushlog::fingerprint;
use crate::pure::report::json::Object;
use crate::pure::units::{Bytes, Utc};
use crate::sys::devices;
use crate::sys::disk::Disk;

/// Apply a flush log to a root offline: on any Linux machine, on devices or image files, without
/// device-mapper. Without an option it only looks.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "recover",
    example = "cowflush recover /dev/sdb1 /dev/sdb2             # look: what would a boot find?\n  cowflush recover /dev/sdb1 /dev/sdb2 --merge     # put it into root\n  cowflush recover root.img log.img --export new.img"
)]
pub struct Arguments {
    /// root's partition, or an image of it; not mounted
    #[argh(positional)]
    pub root: std::path::PathBuf,
    /// the flush log's partition, or an image of it
    #[argh(positional)]
    pub log: std::path::PathBuf,
    /// write the log's flushes into root, then empty the log
    #[argh(switch)]
    pub merge: bool,
    /// write a copy of root with the log's flushes to this new file
    #[argh(option)]
    pub export: Option<std::path::PathBuf>,
    /// apply the log although root was changed since, or is another
    #[argh(switch)]
    pub force: bool,
    /// only say what would be done
    #[argh(switch)]
    pub dry_run: bool,
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Whether a log may be applied to a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The log was made for this root, and root was not changed since.
    Fits,
    /// The log was made for another root.
    Foreign,
    /// Another system changed root since the last flush.
    Changed,
}

impl Fit {
    const fn word(self) -> &'static str {
        match self {
            Fit::Fits => "fits",
            Fit::Foreign => "foreign",
            Fit::Changed => "changed",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Fit::Fits => "the log belongs to this root, which is as the log expects it",
            Fit::Foreign => "the log belongs to another root",
            Fit::Changed => "root is not as its last flush left it",
        }
    }
}

/// Checks the log against root, and does what the options say.
pub fn run(wanted: &Arguments) -> Result<Exit> {
    if wanted.merge && wanted.export.is_some() {
        return Err(Error::new("recover", "--merge and --export exclude each other")
            .advise("Take one of them.")
            .exit(Exit::Usage));
    }
    let write = wanted.merge && !wanted.dry_run;
    let (mut log, mut root) = if write {
        // No other program may write to either meanwhile.
        (FlushLog::open_exclusive(&wanted.log)?, Disk::open_exclusive(&wanted.root)?)
    } else {
        (FlushLog::open_read_only(&wanted.log)?, Disk::open(&wanted.root)?)
    };
    let bad = log.verify_all();
    let live = log.verify();
    let fit = fit(&log, wanted, &mut root)?;
    report(wanted, &log, fit, &live, &bad);
    // A merge empties the log, so its end is clean afterwards; lost flushes stay lost.
    let end = log.chain.end;
    if wanted.merge || wanted.export.is_some() {
        act(wanted, &mut log, root, fit, &live)?;
    }
    Ok(verdict(end, fit, wanted.force))
}

/// The exit code. Lost flushes stay lost, whatever the options say.
fn verdict(end: ChainEnd, fit: Fit, force: bool) -> Exit {
    match (end, fit) {
        (ChainEnd::Damaged(_), _) => Exit::Lost,
        (ChainEnd::Unreadable { .. }, _) => Exit::Card,
        (_, Fit::Fits) => Exit::Done,
        _ if force => Exit::Done,
        _ => Exit::Failed,
    }
}

fn fit(log: &FlushLog, wanted: &Arguments, root: &mut Disk) -> Result<Fit> {
    let uuid = devices::identify(&wanted.root).map_or([0; 16], |found| uuid_bytes(&found.uuid));
    let (owner, size) = (log.owner(), root.size().sectors());
    // The UUID decides, however large the partition is by now. A merge that was cut short may have
    // torn the superblock, so that no UUID can be read. And root may have another UUID by now, in
    // which case its fingerprint decides.
    let same = if uuid == [0; 16] { owner.size == size } else { owner.uuid == uuid };
    let fits = log.fits(root)?;
    let proven =
        fits && owner.size == size && !fingerprint::watched(&log.chain.segments).is_empty();
    Ok(match (same || proven, fits) {
        (false, _) => Fit::Foreign,
        (true, true) => Fit::Fits,
        (true, false) => Fit::Changed,
    })
}

fn bytes(live: &[Live]) -> Bytes {
    Bytes((live.len() * CHUNK_BYTES) as u64)
}

fn report(wanted: &Arguments, log: &FlushLog, fit: Fit, live: &[Live], bad: &[Bad]) {
    let (damaged, unreadable) = count(bad);
    let chain = &log.chain;
    let text = if wanted.json {
        Object::new()
            .number("version", 1)
            .text("fit", fit.word())
            .text("end", chain.end.word())
            .number("damaged_chunks", damaged)
            .number("unreadable_chunks", unreadable)
            .number("to_merge", bytes(live).0)
            .list("segments", chain.segments.iter().map(segment_json))
            .end()
    } else {
        let mut text =
            format!("{} flushes in the log, {} to merge; ", log.flushes().count(), bytes(live));
        text.push_str(fit.sentence());
        if let Some(last) = log.flushes().next_back() {
            let (sequence, when) = (last.head.sequence, Utc(last.head.when));
            text.push_str(&format!("\nthe last is flush {sequence} of {when}"));
        }
        match chain.end {
            ChainEnd::Clean => {}
            ChainEnd::Torn => text.push_str(&format!("\n{}", log.torn())),
            ChainEnd::Damaged(_) => {
                text.push_str(&format!("\nLOST: {}", log.damage().unwrap_or_default()));
            }
            ChainEnd::Unreadable { .. } => {
                text.push_str(&format!("\nUNREADABLE: {}", log.hidden().unwrap_or_default()));
            }
        }
        for bad in bad {
            let word = if bad.unreadable { "unreadable" } else { "damaged" };
            text.push_str(&format!("\n{word}: chunk {} of the log", bad.place));
        }
        text
    };
    put(io::stdout(), &format!("{text}\n"));
}

fn act(
    wanted: &Arguments,
    log: &mut FlushLog,
    mut root: Disk,
    fit: Fit,
    live: &[Live],
) -> Result<()> {
    if fit != Fit::Fits && !wanted.force {
        return Err(Error::new(
            format!("apply {} to {}", wanted.log.display(), wanted.root.display()),
            fit.sentence(),
        )
        .advise("Nothing was written. --force replaces what is there with the log's flushes."));
    }
    // A merge empties the log, and flushes that can be read tomorrow would be gone.
    if let (true, false, Some(hidden)) = (wanted.merge, wanted.force, log.hidden()) {
        return Err(Error::new(format!("apply {}", wanted.log.display()), hidden)
            .advise(format!(
                "{READ_AGAIN} --export copies root with what can be read; --force merges that, and drops the rest."
            ))
            .exit(Exit::Card));
    }
    if wanted.dry_run {
        say(wanted, &format!("would write {}", bytes(live)));
        return Ok(());
    }
    let mut meter = Meter::new();
    match &wanted.export {
        Some(export) => {
            let name = export.display();
            let size = root.size().0;
            File::create_new(export)
                .and_then(|file| file.set_len(size))
                .doing(|| format!("make {name}"))?;
            Disk::open_writable(export)
                .and_then(|mut copy| {
                    copy_into(&mut root, &mut copy)?;
                    log.apply(live, &mut copy, &mut meter)
                })
                .map_err(|error| {
                    error.advise(format!("{name} is not complete: delete it, then try again."))
                })?;
            say(wanted, &format!("wrote {name}: root with {} of the log", bytes(live)));
        }
        None => {
            log.apply(live, &mut root, &mut meter)
                .and_then(|()| log.reset(live.len() as u64))
                .map_err(|error| error.advise(HALF_MERGED))?;
            say(wanted, &format!("merged {} into {}", bytes(live), wanted.root.display()));
        }
    }
    Ok(())
}

/// The log is emptied last, so until then the merge can be repeated.
const HALF_MERGED: &str = "Root may be half merged, so don't mount it. The log is kept: run the same \
    again, on copies of both (ddrescue) if the card is dying.";

/// Copies root to an empty file of the same size, and leaves out what is zero.
fn copy_into(root: &mut Disk, copy: &mut Disk) -> Result<()> {
    let mut buffer = vec![0; PIECE * CHUNK_BYTES];
    let end = root.size().0.div_ceil(CHUNK_BYTES as u64);
    for chunk in (0..end).step_by(PIECE) {
        root.read_at(chunk, &mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            copy.write_at(chunk, &buffer)?;
        }
    }
    Ok(())
}

/// Prints a line, unless JSON is printed, which has the same.
fn say(wanted: &Arguments, text: &str) {
    if !wanted.json {
        put(io::stdout(), &format!("{text}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::flushlog::chain::{Damage, DamagedPart};

    #[test]
    fn a_damaged_log_and_one_that_does_not_fit_never_end_with_0() {
        let damaged = ChainEnd::Damaged(Damage { chunk: 9, what: DamagedPart::Data, youngest: 3 });
        let unreadable = ChainEnd::Unreadable { chunk: 9, youngest: None };
        for force in [false, true] {
            for end in [ChainEnd::Clean, ChainEnd::Torn] {
                assert_eq!(verdict(end, Fit::Fits, force), Exit::Done);
                for fit in [Fit::Foreign, Fit::Changed] {
                    let wanted = if force { Exit::Done } else { Exit::Failed };
                    assert_eq!(verdict(end, fit, force), wanted, "{fit:?}");
                }
            }
            for fit in [Fit::Fits, Fit::Foreign, Fit::Changed] {
                assert_eq!(verdict(damaged, fit, force), Exit::Lost, "{fit:?}");
                assert_eq!(verdict(unreadable, fit, force), Exit::Card, "{fit:?}");
            }
        }
    }
}
