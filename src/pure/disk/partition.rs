//! The names of partitions: PARTUUID and PARTLABEL.
//!
//! Sources: block/partitions/msdos.c and efi.c in the kernel; UEFI specification, chapter 5.

use super::push_hex;
use crate::pure::field::fields;

/// The first sector of a disk with an MBR (include/linux/msdos_partition.h).
mod mbr_at {
    use super::fields;

    fields! {
        DISK_ID: u32 = 440,
        ENTRIES: [u8; 64] = 446,
        SIGNATURE: [u8; 2] = 510,
    }
}

/// An entry of an MBR (`struct msdos_partition`).
mod mbr_entry_at {
    use super::fields;

    fields! {
        BOOT_INDICATOR: u8 = 0,
        KIND: u8 = 4,
        SECTORS: u32 = 12,
    }
}

/// The header of a GPT (`struct _gpt_header` in block/partitions/efi.h).
mod gpt_at {
    use super::fields;

    fields! {
        SIGNATURE: [u8; 8] = 0,
        ENTRIES_LBA: u64 = 72,
        ENTRIES: u32 = 80,
        ENTRY_BYTES: u32 = 84,
    }
}

/// An entry of a GPT (`struct _gpt_entry`).
mod gpt_entry_at {
    use super::fields;

    fields! {
        KIND: [u8; 16] = 0,
        GUID: [u8; 16] = 16,
        NAME: [u8; 72] = 56,
    }
}

/// What a partition table says of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// MBR: disk id and number as `c0ffee00-01`; GPT: the partition's GUID. Lower case.
    pub uuid: String,
    /// GPT: the partition's name.
    pub label: String,
}

/// The names of partition `number` (from 1) of an MBR disk, from its first sector.
pub fn mbr(sector: &[u8], number: u32) -> Option<Names> {
    if mbr_at::SIGNATURE.of(sector) != MBR_SIGNATURE {
        return None;
    }
    let id = mbr_at::DISK_ID.of(sector);
    Some(Names { uuid: format!("{id:08x}-{number:02x}"), label: String::new() })
}

/// Where entry `number` (from 1) of a GPT stands on the disk, in bytes; from the header, which
/// is the disk's second logical block of `block_bytes`.
pub fn gpt_entry_at(header: &[u8], block_bytes: u64, number: u32) -> Option<u64> {
    if gpt_at::SIGNATURE.of(header) != GPT_SIGNATURE {
        return None;
    }
    let (table, count) = (gpt_at::ENTRIES_LBA.of(header), gpt_at::ENTRIES.of(header));
    let size = gpt_at::ENTRY_BYTES.of(header);
    let index = number.checked_sub(1).filter(|index| *index < count)?;
    let offset = u64::from(index).checked_mul(u64::from(size.max(GPT_ENTRY_BYTES as u32)))?;
    table.checked_mul(block_bytes)?.checked_add(offset)
}

/// Bytes of a GPT entry that [`gpt`] wants to see.
pub const GPT_ENTRY_BYTES: usize = gpt_entry_at::NAME.range().end;

/// The names in a GPT entry; `None` for an unused one.
pub fn gpt(entry: &[u8]) -> Option<Names> {
    if gpt_entry_at::KIND.of(entry) == [0; 16] {
        return None;
    }
    let guid = &gpt_entry_at::GUID.of(entry);
    let name = entry.get(gpt_entry_at::NAME.range())?.as_chunks::<2>().0;
    let name = name.iter().map(|unit| u16::from_le_bytes(*unit));
    let label = char::decode_utf16(name.take_while(|&unit| unit != 0))
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(Names { uuid: guid_text(guid), label })
}

/// Whether a disk that begins and ends with these bytes is divided: an MBR with a partition in it,
/// or a GPT, whose second copy at the end is enough.
pub fn has_table(head: &[u8], tail: &[u8]) -> bool {
    let gpt = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| bytes.starts_with(&GPT_SIGNATURE));
    let last = |block: usize| tail.len().checked_sub(block).and_then(|at| tail.get(at..));
    let entries = head.get(mbr_at::ENTRIES.range()).unwrap_or_default();
    let mut entries = entries.as_chunks::<16>().0.iter();
    let used = |entry: &[u8; 16]| {
        mbr_entry_at::KIND.of(entry) != 0 && mbr_entry_at::SECTORS.of(entry) != 0
    };
    // A filesystem's boot sector ends like an MBR, with code where the entries would be.
    let mbr = mbr_at::SIGNATURE.of(head) == MBR_SIGNATURE
        && entries.clone().all(|entry| matches!(mbr_entry_at::BOOT_INDICATOR.of(entry), 0 | 0x80))
        && entries.any(used);
    mbr || [512, 4096].iter().any(|block| gpt(head.get(*block..)) || gpt(last(*block)))
}

