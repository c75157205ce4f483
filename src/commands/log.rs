//! `cowflush log` and `cowflush log format`.

use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;

use super::status::log_trouble;
use crate::boot::{find_log, stacking};
use crate::commands::asked::options;
use crate::error::{Doing, Error, Exit, Result};
use crate::flush::flushlog::make::Wish;
use crate::flush::flushlog::{Log, Sought};
use crate::flush::status;
use crate::notes::{self, hold, run_dir};
use crate::output::put;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::disk::superblock::{
    self, Content, FLUSH_LOG, HEAD_BYTES, TAIL_BYTES, uuid_bytes, uuid_text,
};
use crate::pure::flushlog::chain::{Bad, End};
use crate::pure::flushlog::format::Life;
use crate::pure::flushlog::segment::Segment;
use crate::pure::flushlog::whose::Place;
use crate::pure::report::json::Object;
use crate::pure::stack::{Name, Stack};
use crate::pure::units::{self, Bytes, DevNo, Utc};
use crate::sys::direct::Direct;
use crate::sys::dm::Control;
use crate::sys::{block, devices, lock};

/// Show the flush log: its segments, its usage, its wear position.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "log",
    note = "With a flush log a power cut during a flush can't tear root. It is a partition of the card,\n64 MiB or more. To add one in the card's unpartitioned tail, with the card sda:\n  echo ',,da' | sfdisk --append /dev/sda     # a new partition, say sda2\n  cowflush log format /dev/sda2"
)]
pub struct Arguments {
    #[argh(subcommand)]
    pub command: Option<LogCommand>,
    /// read all of its data and compare their checksums
    #[argh(switch)]
    pub verify: bool,
    /// print the kernel command line's word for it, if it is on another disk than root: what is put into an initramfs
    #[argh(switch)]
    pub word: bool,
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum LogCommand {
    Format(FormatArguments),
}

/// Make a flush log of a partition. What is on it is lost.
#[derive(FromArgs)]
#[argh(subcommand, name = "format")]
pub struct FormatArguments {
    /// the partition, or an image file
    #[argh(positional)]
    pub device: std::path::PathBuf,
    /// the root that the log is for; default: this system's
    #[argh(option)]
    pub root: Option<std::path::PathBuf>,
    /// begin each segment at a multiple of this, such as 128K; default: 4K
    #[argh(option, default = "Bytes(0)", from_str_fn(whole_chunks))]
    pub erase_block: Bytes,
    /// let merges fill the gaps in erase blocks of this size, such as 128K, which spares a
    /// CompactFlash card; default: don't
    #[argh(option, default = "Bytes(0)", from_str_fn(whole_chunks))]
    pub fill: Bytes,
    /// a label for cowflush.log=LABEL=, at most 16 bytes
    #[argh(option, default = "String::new()")]
    pub label: String,
    /// what is on the partition and may be destroyed, such as ext4 or cowflush-log
    #[argh(option)]
    pub over: Option<String>,
    /// only say what would be done
    #[argh(switch)]
    pub dry_run: bool,
}

fn whole_chunks(text: &str) -> core::result::Result<Bytes, String> {
    units::bytes(text)
        .filter(|bytes| bytes.0 % 4096 == 0 && bytes.0 <= 64 << 20)
        .ok_or_else(|| format!("`{text}` is no multiple of 4K up to 64M"))
}

const VERSION: u64 = 1;

/// `cowflush log`, and what stands behind it.
pub fn run(wanted: &Arguments) -> Result<Exit> {
    match &wanted.command {
        None if wanted.word => word(),
        None => show(wanted.verify, wanted.json),
        Some(LogCommand::Format(wanted)) => format(wanted),
    }
}

/// `cowflush log`.
pub fn show(verify: bool, json: bool) -> Result<Exit> {
    let control = Control::open()?;
    let stack = control.stack()?;
    let (look, kept) = match stack.log_partition() {
        Some(log) => (status::look_at_log(&control, log, LOOK_FOR, verify), None),
        None => match kept_log() {
            // Nobody writes to it.
            Some((path, why)) => (status::Look::plain(&path, verify), Some(why)),
            None => return none(json),
        },
    };
    let Some(state) = look.state() else {
        return Err(lock::busy(lock::holder(&control)));
    };
    let (log, bad) = match look.log {
        Ok(log) => (log, look.bad),
        Err(error) => {
            // The boot's reason says more about a log that is kept.
            let why = kept.unwrap_or_else(|| error.to_string());
            put(std::io::stderr(), &format!("cowflush: {why}\n"));
            // What was a log once and is none any more has lost what was in it.
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

/// How long a moment is waited for in which nobody writes to the log.
const LOOK_FOR: Duration = Duration::from_secs(10);

/// `cowflush log --word`: what a boot has to be told so that it waits for the log in use; nothing for one on root's disk, which is
/// there as soon as root is. Where the boot waited for one in vain it is told the same again.
pub fn word() -> Result<Exit> {
    let stack = Control::open()?.stack()?;
    let note = run_dir::read(run_dir::BOOT).unwrap_or_default();
    let named = || notes::value(&note, "log_named").to_owned();
    let word = match stack.log_partition() {
        // One that can't be read now is waited for by the name that it was found by.
        Some(log) if is_far(&stack, log) => Log::uuid_at(&block::path(log))
            .map_or_else(named, |uuid| format!("UUID={}", uuid_text(&uuid))),
        None if !notes::value(&note, "log_kept").is_empty() => named(),
        _ => String::new(),
    };
    if !word.is_empty() {
        put(std::io::stdout(), &format!("cowflush.log={word}\n"));
    }
    Ok(Exit::Done)
}

/// It is on another disk than root.
pub fn is_far(stack: &Stack, log: DevNo) -> bool {
    let disks = (block::disk_of(log), stack.card().and_then(|(card, _)| block::disk_of(card)));
    matches!(disks, (Some(log), Some(card)) if log != card)
}

/// What the caller is told: where the log ends, and which of its chunks are damaged or can't be read.
pub fn verdict(end: End, bad: &[Bad]) -> Exit {
    let hidden = |bad: &Bad| bad.unreadable;
    if matches!(end, End::Damaged(_)) || !bad.iter().all(hidden) {
        Exit::Lost
    } else if matches!(end, End::Unreadable { .. }) || bad.iter().any(hidden) {
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

fn to_json(log: &Log, kept: Option<&str>, bad: &[Bad]) -> String {
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

fn to_text(log: &Log, kept: Option<String>, bad: &[Bad]) -> String {
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
        End::Clean => {}
        End::Torn => line("end", log.torn().to_owned()),
        End::Damaged(_) => line("DAMAGED", log.damage().unwrap_or_default()),
        End::Unreadable { .. } => line("UNREADABLE", log.hidden().unwrap_or_default()),
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

/// `cowflush log format`.
pub fn format(wanted: &FormatArguments) -> Result<Exit> {
    let path = &wanted.device;
    let what = || format!("make a flush log of {}", path.display());
    let control = Control::open().ok();
    if let Some(control) = &control {
        lock::take(control)?;
    }
    let stack = control.as_ref().and_then(|control| control.stack().ok()).unwrap_or_default();
    let root_path = match (&wanted.root, stack.card()) {
        (Some(root), _) => root.clone(),
        (None, Some((card, _))) => block::path(card),
        (None, None) => this_root().ok_or_else(|| {
            Error::new(what(), "it is not known for which root")
                .advise("Name root's partition, or an image of it, with --root.")
                .exit(Exit::Usage)
        })?,
    };
    let number = device_number(path)?;
    may_go(path, wanted.over.as_deref())?;
    // Fails for what is mounted, or used by another device, such as a log in use.
    let claimed = Direct::open_exclusive(path).map_err(|error| {
        error.advise("Is it mounted, or in use as the flush log? Unmount it, or boot without it.")
    })?;
    let size = claimed.size();
    if let Some(cause) = number.and_then(block::in_the_way) {
        return Err(Error::new(what(), cause).advise("Name a partition that is free."));
    }
    let root = root_place(&root_path)?;
    let log_disk = number.and_then(block::disk_of);
    alone(&stack, number, &root_path)?;
    let mut label = [0; 16];
    if wanted.label.len() > label.len() {
        return Err(Error::new(what(), "a label has at most 16 bytes")
            .advise("Shorten it.")
            .exit(Exit::Usage));
    }
    for (to, from) in label.iter_mut().zip(wanted.label.bytes()) {
        *to = from;
    }
    let far = log_disk.is_some() && root.disk.is_some() && log_disk != root.disk;
    let root = root.as_owner_of(log_disk, [0; 16]);
    let wish = Wish { root, erase_block: wanted.erase_block, fill: wanted.fill, label };
    let (path_text, root_text) = (path.display(), root_path.display());
    if wanted.dry_run {
        let text = format!("would make a flush log of {path_text} ({size}) for {root_text}\n");
        put(std::io::stdout(), &text);
        return Ok(Exit::Done);
    }
    let log = Log::make(path, &wish)?;
    // The stack claims it for itself.
    drop(claimed);
    let uuid = uuid_text(&log.header().uuid);
    let mut text =
        format!("made a flush log of {path_text} ({size}) for {root_text}, UUID={uuid}\n");
    // A running stack takes it into use at once.
    let own_root = stack.card().is_some_and(|(card, _)| block::path(card) == root_path);
    if let (Some(control), Some(_), true, None) = (&control, number, own_root, stack.log) {
        attach(control, path)?;
        text.push_str("flushes go there from now on, also after a reboot\n");
        // What the boot could not decide is decided.
        if hold::is_for_log() {
            hold::end();
        }
    }
    if far {
        text.push_str(&format!(
            "it is on another disk than root, which a boot must be told to wait for: put \
             cowflush.log=UUID={uuid} on the kernel command line; update-initramfs -u or dracut -f do it for you\n"
        ));
    }
    // Whoever reads this may be slow: the lock goes first.
    drop(control);
    put(std::io::stdout(), &text);
    Ok(Exit::Done)
}

/// The number of a block device; `None` for a file.
fn device_number(path: &Path) -> Result<Option<DevNo>> {
    let look = || -> std::io::Result<Option<DevNo>> {
        let node = std::fs::File::open(path)?;
        let is_device = node.metadata()?.file_type().is_block_device();
        is_device.then(|| block::number(&node)).transpose()
    };
    look().doing(|| format!("open {}", path.display()))
}

/// Refuses to destroy what is there: only what is blank may go, or what is known and was named.
fn may_go(path: &Path, over: Option<&str>) -> Result<()> {
    let refuse = |cause: String, advice: String| {
        let what = format!("make a flush log of {}", path.display());
        Err(Error::new(what, cause).advise(advice).exit(Exit::Usage))
    };
    let mut disk = Direct::open(path)?;
    let chunks = disk.chunks();
    let tail_chunks = chunks.min((TAIL_BYTES / CHUNK_BYTES) as u64);
    let (mut head, mut tail) = (vec![0; HEAD_BYTES], vec![0; tail_chunks as usize * CHUNK_BYTES]);
    disk.read_at(0, &mut head)?;
    disk.read_at(chunks - tail_chunks, &mut tail)?;
    let holds = match (superblock::content(&head, &tail), Log::seek(path)) {
        // Its second header is enough for a boot.
        (Content::Blank | Content::Unknown, Sought::Log(_) | Sought::Newer(..)) => {
            Content::Known(FLUSH_LOG)
        }
        (content, _) => content,
    };
    let wipe = format!(
        "Is it the right one? Look at it with blkid. If all of it may be destroyed: \
         `dd if=/dev/zero of={} bs=1M`, then try again.",
        path.display()
    );
    match (holds, over) {
        (Content::Blank, None) => Ok(()),
        (Content::Known(held), Some(over)) if held == over => Ok(()),
        (Content::Known(held), None) => refuse(
            format!("it holds {held}"),
            format!("If {held} may be destroyed, say so with `--over {held}`."),
        ),
        (Content::Known(held), Some(_)) => refuse(
            format!("it holds {held}"),
            "Is it the right partition? Look at it with blkid.".to_owned(),
        ),
        (Content::Table, _) => refuse("it begins or ends with a partition table".to_owned(), wipe),
        (Content::Unknown, _) => {
            refuse("it holds something, and it is not known what".to_owned(), wipe)
        }
        (Content::Blank, Some(_)) => refuse(
            "it does not hold what --over says".to_owned(),
            "Is it the right partition? Look at it with blkid.".to_owned(),
        ),
    }
}

/// Root's partition, or an image of it, as a log's header knows it.
fn root_place(path: &Path) -> Result<Place> {
    let size = Direct::open(path)?.size().sectors();
    let number = device_number(path)?;
    Ok(Place {
        disk: number.and_then(block::disk_of),
        start: number.and_then(block::start).unwrap_or_default(),
        size,
        uuid: devices::identify(path).map_or([0; 16], |found| uuid_bytes(&found.uuid)),
    })
}

/// Refuses a second log: a boot could not tell for certain which one counts.
fn alone(stack: &Stack, number: Option<DevNo>, root_path: &Path) -> Result<()> {
    let Some(root) = device_number(root_path)? else { return Ok(()) };
    let in_use = stack
        .log_partition()
        .filter(|log| Some(*log) != number && stack.card().is_some_and(|(card, _)| card == root));
    let (name, advice) = match (in_use, find_log::log_of(root, number)) {
        (Some(log), _) => (
            format!("{}, in use", block::name(log)),
            "To move the log: `cowflush stop`, then reboot with cowflush.log=none, wipe the old one \
             (`dd if=/dev/zero of=DEVICE bs=1M`), and make the new one.",
        ),
        (None, Some((name, true))) => (
            format!("{name}, which has flushes in it or can't be read"),
            "Boot with it, or decide what becomes of its flushes with `cowflush recover`. Then wipe it with \
             `dd if=/dev/zero of=DEVICE bs=1M`.",
        ),
        (None, Some((name, false))) => (
            format!("{name}, which is empty"),
            "Use that one, or wipe it with `dd if=/dev/zero of=DEVICE bs=1M`.",
        ),
        (None, None) => return Ok(()),
    };
    let what = format!("make another flush log for {}", root_path.display());
    Err(Error::new(what, format!("it has one: {name}")).advise(advice).exit(Exit::Usage))
}

fn attach(control: &Control, path: &Path) -> Result<()> {
    let real = std::fs::canonicalize(path).doing(|| format!("find {}", path.display()))?;
    let found = devices::candidates().into_iter().find(|candidate| candidate.path() == real);
    let Some(partition) = found else {
        return Err(Error::new(
            format!("use {} at once", path.display()),
            "it is none of this machine's partitions",
        )
        .advise("The log was made. It is used after a reboot."));
    };
    stacking::partition(control, Name::Log, &partition).map(drop)
}

/// Root's partition by the kernel command line, when there is no stack.
fn this_root() -> Option<PathBuf> {
    let found = devices::find(&options().root?);
    found.first().map(devices::Candidate::path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::flushlog::chain::{Damage, What};

    const WRONG: Bad = Bad { place: 7, unreadable: false };
    const HIDDEN: Bad = Bad { place: 8, unreadable: true };

    #[test]
    fn damage_is_told_wherever_it_is_and_a_flush_that_was_cut_short_is_none() {
        let damaged = End::Damaged(Damage { chunk: 9, what: What::Head, youngest: 3 });
        for end in [End::Clean, End::Torn] {
            assert_eq!(verdict(end, &[]), Exit::Done);
            assert_eq!(verdict(end, &[WRONG]), Exit::Lost, "found by --verify");
            assert_eq!(verdict(end, &[HIDDEN]), Exit::Card, "found by --verify");
            assert_eq!(verdict(end, &[HIDDEN, WRONG]), Exit::Lost);
        }
        let unreadable = End::Unreadable { chunk: 9, youngest: None };
        assert_eq!(verdict(damaged, &[HIDDEN]), Exit::Lost);
        assert_eq!(verdict(unreadable, &[]), Exit::Card);
        assert_eq!(verdict(unreadable, &[WRONG]), Exit::Lost);
        assert_eq!(count(&[HIDDEN, WRONG, HIDDEN]), (1, 2));
        let words = [End::Clean, End::Torn, damaged, unreadable].map(End::word);
        assert_eq!(words, ["clean", "torn", "damaged", "unreadable"]);
    }
}
