//! Finds the flush log that belongs to root, and decides whether it counts. The decision itself is
//! [`ownership`]'s.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::{self, FlushLog, Sought};
use crate::output::progress::Meter;
use crate::pure::cmdline::{LogChoice, Options};
use crate::pure::disk::filesystem::{self, FLUSH_LOG, Filesystem, uuid_bytes, uuid_text};
use crate::pure::disk::reference::Reference;
use crate::pure::flushlog::chain::{ChainEnd, Live};
use crate::pure::flushlog::fingerprint;
use crate::pure::flushlog::ownership::{self, Choice, Fit, Holds, Owner, Place};
use crate::pure::units::{DevNo, Sectors};
use crate::sys::block;
use crate::sys::devices::{self, Candidate};
use crate::sys::disk::Disk;
use crate::sys::time::{Instant, pause};

/// How long a named log may take to appear. It may be on another, slower disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long what can't be read is tried again.
const CONTACT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// What a boot found of a flush log.
pub enum FoundLog {
    /// No log.
    None,
    /// A log that belongs to this root.
    Log {
        /// Its partition.
        partition: Candidate,
        /// The log, verified.
        log: Box<FlushLog>,
        /// What it holds for root.
        live: Vec<Live>,
    },
    /// A log that can't be read now. The stack has it as its log all the same, so that nothing is
    /// written past it.
    Unread {
        /// Its partition.
        partition: Candidate,
        /// Why, and what to do.
        why: Error,
    },
    /// A log that must not be used. It stays as it is.
    Kept {
        /// Its partition, or how it was asked for.
        name: String,
        /// Why, and what to do.
        why: Error,
        /// Whether the log may have flushes that fit root as it is: nothing may be flushed until
        /// the owner has decided.
        open: bool,
    },
}

impl FoundLog {
    /// Whether there may be flushes of root that can't be read now. A later boot may read them,
    /// unless root is written to.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::None => false,
            Self::Log { log, .. } => log.hidden().is_some(),
            Self::Unread { .. } => true,
            Self::Kept { open, .. } => *open,
        }
    }
}

/// A partition that has a log, or may have one.
struct Seen {
    partition: Candidate,
    what: ownership::Candidate,
    found: Sought,
    /// Whether the log has flushes for another partition with root's UUID.
    elsewhere: bool,
}

/// Finds the log and verifies it. `news` is called with what people should know. Sets the
/// filesystem of `card` to what it is when read through the log.
pub fn find(card: &mut Candidate, options: &Options, mut news: impl FnMut(&str)) -> FoundLog {
    let named = match &options.log {
        LogChoice::At(reference) => match wait_for(reference) {
            Some(named) => named,
            None => return missing(card, reference),
        },
        _ => Vec::new(),
    };
    let begin = Instant::now();
    let (mut seen, nothing) = loop {
        let looked = search(card, &named);
        // It may be a bad contact.
        if begin.elapsed() > CONTACT || !looked.0.iter().any(Seen::is_unreadable) {
            break looked;
        }
        pause(PAUSE);
    };
    if options.log == LogChoice::None {
        return unused(&seen);
    }
    for other in seen.iter().filter(|seen| seen.elsewhere) {
        news(&format!(
            "the flush log on {} has flushes for another partition with root's UUID: it is not looked at.",
            other.partition.name
        ));
    }
    let whats: Vec<_> = seen.iter().map(|seen| seen.what).collect();
    let choice = ownership::choose(&whats);
    if let Choice::Use(index) | Choice::Changed(index) | Choice::Foreign(index) = &choice {
        let mut others = of_root(&seen);
        others.retain(|other| other != index);
        if !others.is_empty() {
            news(&format!(
                "{} may have flushes of {}, too: kept as it is, and not used.",
                names(&seen, &others),
                card.name
            ));
        }
    }
    match &choice {
        Choice::None => match nothing {
            Some((name, why)) => FoundLog::Kept { name, why, open: false },
            None => FoundLog::None,
        },
        Choice::Use(index) => {
            let Seen { partition, found: Sought::Log(log), .. } = seen.swap_remove(*index) else {
                return FoundLog::None;
            };
            let name = partition.name.clone();
            match take(card, partition, log, &mut news) {
                Ok(found) => found,
                // It may be whole, and readable at the next boot.
                Err(why) => FoundLog::Kept { name, why, open: true },
            }
        }
        Choice::Foreign(index) | Choice::Changed(index) => {
            let (name, why) = kept(card, &seen, *index, matches!(choice, Choice::Foreign(_)));
            FoundLog::Kept { name, why, open: false }
        }
        Choice::Ambiguous(all) => {
            let name = name_of(&seen, all.first());
            let why = Error::new(
                format!("tell which flush log is that of {}", card.name),
                format!("it may be {}", names(&seen, all)),
            )
            .advise(DECIDE);
            FoundLog::Kept { name, why, open: true }
        }
        Choice::Unclear(all) => {
            let (name, all_names) = (name_of(&seen, all.first()), names(&seen, all));
            let one = match all.as_slice() {
                &[index] => Some(seen.swap_remove(index)),
                _ => None,
            };
            let why = match one {
                Some(Seen { partition, found: Sought::Newer(_, why), .. }) => {
                    return FoundLog::Unread { partition, why };
                }
                Some(Seen { partition, what, found: Sought::Unclear(why), .. }) => {
                    // By its name or its mark it is certainly root's log, but it can't be read now.
                    let known = what.named || what.holds == (Holds::Unclear { marked: true });
                    if known && why.exit_code() == Exit::Card {
                        return FoundLog::Unread { partition, why };
                    }
                    why
                }
                _ => unclear(card, &all_names),
            };
            FoundLog::Kept { name, why: why.advise(DECIDE), open: true }
        }
    }
}

