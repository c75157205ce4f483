//! Looks for the block device that a reference means.

use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::pure::disk::filesystem::{self, Filesystem, HEAD_BYTES};
use crate::pure::disk::partition::{self, GPT_ENTRY_BYTES, Names};
use crate::pure::disk::reference::Reference;
use crate::pure::units::{DevNo, Sectors, decimal};
use crate::sys::block;
use crate::sys::node::Node;

const CLASS: &str = "/sys/class/block";

/// A block device that root could be on.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The kernel's name, such as `sda1`.
    pub name: String,
    /// Its number.
    pub number: DevNo,
    /// Its size.
    pub size: Sectors,
    /// What it holds.
    pub filesystem: Option<Filesystem>,
    names: Names,
}

impl Candidate {
    /// A candidate whose content was not read.
    fn new(name: &str, number: DevNo, size: Sectors, names: Names) -> Self {
        Self { name: name.to_owned(), number, size, filesystem: None, names }
    }

    /// A candidate of a model, without names; its content was not read.
    #[cfg(test)]
    pub(crate) fn of_model(name: &str, number: DevNo, size: Sectors) -> Self {
        Self::new(name, number, size, Names::default())
    }

    /// The path of its node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }

    /// Reads which filesystem it holds.
    fn read(mut self) -> Self {
        self.filesystem = identify(&self.path());
        self
    }

    /// What the reference says of the device itself; `None` when it speaks of the filesystem.
    fn fits_device(&self, reference: &Reference) -> Option<bool> {
        match reference {
            Reference::Path(path) => Some(Path::new(path) == self.path()),
            Reference::Number(number) => Some(*number == self.number),
            Reference::PartUuid(value) => Some(self.names.uuid == *value),
            Reference::PartLabel(value) => Some(self.names.label == *value),
            Reference::Uuid(_) | Reference::Label(_) => None,
        }
    }

    /// Whether the reference names the filesystem that was found.
    pub fn fits_filesystem(&self, reference: &Reference) -> bool {
        match (reference, &self.filesystem) {
            (Reference::Uuid(value), Some(found)) => found.uuid == *value,
            (Reference::Label(value), Some(found)) => found.label == *value,
            _ => false,
        }
    }

    /// For people: `sda1 ext4 UUID=… LABEL=…`.
    pub fn describe(&self) -> String {
        let mut text = format!("{} ({})", self.path().display(), self.size.bytes());
        if let Some(found) = &self.filesystem {
            text.push_str(&format!(" {}", found.kind));
            for (tag, value) in [("UUID", &found.uuid), ("LABEL", &found.label)] {
                if !value.is_empty() {
                    text.push_str(&format!(" {tag}={value}"));
                }
            }
        }
        if !self.names.uuid.is_empty() {
            text.push_str(&format!(" PARTUUID={}", self.names.uuid));
        }
        text
    }
}

/// All block devices that could be a card or a part of one, sorted by name.
///
/// Device-mapper and loop devices are left out: the stack shows the same UUID as the card.
pub fn candidates() -> Vec<Candidate> {
    unread_candidates().map(Candidate::read).collect()
}

/// All block devices that could hold root; their contents are not read.
fn unread_candidates() -> std::vec::IntoIter<Candidate> {
    ask!(disks().into_iter());
    let entries = std::fs::read_dir(CLASS).into_iter().flatten().flatten();
    let mut found: Vec<Candidate> = Vec::new();
    // There are a few; a sort would be three KiB of program.
    for next in entries.filter_map(|entry| candidate(&entry.file_name().to_string_lossy())) {
        found.insert(found.partition_point(|other| other.name < next.name), next);
    }
    found.into_iter()
}

