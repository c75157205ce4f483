//! Finds the flush log that belongs to root, and decides whether it counts.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cmdline::{LogChoice, Options};
use super::devices::{self, Candidate};
use super::superblock::{FLUSH_LOG, uuid_bytes};
use crate::error::{Error, Exit, Result};
use crate::log::chain::{End, Live};
use crate::log::format::Header;
use crate::ops::log::Log;
use crate::ops::log::make::Root;
use crate::report::progress::Meter;
use crate::sys::block;
use crate::sys::direct::Direct;

/// How long a log may take to appear that the command line names. It is usually on the card.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long what can't be read is tried again.
const CONTACT: Duration = Duration::from_secs(5);

/// What there is.
pub enum Found {
    /// No log.
    None,
    /// One that belongs to this root.
    Log {
        /// Its partition.
        partition: Candidate,
        /// It, verified.
        log: Box<Log>,
        /// What it holds for root.
        live: Vec<Live>,
    },
    /// One that can't be read now. It is the stack's log all the same, so that nothing is written past it.
    Unread {
        /// Its partition.
        partition: Candidate,
        /// Why, and what to do.
        why: Error,
    },
    /// One that must not be used. It stays as it is.
    Kept {
        /// Its partition, or how it was asked for.
        name: String,
        /// Why, and what to do.
        why: Error,
    },
}

/// The root that a log on this card belongs to.
pub fn root_of(card: &Candidate) -> Root {
    let uuid = card.filesystem.as_ref().map_or([0; 16], |found| uuid_bytes(&found.uuid));
    Root { uuid, size: card.size }
}

/// Finds the log and verifies it; `news` gets what is worth knowing.
pub fn find(card: &Candidate, options: &Options, mut news: impl FnMut(&str)) -> Found {
    let (partition, named) = match &options.log {
        LogChoice::None => return unused(card),
        LogChoice::Own => match own(card) {
            Some(partition) => (partition, false),
            None => return Found::None,
        },
        LogChoice::At(reference) => {
            let begin = Instant::now();
            loop {
                if let Some(partition) = devices::find(reference).into_iter().next() {
                    break (partition, true);
                }
                if begin.elapsed() > PATIENCE {
                    let name = reference.to_string();
                    let why = Error::new(
                        format!("use the flush log cowflush.log={reference}"),
                        "no such device appeared",
                    )
                    .advise(
                        "Flushes that are only in the log are missing now, and it will not be \
                         applied any more once root was written to.",
                    );
                    return Found::Kept { name, why };
                }
                sleep(Duration::from_millis(50));
            }
        }
    };
    match judge(card, &partition, named, &mut news) {
        Ok((log, live)) => Found::Log { partition, log: Box::new(log), live },
        Err(why) if why.exit_code() == Exit::Card => Found::Unread { partition, why },
        Err(why) => Found::Kept { name: partition.name, why },
    }
}

/// Not using a log that holds something is what was asked for, but it is no small thing.
fn unused(card: &Candidate) -> Found {
    match own(card) {
        Some(partition) if Log::look(&partition.path()).is_ok_and(|log| !log.is_unused()) => {
            let why = Error::new(
                format!("see the flushes that are only in the log on {}", partition.name),
                "cowflush.log=none is on the kernel command line",
            )
            .advise(KEPT);
            Found::Kept { name: partition.name, why }
        }
        _ => Found::None,
    }
}

/// The partition whose log was made for this root; first those on the same disk, since a copied
/// card has a copied log. Without one, a log that can't be read: it may be this root's, and what
/// is in it must not be passed over in silence.
fn own(card: &Candidate) -> Option<Candidate> {
    let (root, disk) = (root_of(card), block::disk_of(card.number));
    let (mut candidates, mut unreadable) = (devices::candidates(), None);
    candidates.sort_by_key(|candidate| block::disk_of(candidate.number) != disk);
    for candidate in candidates {
        let known = candidate.filesystem.as_ref().map(|found| found.kind);
        // A log whose first copy of the header is damaged looks like nothing.
        let possible = known.is_none_or(|kind| kind == FLUSH_LOG);
        if !possible || candidate.number == card.number {
            continue;
        }
        match Log::header_at(&candidate.path()) {
            Ok(header) if belongs(&header, root) => return Some(candidate),
            Err(_) if known.is_some() => unreadable = unreadable.or(Some(candidate)),
            _ => {}
        }
    }
    unreadable
}

