//! What filesystem a partition holds, from its first bytes.
//!
//! Sources: ext2/3/4: the kernel's Documentation/filesystems/ext4/super.rst; XFS, F2FS and Btrfs:
//! their on-disk superblock structures (fs/xfs/libxfs/xfs_format.h, include/linux/f2fs_fs.h,
//! include/uapi/linux/btrfs_tree.h); squashfs: fs/squashfs/squashfs_fs.h; swap:
//! include/linux/swap.h; md: include/uapi/linux/raid/md_p.h and drivers/md/md.c; FAT, exFAT, NTFS,
//! LVM and LUKS: their published specifications.

use super::{partition, push_hex};
use crate::pure::ext::layout::superblock as at;
use crate::pure::units::{Bytes, Sectors};

/// How much of a partition [`identify`] wants to see.
pub const HEAD_BYTES: usize = 72 << 10;

/// A filesystem, as its superblock describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// The kernel's name of its type.
    pub kind: &'static str,
    /// Its UUID in the usual form of 36 characters; empty where the format has none.
    pub uuid: String,
    /// Its label; empty where there is none.
    pub label: String,
    /// How large it says it is; `None` where the format does not say it simply.
    pub size: Option<Bytes>,
    /// Whether it has a journal (ext only; true for the others, which are consistent by design).
    pub journal: bool,
    /// What of it is not on this device; empty where all of it is.
    pub elsewhere: &'static str,
}

/// The kind of a partition that holds cowflush's flush log.
pub const FLUSH_LOG: &str = "cowflush-log";

/// A format without UUID and label that cowflush would read.
const fn bare(kind: &'static str, magic: &'static [u8], magic_at: usize) -> Format {
    Format { kind, magic, magic_at, uuid_at: None, label_at: 0, label_bytes: 0 }
}

/// Where a format other than ext keeps its magic, UUID and label.
struct Format {
    kind: &'static str,
    magic: &'static [u8],
    magic_at: usize,
    uuid_at: Option<usize>,
    label_at: usize,
    label_bytes: usize,
}

const FORMATS: [Format; 13] = [
    // So that LABEL= and UUID= find it, and nothing takes it for root.
    Format {
        kind: FLUSH_LOG,
        magic: crate::pure::flushlog::records::HEADER_MAGIC,
        magic_at: 0,
        uuid_at: Some(16),
        label_at: 32,
        label_bytes: 16,
    },
    Format {
        kind: "xfs",
        magic: b"XFSB",
        magic_at: 0,
        uuid_at: Some(32),
        label_at: 108,
        label_bytes: 12,
    },
    bare("squashfs", b"hsqs", 0),
    // Formats that can't be Linux's root, and must not be taken for free space either.
    bare("vfat", b"FAT32   ", 82),
    bare("vfat", b"FAT16   ", 54),
    bare("vfat", b"FAT12   ", 54),
    bare("exfat", b"EXFAT   ", 3),
    bare("ntfs", b"NTFS    ", 3),
    Format {
        kind: "swap",
        magic: b"SWAPSPACE2",
        magic_at: 4086,
        uuid_at: Some(1024 + 12),
        label_at: 1024 + 28,
        label_bytes: 16,
    },
    bare("LVM", b"LABELONE", 512),
    bare("LUKS", b"LUKS\xba\xbe", 0),
    // F2FS keeps its label in UTF-16; it is not used to name root.
    Format {
        kind: "f2fs",
        magic: b"\x10\x20\xf5\xf2",
        magic_at: 1024,
        uuid_at: Some(1024 + 108),
        label_at: 0,
        label_bytes: 0,
    },
    Format {
        kind: "btrfs",
        magic: b"_BHRfS_M",
        magic_at: 0x10040,
        uuid_at: Some(0x10020),
        label_at: 0x1012b,
        label_bytes: 256,
    },
];

/// Recognises the filesystem in the first [`HEAD_BYTES`] of a partition. In a shorter head, formats
/// with a magic behind its end are not recognised.
pub fn identify(head: &[u8]) -> Option<Filesystem> {
    ext(head).or_else(|| FORMATS.iter().find_map(|format| other(head, format)))
}