impl Seen {
    /// Whether it can't be read now and may be root's log.
    fn is_unreadable(&self) -> bool {
        (self.what.near || self.what.named)
            && match &self.found {
                Sought::Unclear(why) => why.exit_code() == Exit::Card,
                Sought::Log(log) => log.hidden().is_some(),
                Sought::Nothing | Sought::Newer(..) => false,
            }
    }
}

/// Waits until a name matches a device, and returns all devices that it matches.
fn wait_for(reference: &Reference) -> Option<Vec<DevNo>> {
    let begin = Instant::now();
    loop {
        let found = devices::find(reference);
        if !found.is_empty() {
            return Some(found.iter().map(|found| found.number).collect());
        }
        if begin.elapsed() > PATIENCE {
            return None;
        }
        pause(Duration::from_millis(50));
    }
}

fn missing(card: &Candidate, reference: &Reference) -> FoundLog {
    let (seen, _) = search(card, &[]);
    let own = of_root(&seen);
    let mut cause = "no such device appeared".to_owned();
    if !own.is_empty() {
        cause.push_str(&format!("; of {} is {}", card.name, names(&seen, &own)));
    }
    let why =
        Error::new(format!("use the flush log cowflush.log={reference}"), cause).advise(DECIDE);
    FoundLog::Kept { name: reference.to_string(), why, open: true }
}

/// The logs that have flushes of root, whether they fit it or not, or are damaged.
fn of_root(seen: &[Seen]) -> Vec<usize> {
    let own = |seen: &Seen| {
        matches!(seen.what.holds, Holds::Flushes(_) | Holds::Unclear { marked: true })
    };
    let all = seen.iter().enumerate();
    all.filter(|(_, seen)| own(seen)).map(|(index, _)| index).collect()
}

/// A log of a root, not on the partition `except`: its name, and whether it may have flushes.
/// Prefers one that may.
pub fn log_of(root: DevNo, except: Option<DevNo>) -> Option<(String, bool)> {
    let card = devices::candidates().into_iter().find(|found| found.number == root)?;
    let mut empty = None;
    for seen in search(&card, &[]).0 {
        let name = seen.partition.name;
        match seen.what.holds {
            _ if Some(seen.partition.number) == except => {}
            Holds::Flushes(_) => return Some((name, true)),
            Holds::Unclear { marked: true } if seen.what.near => return Some((name, true)),
            Holds::Empty => empty = Some((name, false)),
            _ => {}
        }
    }
    empty
}

/// The answer for `cowflush.log=none`: if a log of root holds flushes, the boot says so.
fn unused(seen: &[Seen]) -> FoundLog {
    let own = of_root(seen);
    if own.is_empty() {
        return FoundLog::None;
    }
    let why = Error::new(
        format!("see the flushes that are only in the log on {}", names(seen, &own)),
        "cowflush.log=none is on the kernel command line",
    )
    .advise(KEPT);
    FoundLog::Kept { name: name_of(seen, own.first()), why, open: false }
}

