//! `cowflush log format`: makes a flush log of a partition, if nothing is lost by that.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::boot::{find_log, stacking};
use crate::commands::asked::options;
use crate::error::{Doing, Error, Exit, Result};
use crate::flush::flushlog::make::LogOptions;
use crate::flush::flushlog::{FlushLog, Sought};
use crate::notes::hold;
use crate::output::put;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::disk::filesystem::{
    self, Content, FLUSH_LOG, HEAD_BYTES, TAIL_BYTES, uuid_bytes, uuid_text,
};
use crate::pure::flushlog::ownership::Place;
use crate::pure::stack::{Name, Stack};
use crate::pure::units::{self, Bytes, DevNo};
use crate::sys::disk::Disk;
use crate::sys::dm::Control;
use crate::sys::{block, devices, lock};

/// Make a flush log of a partition. What is on it is lost.
#[derive(FromArgs)]
#[argh(subcommand, name = "format")]
pub struct Arguments {
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
        .ok_or_else(|| format!("`{text}` is not a multiple of 4K up to 64M"))
}

/// Makes the log, and lets a running stack use it.
pub fn run(wanted: &Arguments) -> Result<Exit> {
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
    // Fails for a partition that is mounted or used by another device, such as a log in use.
    let claimed = Disk::open_exclusive(path).map_err(|error| {
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
    let made = LogOptions { root, erase_block: wanted.erase_block, fill: wanted.fill, label };
    let (path_text, root_text) = (path.display(), root_path.display());
    if wanted.dry_run {
        let text = format!("would make a flush log of {path_text} ({size}) for {root_text}\n");
        put(std::io::stdout(), &text);
        return Ok(Exit::Done);
    }
    let log = FlushLog::make(path, &made)?;
    // The claim ends here, since the stack claims the partition for itself.
    drop(claimed);
    let uuid = uuid_text(&log.header().uuid);
    let mut text =
        format!("made a flush log of {path_text} ({size}) for {root_text}, UUID={uuid}\n");
    // A running stack begins to use it at once.
    let own_root = stack.card().is_some_and(|(card, _)| block::path(card) == root_path);
    if let (Some(control), Some(_), true, None) = (&control, number, own_root, stack.log) {
        attach(control, path)?;
        text.push_str("flushes go there from now on, also after a reboot\n");
        // This decides what the boot could not.
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
    // The reader of the output may be slow, so the lock is given back first.
    drop(control);
    put(std::io::stdout(), &text);
    Ok(Exit::Done)
}

/// The number of a block device; `None` for a file.
fn device_number(path: &Path) -> Result<Option<DevNo>> {
    let inspect = || -> std::io::Result<Option<DevNo>> {
        let node = std::fs::File::open(path)?;
        let is_device = node.metadata()?.file_type().is_block_device();
        is_device.then(|| block::number(&node)).transpose()
    };
    inspect().doing(|| format!("open {}", path.display()))
}

/// Refuses to destroy what is on the partition, unless it is blank, or is of a known kind that
/// `--over` names.
fn may_go(path: &Path, over: Option<&str>) -> Result<()> {
    let refuse = |cause: String, advice: String| {
        let what = format!("make a flush log of {}", path.display());
        Err(Error::new(what, cause).advise(advice).exit(Exit::Usage))
    };
    let mut disk = Disk::open(path)?;
    let chunks = disk.chunks();
    let tail_chunks = chunks.min((TAIL_BYTES / CHUNK_BYTES) as u64);
    let (mut head, mut tail) = (vec![0; HEAD_BYTES], vec![0; tail_chunks as usize * CHUNK_BYTES]);
    disk.read_at(0, &mut head)?;
    disk.read_at(chunks - tail_chunks, &mut tail)?;
    let holds = match (filesystem::content(&head, &tail), FlushLog::seek(path)) {
        // For a boot, the log's second header is enough.
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
    let size = Disk::open(path)?.size().sectors();
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

/// Root's partition according to the kernel command line, when there is no stack.
fn this_root() -> Option<PathBuf> {
    let found = devices::find(&options().root?);
    found.first().map(devices::Candidate::path)
}