/// What a device holds on which something is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: as a card comes from the factory, or was wiped.
    Blank,
    /// Something of this type.
    Known(&'static str),
    /// A disk with partitions.
    Table,
    /// Something else.
    Unknown,
}

/// Judges by the first [`HEAD_BYTES`] and the last [`TAIL_BYTES`], where some formats have a copy.
pub fn content(head: &[u8], tail: &[u8]) -> Content {
    let blank = |bytes: &[u8]| {
        bytes.iter().all(|byte| *byte == 0) || bytes.iter().all(|byte| *byte == 0xff)
    };
    if partition::has_table(head, tail) {
        Content::Table
    } else if let Some(found) = identify(head) {
        Content::Known(found.kind)
    } else if blank(head) && blank(tail) {
        Content::Blank
    } else {
        Content::Unknown
    }
}

/// How much of a partition's end [`content`] wants to see.
pub const TAIL_BYTES: usize = 64 << 10;

fn other(head: &[u8], format: &Format) -> Option<Filesystem> {
    let magic = head.get(format.magic_at..)?.get(..format.magic.len())?;
    if magic != format.magic {
        return None;
    }
    Some(Filesystem {
        kind: format.kind,
        uuid: format.uuid_at.map_or_else(String::new, |at| uuid(head, at)),
        label: label(head, format.label_at, format.label_bytes),
        size: None,
        journal: true,
        elsewhere: elsewhere(head, format.kind)?,
    })
}

const SEVERAL: &str = "its data are on several devices";

/// What the superblock says of other devices (`sb_logstart` and `sb_rblocks` of XFS, `num_devices`
/// of Btrfs, `devs` of F2FS). `None`: it is cut off before that.
fn elsewhere(head: &[u8], kind: &str) -> Option<&'static str> {
    Some(match kind {
        "xfs" if xfs_at::LOGSTART.within(head)? == [0; 8] => "its log is on another device",
        "xfs" if xfs_at::RBLOCKS.within(head)? != [0; 8] => SEVERAL,
        "btrfs" if btrfs_at::NUM_DEVICES.within(head.get(btrfs_at::AT..)?)? > 1 => SEVERAL,
        // The path of the first of them, where there are more.
        "f2fs" if f2fs_at::DEVS.within(head.get(f2fs_at::AT..)?)? != 0 => SEVERAL,
        _ => "",
    })
}

/// The superblock of XFS, big-endian (fs/xfs/libxfs/xfs_format.h).
mod xfs_at {
    use crate::pure::field::fields;

    fields! {
        /// Blocks of the realtime device.
        RBLOCKS: [u8; 8] = 16,
        /// The log's first block; 0 where the log is on a device of its own.
        LOGSTART: [u8; 8] = 48,
    }
}

/// The superblock of F2FS (include/linux/f2fs_fs.h).
pub mod f2fs_at {
    use crate::pure::field::fields;

    /// Where it stands on a device.
    pub const AT: usize = 1024;

    fields! {
        LOG_BLOCKS_PER_SEG: u32 = 20,
        CP_BLKADDR: u32 = 76,
        /// The path of the first device, where there are several: its first byte.
        DEVS: u8 = 2201,
    }
}

/// The superblock of Btrfs (include/uapi/linux/btrfs_tree.h).
mod btrfs_at {
    use crate::pure::field::fields;

    /// Where it stands on a device.
    pub const AT: usize = 0x1_0000;

    fields! {
        NUM_DEVICES: u64 = 0x88,
    }
}

/// The superblock of md, version 1 (include/uapi/linux/raid/md_p.h); the first two fields are those
/// of version 0.90, too.
mod md_at {
    use crate::pure::field::fields;

    fields! {
        MAGIC: u32 = 0,
        MAJOR_VERSION: u32 = 4,
        SUPER_OFFSET: u64 = 144,
    }
}

/// Where a device of that size has the superblock of an md array, if it is a part of one: versions
/// 0.90, 1.0, 1.1 and 1.2. With the first two, a mirror's filesystem begins where the device does,
/// and looks like the device's own.
pub fn array_places(size: Sectors) -> [Sectors; 4] {
    let before_end = |back: u64, unit: u64| Sectors((size.0.saturating_sub(back)) & !(unit - 1));
    let old = before_end(128, 128);
    [old, before_end(16, 8), Sectors(0), Sectors(8)]
}