fn kept(card: &Candidate, seen: &[Seen], index: usize, foreign: bool) -> (String, Error) {
    let path = seen.get(index).map(|seen| seen.partition.path()).unwrap_or_default();
    // Its partition may stand where another root's did, or root was made anew.
    let other = seen.get(index).is_some_and(|seen| match &seen.found {
        Sought::Log(log) => log.owner().uuid != place(card).uuid,
        _ => false,
    });
    let why = if foreign || other {
        let what = format!("use the flush log on {}", path.display());
        Error::new(what, format!("it belongs to another root than {}", card.name))
            .advise(KEPT)
            .exit(Exit::Lost)
    } else {
        changed(card, &path)
    };
    (name_of(seen, Some(&index)), why)
}

fn changed(card: &Candidate, path: &Path) -> Error {
    Error::new(
        format!("use the flush log on {}", path.display()),
        format!("{} is not as its last flush left it", card.name),
    )
    .advise(KEPT)
    .exit(Exit::Lost)
}

fn unclear(card: &Candidate, names: &str) -> Error {
    Error::new(
        format!("tell whether there is a flush log of {}", card.name),
        format!("this can't be read, or not compared with root: {names}"),
    )
}

fn name_of(seen: &[Seen], index: Option<&usize>) -> String {
    index
        .and_then(|index| seen.get(*index))
        .map_or_else(String::new, |seen| seen.partition.name.clone())
}

/// `sda2 (3 flushes, UUID=…) or sdb2 (…)`.
fn names(seen: &[Seen], indexes: &[usize]) -> String {
    let name = |seen: &Seen| match &seen.found {
        Sought::Log(log) => format!(
            "{} ({} flushes, UUID={})",
            seen.partition.name,
            log.flushes().count(),
            uuid_text(&log.header().uuid)
        ),
        _ => seen.partition.name.clone(),
    };
    let names: Vec<_> = indexes.iter().filter_map(|index| seen.get(*index)).map(name).collect();
    names.join(" or ")
}

/// Where a partition is, as far as a log's header knows partitions.
fn place(candidate: &Candidate) -> Place {
    Place {
        disk: block::disk_of(candidate.number),
        start: block::start(candidate.number).unwrap_or_default(),
        size: candidate.size,
        uuid: candidate.filesystem.as_ref().map_or([0; 16], |found| uuid_bytes(&found.uuid)),
    }
}

fn is_log(candidate: &Candidate) -> bool {
    candidate.filesystem.as_ref().is_some_and(|found| found.kind == FLUSH_LOG)
}

/// All partitions that may be a log, and the named one that is not a log, with the reason.
fn search(card: &Candidate, named: &[DevNo]) -> (Vec<Seen>, Option<(String, Error)>) {
    let (mut seen, mut nothing) = (Vec::new(), None);
    let all = devices::candidates();
    let root = place(card);
    let others: Vec<_> = all
        .iter()
        .filter(|other| other.number != card.number && !is_log(other))
        .map(place)
        .collect();
    for partition in all {
        let named = named.contains(&partition.number);
        // A log whose first copy of the header is damaged has no known filesystem. A disk that root
        // is a part of can't be a log.
        let possible = partition.filesystem.is_none() || is_log(&partition);
        if partition.number == card.number
            || Some(partition.number) == root.disk
            || !(possible || named)
        {
            continue;
        }
        let path = partition.path();
        let (disk, found) = (block::disk_of(partition.number), FlushLog::seek(&path));
        let near = disk.is_some() && disk == root.disk;
        let (mut uuid, mut elsewhere) = ([0; 16], false);
        let holds = match &found {
            Sought::Nothing => {
                if named && let Err(why) = FlushLog::open_read_only(&path) {
                    nothing = Some((partition.name, why));
                }
                continue;
            }
            Sought::Unclear(_) => Holds::Unclear { marked: is_log(&partition) },
            Sought::Log(_) | Sought::Newer(..) => {
                let (header, log) = match &found {
                    Sought::Log(log) => (log.header(), Some(log)),
                    Sought::Newer(header, _) => (&**header, None),
                    _ => continue,
                };
                uuid = header.uuid;
                let owner = flushlog::owner(header);
                // Only a program that knows the log's format can tell that it has no flushes.
                let flushes = log.is_none_or(|log| log.has_flushes());
                // A named log is not compared with other roots.
                let others = if named { &[][..] } else { &others };
                let own = owner.is(disk, &root, others);
                let home = owner.is_at_home(disk, others);
                elsewhere = !own && flushes && home && owner.uuid == root.uuid;
                let provable = named || owner.may_be_proven(disk, &root, others);
                match log {
                    _ if !flushes && (own || named) => Holds::Empty,
                    None if own || provable => Holds::Flushes(Fit::Unknown),
                    Some(log) if flushes && own => Holds::Flushes(fit(log, card)),
                    Some(log) if flushes && provable && proves(log, card) => {
                        Holds::Flushes(Fit::Fits)
                    }
                    _ => Holds::Foreign,
                }
            }
        };
        let what = ownership::Candidate { uuid, near, named, holds };
        seen.push(Seen { partition, what, found, elsewhere });
    }
    (seen, nothing)
}

