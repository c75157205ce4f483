//! Looks for the block device that a reference means.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::partition::{self, GPT_ENTRY_BYTES, Names};
use super::reference::Reference;
use super::superblock::{self, Filesystem, HEAD_BYTES};
use crate::units::{DevNo, Sectors, decimal};

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
    /// The path of its node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }

    fn fits(&self, reference: &Reference) -> bool {
        let filesystem = |pick: fn(&Filesystem) -> &String, value: &String| {
            self.filesystem.as_ref().is_some_and(|found| pick(found) == value)
        };
        match reference {
            Reference::Path(path) => Path::new(path) == self.path(),
            Reference::Number(number) => *number == self.number,
            Reference::Uuid(value) => filesystem(|found| &found.uuid, value),
            Reference::Label(value) => filesystem(|found| &found.label, value),
            Reference::PartUuid(value) => self.names.uuid == *value,
            Reference::PartLabel(value) => self.names.label == *value,
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
    let Ok(entries) = std::fs::read_dir(CLASS) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| candidate(&entry.file_name().to_string_lossy()))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn candidate(name: &str) -> Option<Candidate> {
    if ["dm-", "loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let folder = Path::new(CLASS).join(name);
    let attribute = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let number = DevNo::parse(attribute("dev")?.trim())?;
    let size = Sectors(decimal(attribute("size")?.trim())?);
    if size.0 == 0 {
        return None;
    }
    let mut candidate = Candidate {
        name: name.to_owned(),
        number,
        size,
        filesystem: None,
        names: Names::default(),
    };
    candidate.filesystem = identify(&candidate.path());
    if let Some(partition) = attribute("partition").and_then(|text| decimal(text.trim())) {
        candidate.names = names(&folder, partition).unwrap_or_default();
    }
    Some(candidate)
}

/// The filesystem on a device, if it can be read and is known.
pub fn identify(path: &Path) -> Option<Filesystem> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
    superblock::identify(&head)
}

/// What the partition table of the disk around the partition says of it.
fn names(folder: &Path, number: u32) -> Option<Names> {
    let real = std::fs::canonicalize(folder).ok()?;
    let disk = real.parent()?.file_name()?.to_string_lossy().replace('!', "/");
    let disk = File::open(Path::new("/dev").join(disk)).ok()?;
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
pub fn find(reference: &Reference) -> Vec<Candidate> {
    candidates().into_iter().filter(|candidate| candidate.fits(reference)).collect()
}