/// Whether the sector at `place` makes the device part of an md array. A version 1 superblock says
/// where it stands: one that stands elsewhere was left by an array of another size. Version 0.90
/// has the order of bytes of the machine that wrote it.
pub fn is_array_part(sector: &[u8], place: Sectors) -> bool {
    const MAGIC: u32 = 0xa92b_4efc;
    match (md_at::MAGIC.of(sector), md_at::MAJOR_VERSION.within(sector)) {
        (MAGIC, Some(1)) => md_at::SUPER_OFFSET.within(sector) == Some(place.0),
        (magic, Some(0)) => magic == MAGIC || magic == MAGIC.swap_bytes(),
        _ => false,
    }
}

const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
/// What ext3 knows: filetype, needs-recovery, meta_bg. Anything more makes it ext4.
const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
/// sparse_super, large_file.
const RO_COMPAT_EXT3: u32 = 0x1 | 0x2;

fn ext(head: &[u8]) -> Option<Filesystem> {
    let block = head.get(at::AT..at::AT + at::BYTES)?;
    let (compat, incompat) = (at::FEATURE_COMPAT.of(block), at::FEATURE_INCOMPAT.of(block));
    if at::MAGIC.of(block) != at::MAGIC_NUMBER || incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
        return None;
    }
    let journal = compat & at::HAS_JOURNAL != 0;
    let newer = at::FEATURE_RO_COMPAT.of(block) & !RO_COMPAT_EXT3 != 0;
    let kind = if incompat & !INCOMPAT_EXT3 != 0 || newer {
        "ext4"
    } else if journal {
        "ext3"
    } else {
        "ext2"
    };
    let high = if incompat & at::IS_64BIT != 0 { at::BLOCKS_COUNT_HI.of(block) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(at::BLOCKS_COUNT_LO.of(block));
    let block_bytes = 1024u64.checked_shl(at::LOG_BLOCK_SIZE.of(block)).unwrap_or(0);
    Some(Filesystem {
        kind,
        uuid: uuid(block, at::UUID.at),
        label: label(block, at::VOLUME_NAME.at, at::VOLUME_NAME.range().len()),
        size: blocks.checked_mul(block_bytes).filter(|bytes| *bytes > 0).map(Bytes),
        journal,
        elsewhere: if journal && at::JOURNAL_INUM.of(block) == 0 {
            "its journal is on another device"
        } else {
            ""
        },
    })
}

/// 16 bytes as `0a1b2c3d-0a1b-…`; empty for a UUID that is all zeros or not there.
fn uuid(bytes: &[u8], at: usize) -> String {
    let Some(bytes) = bytes.get(at..at + 16) else { return String::new() };
    if bytes.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        push_hex(&mut text, *byte);
    }
    text
}

/// The 16 bytes of a UUID in its usual form; zeros for anything else.
pub fn uuid_bytes(text: &str) -> [u8; 16] {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| d.try_into().ok()).collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    match <[[u8; 2]; 16]>::try_from(pairs) {
        Ok(pairs) if rest.is_empty() => pairs.map(|[high, low]| high << 4 | low),
        _ => [0; 16],
    }
}

/// 16 bytes as a UUID in its usual form; empty for zeros.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    uuid(bytes, 0)
}

