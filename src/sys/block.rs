//! Block devices: numbers, sizes, aligned reads, and what sysfs tells about them.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::mknod;
use super::node::Node;
use super::time::pause;
use crate::error::{Doing, Exit, Result};
use crate::pure::units::{DevNo, Sectors, decimal};

/// The number of an open block device.
pub fn number(node: &File) -> std::io::Result<DevNo> {
    node.metadata().map(|meta| number_of(&meta))
}

/// The number of the block device that a path leads to, through links as well; `None` where there
/// is none.
pub fn number_at(path: &Path) -> Option<DevNo> {
    ask!(number_at(path));
    let node = std::fs::metadata(path).ok()?;
    node.file_type().is_block_device().then(|| number_of(&node))
}

fn number_of(node: &Metadata) -> DevNo {
    let rdev = node.rdev();
    DevNo { major: libc::major(rdev as _) as u32, minor: libc::minor(rdev as _) as u32 }
}

/// The sysfs folder of a block device.
pub fn sysfs(device: DevNo) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{device}"))
}

/// The kernel's name of a block device, such as `sda1`; its number where sysfs has none.
pub fn name(device: DevNo) -> String {
    ask!(name(device));
    let link = std::fs::read_link(sysfs(device)).unwrap_or_default();
    link.file_name().map_or_else(|| device.to_string(), |name| name.to_string_lossy().into_owned())
}

/// The path of a block device's node, as devtmpfs names it. The node is made if it is missing.
pub fn path(device: DevNo) -> PathBuf {
    ask!(path(device));
    let path = Path::new("/dev").join(name(device).replace('!', "/"));
    if sysfs(device).exists() {
        mknod::block(&path, device);
    }
    path
}

/// Makes the name in /dev/mapper that users expect, as udev would, and that mount tables then show.
/// Returns it, or the path of the device's own node if it can't be made.
pub fn link(device: DevNo, called: &str) -> PathBuf {
    ask!(path(device));
    let node = path(device);
    let link = Path::new("/dev/mapper").join(called);
    let target = Path::new("..").join(name(device));
    // An earlier stack, by now removed, may have left the link; it may lead to another device.
    let _ = std::fs::remove_file(&link);
    let linked = std::fs::create_dir_all("/dev/mapper").and_then(|()| symlink(target, &link));
    if linked.is_ok() { link } else { node }
}

/// The size of a block device, from sysfs: it works on every word size.
pub fn size(device: DevNo) -> Result<Sectors> {
    ask!(size(device));
    let path = sysfs(device).join("size");
    std::fs::read_to_string(&path)
        .and_then(|text| decimal(text.trim()).map(Sectors).ok_or(ErrorKind::InvalidData.into()))
        .doing(|| format!("read {}", path.display()))
}

/// Where a partition begins on its disk; 0 for a whole disk. `None` when sysfs does not say.
pub fn start(device: DevNo) -> Option<Sectors> {
    ask!(start(device));
    let folder = sysfs(device);
    match std::fs::read_to_string(folder.join("start")) {
        Ok(text) => decimal(text.trim()).map(Sectors),
        Err(_) => (!folder.join("partition").exists()).then_some(Sectors(0)),
    }
}

/// Claims a card or a log for a command that works on it directly, until the returned node is
/// dropped. The kernel refuses the claim while the device or a part of it is mounted, or a stack or
/// another device stands on it; and while it is claimed none of these can begin. An image file is
/// not claimed.
pub fn claim(path: &Path) -> Result<Node> {
    let claimed = || -> std::io::Result<Node> {
        let node = Node::open(path, false, libc::O_EXCL)?;
        if is_ours(&node)? { Err(Errno::EBUSY.into()) } else { Ok(node) }
    };
    let mut node = claimed();
    // A program that probes a new device, as mdadm does, holds it for a moment.
    for _ in 0..CLAIM_TRIES {
        match node {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => pause(CLAIM_PAUSE),
            _ => break,
        }
        node = claimed();
    }
    node.doing(|| format!("open {}", path.display()))
}

const CLAIM_TRIES: u32 = 10;
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

/// Whether the node is one of cowflush's own devices. Such a device may be in use with nothing on
/// top, as cowflush-log is while the log is empty.
fn is_ours(node: &Node) -> std::io::Result<bool> {
    #[cfg(test)]
    if let Node::Model(_) = node {
        // The model has refused the claim of its own.
        return Ok(false);
    }
    let meta = node.file().metadata()?;
    let number = number_of(&meta);
    let name = std::fs::read_to_string(sysfs(number).join("dm/name")).unwrap_or_default();
    Ok(meta.file_type().is_block_device() && name.starts_with("cowflush-"))
}

/// Counters of a block device: what the kernel wrote to it since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Write requests.
    pub requests: u64,
    /// Sectors in them.
    pub sectors: u64,
}

/// Reads a device's write counters (Documentation/block/stat.rst: fields 5 and 7).
pub fn written(device: DevNo) -> Option<Written> {
    ask!(written(device));
    let text = std::fs::read_to_string(sysfs(device).join("stat")).ok()?;
    let mut fields = text.split_ascii_whitespace().map(decimal::<u64>);
    Some(Written { requests: fields.nth(4)??, sectors: fields.nth(1)?? })
}