fn fit(log: &FlushLog, card: &Candidate) -> Fit {
    // Judged by the card's own superblock: `card` may have been found through the log.
    let torn = log.owner().is_known_at(&place(card)) && devices::identify(&card.path()).is_none();
    let fit = Disk::open(&card.path()).and_then(|mut root| log.fit(&mut root, torn));
    fit.unwrap_or(Fit::Unknown)
}

/// Whether root's superblock is as the log's flushes know it, which proves that the log is root's,
/// whatever its header says.
fn proves(log: &FlushLog, card: &Candidate) -> bool {
    !fingerprint::watched(&log.chain.segments).is_empty()
        && Disk::open(&card.path()).and_then(|mut root| log.fits(&mut root)).unwrap_or(false)
}

/// Finds root through the logs, where no device matches `reference`: a merge that was cut short may
/// have torn the superblock, or it is older than what the log holds.
pub fn find_root(reference: &Reference) -> Vec<Candidate> {
    let all = devices::candidates();
    let mut roots: Vec<Candidate> = Vec::new();
    for partition in all.iter().filter(|found| found.filesystem.is_none() || is_log(found)) {
        let Sought::Log(mut log) = FlushLog::seek(&partition.path()) else { continue };
        if log.chain.segments.is_empty() {
            continue;
        }
        let (disk, owner) = (block::disk_of(partition.number), log.owner());
        let others: Vec<_> = all.iter().filter(|other| !is_log(other)).map(place).collect();
        for card in &all {
            let place = place(card);
            let near = disk.is_some() && place.disk == disk;
            // On another disk, only a log that does not know root's place.
            let possible = if near {
                owner.is(disk, &place, &[])
            } else {
                owner.may_be_proven(disk, &place, &others)
            };
            if is_log(card)
                || Some(card.number) == disk
                || !possible
                || roots.iter().any(|root| root.number == card.number)
            {
                continue;
            }
            let fits = if near { fit(&log, card) == Fit::Fits } else { proves(&log, card) };
            let mut root = card.clone();
            root.filesystem = filesystem(&mut log, card);
            if fits && root.fits_filesystem(reference) {
                roots.push(root);
            }
        }
    }
    roots
}

/// The filesystem that root has when it is read through the log.
fn filesystem(log: &mut FlushLog, card: &Candidate) -> Option<Filesystem> {
    let mut root = Disk::open(&card.path()).ok()?;
    // The first chunk is enough for most filesystems, and a card may be slow.
    let first = filesystem::identify(&log.head_of(&mut root, fingerprint::HEAD_BYTES));
    first.or_else(|| filesystem::identify(&log.head_of(&mut root, filesystem::HEAD_BYTES)))
}