fn label(bytes: &[u8], at: usize, length: usize) -> String {
    let field = bytes.get(at..at + length).unwrap_or_default();
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ext_head(compat: u32, incompat: u32, ro_compat: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| {
            head[at::AT + at..at::AT + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0x4, &1000u32.to_le_bytes());
        put(0x18, &2u32.to_le_bytes());
        put(0x38, &0xef53u16.to_le_bytes());
        put(0x5c, &compat.to_le_bytes());
        put(0x60, &incompat.to_le_bytes());
        put(0x64, &ro_compat.to_le_bytes());
        put(0xe0, &8u32.to_le_bytes());
        put(0x68, &[0x0a, 0x1b, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        put(0x78, b"voyage\0");
        head
    }

    #[test]
    fn ext_versions_are_told_apart() {
        let ext4 = identify(&ext_head(4, 0x40, 0)).unwrap();
        assert_eq!((ext4.kind, ext4.journal), ("ext4", true));
        assert_eq!(ext4.uuid, "0a1b0203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!((ext4.label.as_str(), ext4.size), ("voyage", Some(Bytes(4_096_000))));
        assert_eq!(identify(&ext_head(4, 0x2, 3)).unwrap().kind, "ext3");
        assert_eq!(identify(&ext_head(0, 0x2, 3)).unwrap().kind, "ext2");
        let unjournaled = identify(&ext_head(0, 0x40, 0)).unwrap();
        assert_eq!((unjournaled.kind, unjournaled.journal), ("ext4", false));
        assert_eq!(identify(&ext_head(0, 0x8, 0)), None, "an external journal");
    }

    #[test]
    fn a_uuid_reads_back() {
        let text = "0a1b0203-0405-0607-0809-0a0b0c0d0eff";
        assert_eq!(uuid_text(&uuid_bytes(text)), text);
        for bad in [
            "",
            "0a1b",
            "xyz",
            &text[1..],
            "0a1b0203-0405-0607-0809-0a0b0c0d0effff",
            "0a1b0203-0405-0607-0809-0a0b0c0d0efff",
        ] {
            assert_eq!(uuid_bytes(bad), [0; 16], "{bad}");
        }
        let log = crate::pure::flushlog::records::Header {
            uuid: uuid_bytes(text),
            label: *b"log\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ..Default::default()
        };
        let found = identify(&log.encode()).unwrap();
        assert_eq!(
            (found.kind, found.uuid.as_str(), found.label.as_str()),
            (FLUSH_LOG, text, "log")
        );
    }

    #[test]
    fn others_are_known_by_their_magic() {
        let mut head = vec![0; HEAD_BYTES];
        head[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
        head[0x10020] = 1;
        assert_eq!(identify(&head).unwrap().kind, "btrfs");
        assert_eq!(identify(b"hsqs").unwrap().uuid, "");
        assert_eq!(identify(&[]), None);
        assert_eq!(identify(&vec![0; HEAD_BYTES]), None);
    }

    /// As mke2fs 1.47 (`-J device=`), mkfs.xfs 6.1 (`-l logdev=`, `-r rtdev=`), mkfs.btrfs 6.2 with
    /// two files and mkfs.f2fs 1.15 (`-c`) write it, beside what they write for one device.
    #[test]
    fn what_is_on_other_devices_is_known_by_the_superblock() {
        let elsewhere = |head: &[u8]| identify(head).unwrap().elsewhere;
        let mut ext = ext_head(0x3c, 0x2c2, 0x46b);
        assert_eq!(elsewhere(&ext), "");
        // s_journal_uuid, s_journal_inum, s_journal_dev
        ext[at::AT + 0xd0..at::AT + 0xe0]
            .copy_from_slice(&0xf24e_566e_5cd0_4e18_u128.to_be_bytes());
        ext[at::AT + 0xe0..at::AT + 0xe8].copy_from_slice(&0x701_u64.rotate_left(32).to_le_bytes());
        assert_eq!(elsewhere(&ext), "its journal is on another device");
        ext[at::AT + 0x5c] &= !4;
        assert_eq!(elsewhere(&ext), "", "what is left of a journal is none");

        let xfs = |rblocks: u64, logstart: u64| {
            let mut head = vec![0; HEAD_BYTES];
            head[..4].copy_from_slice(b"XFSB");
            head[16..24].copy_from_slice(&rblocks.to_be_bytes());
            head[48..56].copy_from_slice(&logstart.to_be_bytes());
            elsewhere(&head)
        };
        assert_eq!(xfs(0, 65542), "");
        assert_eq!(xfs(0, 0), "its log is on another device");
        assert_eq!(xfs(81920, 65541), "its data are on several devices");

        let btrfs = |devices: u64| {
            let mut head = vec![0; HEAD_BYTES];
            head[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
            head[0x10088..0x10090].copy_from_slice(&devices.to_le_bytes());
            elsewhere(&head)
        };
        assert_eq!([1, 2, 256].map(btrfs), ["", SEVERAL, SEVERAL]);

        let mut f2fs = vec![0; FIRST];
        f2fs[1024..1028].copy_from_slice(b"\x10\x20\xf5\xf2");
        assert_eq!(elsewhere(&f2fs), "");
        f2fs[1024 + 2201..1024 + 2209].copy_from_slice(b"/dev/sda");
        assert_eq!(elsewhere(&f2fs), SEVERAL);
        assert_eq!(identify(&f2fs[..1024 + 2201]), None, "cut off before it is said");
    }

    /// What devices::identify reads first.
    const FIRST: usize = 4096;

    #[test]
    fn a_part_of_an_array_is_known_where_its_version_has_its_superblock() {
        // 64 MiB and an odd rest, as mdadm 4.2 --metadata= places them: in sectors
        let size = Sectors(131_072 + 77);
        let places = array_places(size);
        assert_eq!(places.map(|place| place.0), [130_944, 131_128, 0, 8]);
        let mut sector = [0; 512];
        sector[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        for place in places {
            sector[144..152].copy_from_slice(&place.0.to_le_bytes());
            for other in places {
                assert_eq!(is_array_part(&sector, other), other == place);
            }
        }
        // Version 0.90 is `major_version` 0; written by a machine with the other order of bytes as
        // well.
        for magic in [[0xfc, 0x4e, 0x2b, 0xa9], [0xa9, 0x2b, 0x4e, 0xfc]] {
            let mut old = [0; 512];
            old[..4].copy_from_slice(&magic);
            assert!(is_array_part(&old, places[0]));
            old[4] = 2;
            assert!(!is_array_part(&old, places[0]), "no version that there is");
        }
        assert!(!is_array_part(&[0; 512], places[0]) && !is_array_part(&[], places[0]));
        for tiny in [0, 7, 127] {
            assert_eq!(array_places(Sectors(tiny))[0], Sectors(0), "no place before the begin");
        }
    }

    proptest! {
        #[test]
        fn any_superblock_is_read(block in prop::collection::vec(any::<u8>(), 1024)) {
            let mut head = vec![0; at::AT];
            head.extend(block);
            head[at::AT + 0x38] = 0x53;
            head[at::AT + 0x39] = 0xef;
            let _ = identify(&head);
            is_array_part(&head, Sectors(0));
        }
    }

    #[test]
    fn only_what_is_blank_from_end_to_end_counts_as_nothing() {
        let (zeros, ones) = (vec![0; HEAD_BYTES], vec![0xff; TAIL_BYTES]);
        for (head, tail) in [(&zeros, &ones), (&ones, &zeros), (&zeros, &zeros), (&ones, &ones)] {
            assert_eq!(content(head, tail), Content::Blank);
        }
        for at in [0, 511, 4096, HEAD_BYTES - 1] {
            let mut head = zeros.clone();
            head[at] = 1;
            assert_eq!(content(&head, &ones), Content::Unknown, "{at}");
        }
        for at in [0, TAIL_BYTES - 1] {
            let mut tail = ones.clone();
            tail[at] = 0;
            assert_eq!(content(&zeros, &tail), Content::Unknown, "{at} from the end");
        }
        for (kind, at, magic) in SIGNATURES {
            let mut head = zeros.clone();
            head[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(content(&head, &zeros), Content::Known(kind));
            // With a boot sector's end, as FAT and NTFS have.
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            assert_eq!(content(&head, &zeros), Content::Known(kind));
            // What is left of a filesystem that a disk had before it was divided.
            (head[450], head[458]) = (0x83, 8);
            assert_eq!(content(&head, &zeros), Content::Table, "{kind}");
        }
    }

    /// What identifies each format: its magic and where that stands, by the formats' specifications
    /// and not by [`FORMATS`].
    const SIGNATURES: [(&str, usize, &[u8]); 14] = [
        (FLUSH_LOG, 0, b"cowflLOG"),
        ("xfs", 0, b"XFSB"),
        ("squashfs", 0, &0x7371_7368u32.to_le_bytes()),
        ("vfat", 0x52, b"FAT32   "),
        ("vfat", 0x36, b"FAT16   "),
        ("vfat", 0x36, b"FAT12   "),
        ("exfat", 3, b"EXFAT   "),
        ("ntfs", 3, b"NTFS    "),
        ("swap", 4096 - 10, b"SWAPSPACE2"),
        ("LVM", 512, b"LABELONE"),
        ("LUKS", 0, &[0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]),
        ("f2fs", 1024, &0xf2f5_2010u32.to_le_bytes()),
        ("btrfs", 0x1_0000 + 0x40, &0x4d5f_5366_5248_425fu64.to_le_bytes()),
        ("ext2", 1024 + 56, &0xef53u16.to_le_bytes()),
    ];

    #[test]
    fn every_format_is_known_by_its_specified_magic_and_by_nothing_less() {
        for (kind, at, magic) in SIGNATURES {
            let mut head = vec![0; HEAD_BYTES];
            head[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(identify(&head).map(|found| found.kind), Some(kind));
            for byte in at..at + magic.len() {
                let mut other = head.clone();
                other[byte] ^= 0x40;
                assert_ne!(identify(&other).map(|found| found.kind), Some(kind), "byte {byte}");
                let cut = identify(&head[..byte]).map(|found| found.kind);
                assert_ne!(cut, Some(kind), "cut at {byte}");
            }
        }
        let known: Vec<&str> = FORMATS.iter().map(|format| format.kind).collect();
        let tested: Vec<&str> = SIGNATURES.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(known, tested[..known.len()], "a new format wants its line");
    }

    /// Where UUID and label stand: sb_uuid and sb_fname of XFS, swap_header_v1_2,
    /// f2fs_super_block's uuid, btrfs_super_block's fsid and label.
    #[test]
    fn uuid_and_label_are_read_where_each_format_has_them() {
        let cases = [
            ("xfs", 0, &b"XFSB"[..], Some(32), Some((108, 12))),
            ("swap", 4086, b"SWAPSPACE2", Some(1036), Some((1052, 16))),
            ("f2fs", 1024, b"\x10\x20\xf5\xf2", Some(1132), None),
            ("btrfs", 65_600, b"_BHRfS_M", Some(65_568), Some((65_835, 256))),
            ("squashfs", 0, b"hsqs", None, None),
            ("ext2", 1080, b"\x53\xef", Some(1128), Some((1144, 16))),
        ];
        for (kind, magic_at, magic, uuid_at, label_at) in cases {
            // What stands elsewhere must not be taken for either.
            let mut head = vec![0xa5; HEAD_BYTES];
            head[1024..2048].fill(0);
            // What ext has behind its label: where it was mounted last.
            head[1024 + 0x88] = b'/';
            let mut put =
                |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
            if let Some((at, length)) = label_at {
                put(at, &vec![b'L'; length]);
            }
            if let Some(at) = uuid_at {
                put(at, &[0x0a, 0x1b, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
            }
            put(magic_at, magic);
            let found = identify(&head).unwrap();
            assert_eq!(found.kind, kind);
            let uuid = if uuid_at.is_some() { "0a1b0203-0405-0607-0809-0a0b0c0d0eff" } else { "" };
            assert_eq!(found.uuid, uuid, "{kind}");
            let label = label_at.map_or(String::new(), |(_, length)| "L".repeat(length));
            assert_eq!(found.label, label, "{kind}");
            assert_eq!((found.journal, found.size), (kind != "ext2", None), "{kind}");
        }
    }

    #[test]
    fn the_size_of_an_ext_filesystem_is_counted_in_its_own_blocks() {
        let mut head = ext_head(4, 0x40 | at::IS_64BIT, 0);
        head[at::AT + 0x150] = 1;
        let size = |head: &[u8]| identify(head).unwrap().size;
        assert_eq!(size(&head), Some(Bytes(((1 << 32) + 1000) * 4096)));
        assert_eq!(size(&head[..2048]), size(&head), "no more is needed");
        assert_eq!(identify(&head[..2047]), None);
        // Without the feature the upper half is something else.
        head[at::AT + 0x60] &= !(at::IS_64BIT as u8);
        assert_eq!(size(&head), Some(Bytes(1000 * 4096)));
        head[at::AT + 0x18] = 0;
        assert_eq!(size(&head), Some(Bytes(1000 * 1024)));
        head[at::AT + 0x18] = 64;
        assert_eq!(size(&head), None, "a block that no number holds");
    }
}