const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const GPT_SIGNATURE: [u8; 8] = *b"EFI PART";

/// A GUID's first three fields are little-endian.
fn guid_text(guid: &[u8; 16]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, index) in ORDER.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        push_hex(&mut text, guid.get(index).copied().unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mbr_names() {
        let mut sector = [0; 512];
        assert_eq!(mbr(&sector, 1), None);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector[440..444].copy_from_slice(&0xc0ff_ee00u32.to_le_bytes());
        assert_eq!(mbr(&sector, 2).unwrap().uuid, "c0ffee00-02");
        assert_eq!(mbr(&sector[..100], 2), None);
    }

    #[test]
    fn gpt_names() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        assert_eq!(gpt_entry_at(&header, 512, 3), Some(1024 + 256));
        assert_eq!(gpt_entry_at(&header, 512, 0), None);
        assert_eq!(gpt_entry_at(&header, 512, 129), None);
        header[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(gpt_entry_at(&header, 512, 3), None);

        let mut entry = [0; 128];
        assert_eq!(gpt(&entry), None);
        entry[0] = 1;
        for (n, byte) in entry[16..32].iter_mut().enumerate() {
            *byte = n as u8;
        }
        entry[56] = b'r';
        entry[58..60].copy_from_slice(&0xd800u16.to_le_bytes());
        let names = gpt(&entry).unwrap();
        assert_eq!(names.uuid, "03020100-0504-0706-0809-0a0b0c0d0e0f");
        assert_eq!(names.label, "r\u{fffd}");
    }

    #[test]
    fn a_disk_that_is_divided_is_known_by_its_start_or_its_end() {
        let blank = vec![0; 8192];
        assert!(!has_table(&blank, &blank) && !has_table(&[], &[]));
        let mut mbr = blank.clone();
        mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(!has_table(&mbr, &blank), "an MBR without partitions");
        for entry in 0..4 {
            let mut used = mbr.clone();
            (used[446 + 16 * entry + 4], used[446 + 16 * entry + 13]) = (0x83, 8);
            assert!(has_table(&used, &blank), "{entry}");
            used[446 + 16 * entry] = 0x80;
            assert!(has_table(&used, &blank), "{entry}");
            // A boot sector's code.
            used[446 + 16 * (3 - entry)] = 0x33;
            assert!(!has_table(&used, &blank), "{entry}");
        }
        for block in [512, 4096] {
            let mut gpt = blank.clone();
            gpt[block..block + 8].copy_from_slice(b"EFI PART");
            assert!(has_table(&gpt, &blank), "{block}");
            let mut backup = blank.clone();
            let at = backup.len() - block;
            backup[at..at + 8].copy_from_slice(b"EFI PART");
            assert!(has_table(&blank, &backup), "{block}");
        }
    }

    proptest! {
        #[test]
        fn any_table_is_read(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            number in any::<u32>(),
        ) {
            let _ = mbr(&bytes, number);
            let _ = gpt(&bytes);
            let _ = has_table(&bytes, &bytes);
            let mut header = b"EFI PART".to_vec();
            header.extend(&bytes);
            let _ = gpt_entry_at(&header, 4096, number);
        }
    }

    #[test]
    fn entries_of_any_size_are_found_in_blocks_of_any_size() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 4;
        header[85] = 1;
        assert_eq!(gpt_entry_at(&header, 4096, 1), Some(8192), "entries of 256 bytes");
        assert_eq!(gpt_entry_at(&header, 4096, 4), Some(8192 + 3 * 256));
        assert_eq!(gpt_entry_at(&header, 4096, 5), None);
        (header[84], header[85]) = (1, 0);
        assert_eq!(gpt_entry_at(&header, 512, 2), Some(1024 + 128), "less than the least");
        header[7] = b't';
        assert_eq!(gpt_entry_at(&header, 512, 1), None);
    }

    #[test]
    fn a_name_of_36_characters_has_no_end() {
        let mut entry = [0; 128];
        entry[15] = 1;
        for unit in entry[56..].chunks_mut(2) {
            unit[0] = b'n';
        }
        assert_eq!(gpt(&entry).unwrap().label, "n".repeat(36));
        assert_eq!(gpt(&entry[..127]), None);
        // Without a type it is unused, whatever else it has.
        entry[15] = 0;
        entry[16..].fill(7);
        assert_eq!(gpt(&entry), None);
        assert_eq!(mbr(&[&[0; 510][..], &[0x55, 0xaa]].concat(), 15).unwrap().uuid, "00000000-0f");
    }
}