/// Takes the log into use.
fn take(
    card: &mut Candidate,
    partition: Candidate,
    mut log: Box<FlushLog>,
    news: &mut impl FnMut(&str),
) -> Result<FoundLog> {
    let path = partition.path();
    // No other program may use the log while it is repaired here.
    let _claim = block::claim(&path)?;
    // A write-protected card can be read; a write that is needed reports the failure.
    let _ = log.make_writable();
    let before = log.chain.segments.len();
    let begin = Instant::now();
    let live = loop {
        let live = log.verify();
        // It may be a contact.
        if log.hidden().is_none() || begin.elapsed() > CONTACT {
            break live;
        }
        pause(PAUSE);
        // What was cut off has to be read again.
        if let Sought::Log(mut again) = FlushLog::seek(&path) {
            let _ = again.make_writable();
            log = again;
        }
    };
    // What was cut off may have been merged in part.
    if log.chain.segments.len() < before {
        match fit(&log, card) {
            Fit::Fits => {}
            Fit::Changed => return Err(changed(card, &path)),
            Fit::Unknown => return Err(unclear(card, &partition.name).advise(DECIDE)),
        }
    }
    match (log.damage(), log.chain.end) {
        (Some(damage), _) => {
            news(&format!("{damage}."));
            // What was cut off must not count again when the log is read the next time.
            let cut = || -> Result<()> {
                let (mut nothing, mut root) = (Disk::open(&path)?, Disk::open(&card.path())?);
                log.append(&[], &mut nothing, &mut root, &mut |_| Ok(()))
            };
            if let Err(error) = { cut }().map_err(|error| error.advise("")) {
                // On a write-protected card nothing can be written over it either, so what is
                // intact counts.
                news(&format!(
                    "what is lost could not be cut off: {error} The flushes before that are used."
                ));
            }
        }
        (None, ChainEnd::Unreadable { .. }) => {
            news(&format!(
                "{}. FLUSHES ARE REFUSED until it can.",
                log.hidden().unwrap_or_default()
            ));
            news(HIDDEN);
        }
        (None, ChainEnd::Torn) => {
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
    if !live.is_empty()
        && let Some(found) = filesystem(&mut log, card)
    {
        card.filesystem = Some(found);
    }
    rebind(card, &partition, &mut log, news);
    Ok(FoundLog::Log { partition, log, live })
}

/// Writes root's present place and UUID into the header. If that fails the old header will do: the
/// log was found by it.
fn rebind(
    card: &Candidate,
    partition: &Candidate,
    log: &mut FlushLog,
    news: &mut impl FnMut(&str),
) {
    let before = log.owner();
    let now = place(card).as_owner_of(block::disk_of(partition.number), before.uuid);
    if before == now {
        return;
    }
    match log.rebind(now) {
        // A log that was made in an image only learns where root is, which is not worth a message.
        Ok(())
            if before == (Owner { start: before.start, ..now }) && before.start == Sectors(0) => {}
        Ok(()) => news(&format!(
            "the flush log on {} now belongs to {} as it is: it was made for a root of {}, UUID={}.",
            partition.name,
            card.name,
            before.size.bytes(),
            uuid_text(&before.uuid)
        )),
        Err(error) => news(&error.to_string()),
    }
}

const HIDDEN: &str = "Writes stay in RAM, and nothing is written over what can't be read. Look for the card's errors in the \
                      kernel log (dmesg), and whether it sits well in its slot, then reboot. To go on without those \
                      flushes, for good: `cowflush flush --direct`.";

const KEPT: &str = "The log is kept as it is and not used. To keep root as it is now, and drop \
                    the log: `cowflush log format DEVICE --over cowflush-log`. To have the log's \
                    flushes instead, with root not mounted: `cowflush recover ROOT LOG --merge \
                    --force`.";

const DECIDE: &str = "Flushes that are only in a log are missing now, and would be lost if root were written to. So \
                      nothing is flushed until you decide. To have them: reboot with the log there and readable, \
                      and named by cowflush.log= on the kernel command line. To go on without them: `cowflush release`.";

/// Merges the log into the card without device-mapper, before root is mounted without a stack.
pub fn apply(card: &Candidate, log: &mut FlushLog, live: &[Live]) -> Result<()> {
    if live.is_empty() && log.is_unused() {
        return Ok(());
    }
    let (mut root, _claim) = (Disk::open_exclusive(&card.path())?, block::claim(log.path())?);
    log.apply(live, &mut root, &mut Meter::new())?;
    // Flushes that can't be read now are not dropped; once root is written to, the owner has to
    // decide about them at a later boot.
    if log.hidden().is_some() { Ok(()) } else { log.reset(live.len() as u64) }
}
