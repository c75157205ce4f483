//! The content of a card: partition tables and superblocks.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::disk::filesystem;
use cowflush::pure::disk::partition::{self, GPT_ENTRY_BYTES, Names};
use cowflush::pure::disk::reference::Reference;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

const KINDS: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "squashfs", "f2fs", "btrfs"];
/// Where Btrfs' superblock is; the others' are within the first two kilobytes.
const LATE: usize = 0x10000;

/// The input is the start of a disk or of a partition.
pub fn check(data: &[u8]) {
    filesystem(data);
    let mut late = vec![0; LATE];
    late.extend(data);
    filesystem(&late);
    for number in [0, 1, 2, 128, u32::MAX] {
        partition_names(data, number);
    }
}

fn filesystem(head: &[u8]) {
    let found = filesystem::identify(head);
    // A boot reads a short head first and trusts it.
    if let Some(early) = head.get(..4096).and_then(filesystem::identify) {
        assert_eq!(Some(early), found);
    }
    let Some(found) = found else { return };
    assert!(KINDS.contains(&found.kind));
    assert_ne!(found.size.map(|size| size.0), Some(0));
    assert!(!found.label.contains('\0'));
    if !found.uuid.is_empty() {
        assert_uuid(&found.uuid);
        let reference = Reference::parse(&format!("UUID={}", found.uuid));
        assert_eq!(reference, Some(Reference::Uuid(found.uuid)));
    }
}

/// Reads partitions as a boot does: a GPT for either size of blocks, else an MBR.
fn partition_names(disk: &[u8], number: u32) {
    for block_bytes in [512u64, 4096] {
        let header = disk.get(block_bytes as usize..).unwrap_or_default();
        let Some(at) = partition::gpt_entry_at(header, block_bytes, number) else { continue };
        assert_ne!(number, 0);
        let entry = usize::try_from(at).ok().and_then(|at| disk.get(at..));
        if let Some(names) = entry.and_then(partition::gpt) {
            assert_uuid(&names.uuid);
            assert_names(names);
        }
    }
    // An entry shorter than the format's is not one.
    assert_eq!(partition::gpt(disk.get(..GPT_ENTRY_BYTES - 1).unwrap_or(disk)), None);
    if let Some(names) = partition::mbr(disk, number) {
        assert!(names.uuid.ends_with(&format!("-{number:02x}")) && names.label.is_empty());
        assert_names(names);
    }
}

/// Each name that a user can copy to `root=` means this partition.
fn assert_names(names: Names) {
    assert!(!names.label.contains('\0'));
    let reference = Reference::parse(&format!("PARTUUID={}", names.uuid));
    assert_eq!(reference, Some(Reference::PartUuid(names.uuid)));
}

fn assert_uuid(text: &str) {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{text}");
    assert!(text.bytes().all(|b| matches!(b, b'-' | b'0'..=b'9' | b'a'..=b'f')), "{text}");
}