fn belongs(header: &Header, root: Root) -> bool {
    header.root_uuid == root.uuid && header.root_sectors == root.size.0
}

/// Reads a log and its data. What can't be read is tried for a while: it may be a contact.
fn read(path: &Path) -> Result<(Log, Vec<Live>)> {
    let begin = Instant::now();
    loop {
        // A card that takes no writes can be read.
        let log = Log::open(path).or_else(|_| Log::look(path));
        let read = log.map(|mut log| {
            let live = log.verify();
            (log, live)
        });
        let unreadable = match &read {
            Ok((log, _)) => log.hidden().is_some(),
            Err(error) => error.exit_code() == Exit::Card,
        };
        if !unreadable || begin.elapsed() > CONTACT {
            return read;
        }
        sleep(Duration::from_millis(500));
    }
}

/// Whether the log at a partition counts for this root. What is damaged in it is cut off, and what can't be read
/// is left as it is. Fails with [`Exit::Card`] when that can't be told for want of reading.
fn judge(
    card: &Candidate,
    partition: &Candidate,
    named: bool,
    news: &mut impl FnMut(&str),
) -> Result<(Log, Vec<Live>)> {
    let path = partition.path();
    // What is mended here must be nobody's.
    let _claim = block::claim(&path)?;
    let ((mut log, live), root) = (read(&path)?, root_of(card));
    let what = || format!("use the flush log on {}", path.display());
    if !belongs(log.header(), root) {
        if !log.is_unused() || !named {
            return Err(Error::new(
                what(),
                format!("it belongs to another root than {}", card.name),
            )
            .advise(KEPT)
            .exit(Exit::Lost));
        }
        log.rebind(root)?;
        news(&format!("the empty flush log on {} now belongs to {}.", partition.name, card.name));
    }
    let fits = |log: &Log| log.fits(&mut Direct::open(&card.path())?);
    if !log.chain.segments.is_empty() && !fits(&log).map_err(|error| error.exit(Exit::Card))? {
        return Err(Error::new(
            what(),
            format!("{} was changed by somebody else since the last flush", card.name),
        )
        .advise(KEPT)
        .exit(Exit::Lost));
    }
    match (log.damage(), log.chain.end) {
        (Some(damage), _) => {
            news(&format!("{damage}."));
            // What was cut off must not count again when the log is read the next time.
            let cut = || -> Result<()> {
                let (mut nothing, mut root) = (Direct::open(&path)?, Direct::open(&card.path())?);
                log.append(&[], &mut nothing, &mut root, &mut |_| Ok(()))
            };
            if let Err(error) = { cut }().map_err(|error| error.advise("")) {
                // On a card that takes no writes nothing can be put over it either. What is intact counts.
                news(&format!(
                    "what is lost could not be cut off: {error} The flushes before that are used."
                ));
            }
        }
        (None, End::Unreadable { .. }) => {
            news(&format!(
                "{}. FLUSHES ARE REFUSED until it can.",
                log.hidden().unwrap_or_default()
            ));
            news(HIDDEN);
        }
        (None, End::Torn) => {
            news(&format!("in the flush log on {} {}.", partition.name, log.torn()))
        }
        _ => {}
    }
    if !log.whole {
        news(&format!(
            "one copy of the header of the log on {} is damaged or can't be read; the next merge mends it.",
            partition.name
        ));
    }
    Ok((log, live))
}

const HIDDEN: &str = "Writes stay in RAM, and nothing is written over what can't be read. Look for the card's errors in the \
                      kernel log (dmesg), and whether it sits well in its slot, then reboot. To go on without those \
                      flushes, for good: `cowflush flush --direct`.";

const KEPT: &str = "The log is kept as it is and not used. To keep root as it is now, and drop \
                    the log: `cowflush log format DEVICE --over cowflush-log`. To have the log's \
                    flushes instead, with root not mounted: `cowflush recover ROOT LOG --merge \
                    --force`.";

/// Merges the log into the card without device-mapper, before root is mounted without a stack.
pub fn apply(card: &Candidate, log: &mut Log, live: &[Live]) -> Result<()> {
    if live.is_empty() && log.is_unused() {
        return Ok(());
    }
    let (mut root, _claim) = (Direct::open_exclusive(&card.path())?, block::claim(log.path())?);
    log.apply(live, &mut root, &mut Meter::new())?;
    // What can't be read now is not dropped; with root written to it has to be decided about, at a later boot.
    if log.hidden().is_some() { Ok(()) } else { log.reset(live.len() as u64) }
}