/// The device-mapper device of that name, for users who may not ask device-mapper.
pub fn mapped(name: &str) -> Option<DevNo> {
    ask!(mapped(name));
    let entries = std::fs::read_dir("/sys/block").ok()?;
    let is_it = |folder: &PathBuf| {
        std::fs::read_to_string(folder.join("dm/name")).is_ok_and(|text| text.trim() == name)
    };
    number_in(&entries.flatten().map(|entry| entry.path()).find(is_it)?)
}

/// The devices that a device-mapper device stands on.
pub fn below(device: DevNo) -> Vec<DevNo> {
    ask!(below(device));
    let entries = std::fs::read_dir(sysfs(device).join("slaves")).into_iter().flatten().flatten();
    entries.filter_map(|entry| number_in(&entry.path())).collect()
}

/// The number of the device whose sysfs folder this is.
fn number_in(folder: &Path) -> Option<DevNo> {
    DevNo::parse(std::fs::read_to_string(folder.join("dev")).ok()?.trim())
}

/// Makes everything that was written to a device durable: fsync of a block device ends with a
/// FLUSH.
pub fn flush(device: DevNo) -> Result<()> {
    ask!(flush(device));
    let path = path(device);
    let node = File::open(&path).doing(|| format!("open {}", path.display()));
    node.and_then(|node| {
        node.sync_all().doing(|| format!("flush the write cache of {}", path.display()))
    })
    // Whichever command flushes: the card has not confirmed what it was given.
    .map_err(|error| error.exit(Exit::Card))
}

/// The disk that a partition is on; for a whole disk, the disk itself.
pub fn disk_of(device: DevNo) -> Option<DevNo> {
    ask!(disk_of(device));
    let folder = std::fs::canonicalize(sysfs(device)).ok()?;
    let folder = if folder.join("partition").exists() { folder.parent()? } else { &folder };
    number_in(folder)
}

/// Why nothing new may be made on a block device: it has partitions, or the kernel does not say.
/// The caller has opened it exclusively, so no other device stands on it or on a part of it.
pub fn in_the_way(device: DevNo) -> Option<&'static str> {
    let folder = sysfs(device);
    let Ok(inside) = std::fs::read_dir(&folder) else {
        return Some("the kernel does not tell whether it is in use");
    };
    let divided = inside.flatten().any(|entry| entry.path().join("partition").exists());
    divided.then_some("it is a disk with partitions")
}

/// How the kernel treats a device's write cache: `write back` (FLUSHes are sent) or `write
/// through`.
pub fn write_cache(device: DevNo) -> std::io::Result<String> {
    ask!(write_cache(device));
    let text = std::fs::read_to_string(sysfs(device).join("queue/write_cache"))?;
    Ok(text.trim().to_owned())
}

/// Tells the kernel how to treat a device's write cache. The device itself is not told.
pub fn set_write_cache(device: DevNo, mode: &str) -> std::io::Result<()> {
    ask!(set_write_cache(device, mode));
    std::fs::write(sysfs(device).join("queue/write_cache"), mode)
}

/// Writes out the filesystem that holds `file`, and waits for it.
pub fn sync_filesystem(file: &Node) -> std::result::Result<(), Errno> {
    // SAFETY: syncfs takes a file descriptor that `file` keeps open.
    let result = unsafe { libc::syncfs(file.file().as_raw_fd()) };
    Errno::result(result).map(drop)
}

/// BLKROSET of include/uapi/linux/fs.h: _IO(0x12, 93).
const BLKROSET: u32 = 0x125d;

/// Whether the kernel refuses writes to a device: a card's switch forbids them, or a program told
/// the kernel so.
pub fn is_write_protected(device: DevNo) -> bool {
    ask!(is_write_protected(device));
    std::fs::read_to_string(sysfs(device).join("ro")).is_ok_and(|text| text.trim() == "1")
}

/// Makes the kernel refuse writes to a block device, or accept them again. A writable mount can't
/// change that.
pub fn refuse_writes(device: DevNo, refuse: bool) -> Result<()> {
    ask!(refuse_writes(device, refuse));
    let (path, flag) = (path(device), libc::c_int::from(refuse));
    let node = File::open(&path).doing(|| format!("open {}", path.display()))?;
    // SAFETY: BLKROSET reads one int, which outlives the call.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), BLKROSET as _, &raw const flag) };
    Errno::result(result).map(drop).doing(|| format!("keep writes from {}", path.display()))
}

/// FIFREEZE and FITHAW of include/uapi/linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const FIFREEZE: u32 = 0xc004_5877;
const FITHAW: u32 = 0xc004_5878;

/// Freezes the filesystem that holds `file`: the kernel writes it out complete, and writers wait
/// until [`thaw`].
pub fn freeze(file: &Node) -> std::result::Result<(), Errno> {
    // SAFETY: this ioctl takes no argument.
    let result = unsafe { libc::ioctl(file.file().as_raw_fd(), FIFREEZE as _, 0) };
    Errno::result(result).map(drop)
}

/// Lets writers go on. A filesystem that is not frozen stays as it is.
pub fn thaw(file: &Node) {
    ask!(thaw());
    // SAFETY: this ioctl takes no argument.
    unsafe { libc::ioctl(file.file().as_raw_fd(), FITHAW as _, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_does_not_confirm_what_it_was_given_is_the_cards_failure() {
        let none = DevNo { major: 0, minor: 0 };
        assert_eq!(flush(none).unwrap_err().exit_code(), Exit::Card);
    }
}