fn candidate(name: &str) -> Option<Candidate> {
    if ["dm-", "loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    device(name)
}

fn device(name: &str) -> Option<Candidate> {
    let folder = Path::new(CLASS).join(name);
    let attribute = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let number = DevNo::parse(attribute("dev")?.trim())?;
    let size = Sectors(decimal(attribute("size")?.trim())?);
    if size.0 == 0 {
        return None;
    }
    // Its path is opened later, and a kernel without devtmpfs has made no node.
    let _ = block::path(number);
    let partition = attribute("partition").and_then(|text| decimal(text.trim()));
    let names = partition.and_then(|number| names(&folder, number)).unwrap_or_default();
    Some(Candidate::new(name, number, size, names))
}

/// The filesystem on a device, if it can be read and is known.
///
/// A card may be slow: only what is needed is read, without readahead, and most filesystems are
/// known by their first two kilobytes.
pub fn identify(path: &Path) -> Option<Filesystem> {
    let device = open_unhurried(path)?;
    let size = usize::try_from(device.size().ok()?.0).unwrap_or(usize::MAX);
    let mut head = Vec::new();
    let mut read_to = |end: usize| {
        let (begin, end) = (head.len(), end.min(size));
        head.resize(end.max(begin), 0);
        device.read_exact_at(head.get_mut(begin..)?, begin as u64).ok()?;
        filesystem::identify(&head)
    };
    read_to(FIRST_BYTES).or_else(|| read_to(HEAD_BYTES))
}

const FIRST_BYTES: usize = 4096;

/// Opens a device for a few reads here and there.
fn open_unhurried(path: &Path) -> Option<Node> {
    let device = Node::open(path, false, 0).ok()?;
    #[cfg(test)]
    if let Node::Model(_) = device {
        return Some(device);
    }
    // If this fails the kernel reads ahead, which is only slower.
    let _ = posix_fadvise(device.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
    Some(device)
}

/// What the partition table of the disk around the partition says of it.
fn names(folder: &Path, number: u32) -> Option<Names> {
    let real = std::fs::canonicalize(folder).ok()?;
    let disk = std::fs::read_to_string(real.parent()?.join("dev")).ok()?;
    let disk = open_unhurried(&block::path(DevNo::parse(disk.trim())?))?;
    for block_bytes in [512u64, 4096] {
        let mut header = [0; 512];
        if disk.read_exact_at(&mut header, block_bytes).is_err() {
            continue;
        }
        if let Some(at) = partition::gpt_entry_at(&header, block_bytes, number) {
            let mut entry = [0; GPT_ENTRY_BYTES];
            disk.read_exact_at(&mut entry, at).ok()?;
            return partition::gpt(&entry);
        }
    }
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 0).ok()?;
    partition::mbr(&sector, number)
}

/// The devices that `reference` means: none yet, one, or (after a card was copied) several.
///
/// A path may be a link that udev made, or a node with a name of its own: what counts is which
/// device it is.
pub fn find(reference: &Reference) -> Vec<Candidate> {
    let number = match reference {
        Reference::Path(path) => block::number_at(Path::new(path)).map(Reference::Number),
        _ => None,
    };
    let reference = number.as_ref().unwrap_or(reference);
    let fits = |found: Candidate| match found.fits_device(reference) {
        Some(fits) => fits.then(|| found.read()),
        None => Some(found.read()).filter(|found| found.fits_filesystem(reference)),
    };
    let mut found: Vec<_> = unread_candidates().filter_map(fits).collect();
    // A device that is named itself may be LVM or LUKS, which the message then says.
    if let (Reference::Number(number), true) = (reference, found.is_empty())
        && let name = block::name(*number)
        && name.starts_with("dm-")
    {
        found.extend(device(&name).map(Candidate::read));
    }
    // Each half of a mirror may look like the whole.
    if found.len() > 1 && found.iter().any(|found| !is_array_part(found)) {
        found.retain(|found| !is_array_part(found));
    }
    found
}

/// Why the stack can't be put over this device: root's filesystem is partly on other devices, or
/// other devices lie below it and go on writing. `None`: all of root is on it.
pub fn beyond_the_stack(device: &Candidate) -> Option<String> {
    let elsewhere = device.filesystem.as_ref().map_or("", |found| found.elsewhere);
    if !elsewhere.is_empty() {
        return Some(elsewhere.to_owned());
    }
    if is_array_part(device) {
        return Some(
            "it is a part of a md array, or was one; `mdadm --examine` shows that".to_owned(),
        );
    }
    let under = under(block::disk_of(device.number).unwrap_or(device.number));
    (!under.is_empty())
        .then(|| format!("it stands on {} by md, LVM, LUKS or the like", under.join(" and ")))
}

/// The devices that a disk is made of.
fn under(disk: DevNo) -> Vec<String> {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(block::sysfs(disk).join("slaves")).into_iter().flatten();
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether the device is a part of an md array. A device that can't be read counts as none.
fn is_array_part(device: &Candidate) -> bool {
    let Some(node) = open_unhurried(&device.path()) else { return false };
    filesystem::array_places(device.size).into_iter().any(|place| {
        let mut sector = [0; 512];
        node.read_exact_at(&mut sector, place.bytes().0).is_ok()
            && filesystem::is_array_part(&sector, place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(name: &str, minor: u32, tag: &str) -> Candidate {
        let filesystem = Filesystem {
            kind: "ext4",
            uuid: format!("uuid-{tag}"),
            label: format!("label-{tag}"),
            size: None,
            journal: true,
            elsewhere: "",
        };
        Candidate {
            name: name.to_owned(),
            number: DevNo { major: 8, minor },
            size: Sectors(2048),
            filesystem: Some(filesystem),
            names: Names { uuid: format!("partuuid-{tag}"), label: format!("partlabel-{tag}") },
        }
    }

    fn fits(candidate: &Candidate, reference: &Reference) -> bool {
        candidate.fits_device(reference).unwrap_or_else(|| candidate.fits_filesystem(reference))
    }

    #[test]
    fn every_form_of_a_reference_finds_its_partition_and_no_other() {
        let (one, other) = (partition("sda1", 1, "one"), partition("mmcblk0p2", 2, "two"));
        for (text, of_the_device) in [
            ("/dev/sda1", true),
            ("8:1", true),
            ("801", true),
            ("PARTUUID=partuuid-one", true),
            ("PARTUUID=PartUUID-ONE", true),
            ("PARTLABEL=partlabel-one", true),
            ("UUID=uuid-one", false),
            ("LABEL=label-one", false),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert!(fits(&one, &reference), "{text}");
            assert!(!fits(&other, &reference), "{text}");
            // Names of the device itself are compared without reading the card, which may be slow.
            assert_eq!(one.fits_device(&reference).is_some(), of_the_device, "{text}");
        }
        // A label is not a UUID, and a partition's name is not a filesystem's.
        for text in
            ["UUID=label-one", "LABEL=uuid-one", "PARTLABEL=label-one", "LABEL=partlabel-one"]
        {
            assert!(!fits(&one, &Reference::parse(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn a_device_without_a_filesystem_or_names_is_found_by_its_own_name_alone() {
        let bare =
            Candidate { filesystem: None, names: Names::default(), ..partition("sda", 0, "") };
        assert!(fits(&bare, &Reference::Path("/dev/sda".to_owned())));
        for reference in [Reference::Uuid("x".to_owned()), Reference::Label("x".to_owned())] {
            assert!(!fits(&bare, &reference), "{reference}");
        }
        assert!(!fits(&bare, &Reference::PartLabel("x".to_owned())));
    }

    #[test]
    fn a_device_in_a_folder_of_dev_is_found_there() {
        let array = partition("cciss!c0d0p1", 1, "one");
        assert!(fits(&array, &Reference::Path("/dev/cciss/c0d0p1".to_owned())));
    }

    #[test]
    fn people_are_told_everything_that_could_name_a_device() {
        let text = partition("sda1", 1, "one").describe();
        for part in [
            "/dev/sda1",
            "1.0 MiB",
            "ext4",
            "UUID=uuid-one",
            "LABEL=label-one",
            "PARTUUID=partuuid-one",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
