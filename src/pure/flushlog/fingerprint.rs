//! Whether root is still what a log's segments were written for.
//!
//! A filesystem that is mounted somewhere else writes to its superblock. So each segment keeps
//! checksums of root's telling sectors: what the card held when the segment was written, and what
//! it holds once the segment is merged. A merge that was cut short leaves any mix of these. A
//! sector that matches none of them was written by another system; then the log must not be
//! applied.
//!
//! Places: the superblock of ext2/3/4 and XFS is in chunk 0, that of Btrfs in chunk 16. F2FS writes
//! its two checkpoint packs instead, whose place its superblock tells (include/linux/f2fs_fs.h).

use super::records::{FINGERPRINTS, Fingerprint, SECTORS};
use super::segment::Segment;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::disk::filesystem::f2fs_at;

/// The telling chunks of a root filesystem of this kind; `head` is its first chunk.
pub fn places(kind: Option<&str>, head: &[u8]) -> [Option<u64>; FINGERPRINTS] {
    match kind {
        Some("btrfs") => [Some(16), None, None, None],
        Some("f2fs") => {
            let block = head.get(f2fs_at::AT..).unwrap_or_default();
            let first = f2fs_at::CP_BLKADDR.within(block).map(u64::from);
            let segment = f2fs_at::LOG_BLOCKS_PER_SEG.within(block);
            let segment = segment.filter(|log| *log < 32).map(|log| 1u64 << log);
            let second = first.zip(segment).map(|(first, blocks)| first + blocks);
            [Some(0), first, second, None]
        }
        Some("ext2" | "ext3" | "ext4" | "xfs") => [Some(0), None, None, None],
        _ => [Some(0), Some(16), None, None],
    }
}

/// The chunks of root that the segments watch.
pub fn watched(segments: &[Segment]) -> Vec<u64> {
    let mut chunks = Vec::new();
    for fingerprint in known(segments) {
        if !chunks.contains(&fingerprint.chunk) {
            chunks.push(fingerprint.chunk);
        }
    }
    chunks
}

fn known(segments: &[Segment]) -> impl Iterator<Item = &Fingerprint> {
    let all = segments.iter().flat_map(|segment| &segment.head.fingerprints);
    all.filter(|fingerprint| fingerprint.chunk != Fingerprint::NONE)
}

/// Whether each sector of a watched chunk of root has a checksum that the segments know.
pub fn recognised(segments: &[Segment], chunk: u64, now: &[u32; SECTORS]) -> bool {
    now.iter().enumerate().all(|(sector, crc)| {
        known(segments).filter(|fingerprint| fingerprint.chunk == chunk).any(|fingerprint| {
            [&fingerprint.before, &fingerprint.after]
                .iter()
                .any(|crcs| crcs.get(sector) == Some(crc))
        })
    })
}

/// The checksums of a watched chunk that a segment does not hold: those of the youngest segment
/// before it, or of the card.
pub fn inherited(segments: &[Segment], chunk: u64, card: [u32; SECTORS]) -> [u32; SECTORS] {
    let younger_first = segments.iter().rev().flat_map(|segment| &segment.head.fingerprints);
    let mut same = younger_first.filter(|fingerprint| fingerprint.chunk == chunk);
    same.next().map_or(card, |fingerprint| fingerprint.after)
}

/// Bytes of root's head that [`places`] wants to see.
pub const HEAD_BYTES: usize = CHUNK_BYTES;

#[cfg(test)]
mod tests {
    use super::super::records::Head;
    use super::*;
    use crate::pure::disk::filesystem;

    fn segment(chunk: u64, before: u32, after: u32) -> Segment {
        let mut head = Head::default();
        head.fingerprints[0] =
            Fingerprint { chunk, before: [before; SECTORS], after: [after; SECTORS] };
        Segment { head, table: Vec::new(), committed: true }
    }

    #[test]
    fn a_torn_merge_is_recognised_and_a_stranger_is_not() {
        let segments = [segment(0, 1, 2), segment(0, 1, 3)];
        assert_eq!(watched(&segments), [0]);
        let recognised = |crcs| recognised(&segments, 0, &crcs);
        assert!(recognised([1; 8]) && recognised([3; 8]));
        assert!(recognised([1, 2, 3, 1, 1, 1, 1, 1]), "sectors of several states");
        assert!(!recognised([1, 1, 1, 1, 1, 1, 1, 9]));
        assert_eq!(inherited(&segments, 0, [7; 8]), [3; 8]);
        assert_eq!(inherited(&segments, 5, [7; 8]), [7; 8]);
    }

    #[test]
    fn places_of_filesystems() {
        let mut head = vec![0; HEAD_BYTES];
        assert_eq!(places(Some("ext4"), &head), [Some(0), None, None, None]);
        assert_eq!(places(None, &head), [Some(0), Some(16), None, None]);
        head[1024 + 20] = 9;
        head[1024 + 77] = 2;
        assert_eq!(places(Some("f2fs"), &head), [Some(0), Some(512), Some(1024), None]);
        assert_eq!(places(Some("f2fs"), &[]), [Some(0), None, None, None]);
        head[1024 + 20] = 255;
        assert_eq!(places(Some("f2fs"), &head)[2], None);
    }

    /// Where each filesystem that can be root keeps its superblock, and the magic that tells it, by
    /// the kernel's headers: EXT4_SUPER_MAGIC at 1080, XFS_SB_MAGIC at 0, F2FS_SUPER_OFFSET 1024,
    /// BTRFS_SUPER_INFO_OFFSET 64 KiB with the magic 64 bytes further.
    const SUPERBLOCKS: [(&str, usize, &[u8]); 4] = [
        ("ext2", 1080, &[0x53, 0xef]),
        ("xfs", 0, b"XFSB"),
        ("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
        ("btrfs", 65_600, b"_BHRfS_M"),
    ];

    #[test]
    fn the_superblock_of_every_filesystem_is_watched() {
        for (kind, at, magic) in SUPERBLOCKS {
            let mut head = vec![0; filesystem::HEAD_BYTES];
            head[at..at + magic.len()].copy_from_slice(magic);
            let found = filesystem::identify(&head).unwrap();
            assert_eq!(found.kind, kind);
            let place = Some((at / CHUNK_BYTES) as u64);
            assert!(places(Some(kind), &head).contains(&place), "{kind}");
            assert!(
                kind == "f2fs" || places(None, &head).contains(&place),
                "{kind} that is not known yet"
            );
        }
    }

    #[test]
    fn nothing_is_watched_that_others_may_change() {
        let head = vec![0; HEAD_BYTES];
        for kind in ["ext2", "ext3", "ext4", "xfs"] {
            // Any file's data may stand in chunk 16.
            assert_eq!(places(Some(kind), &head), [Some(0), None, None, None], "{kind}");
        }
        // A boot loader may be put before the superblock.
        assert_eq!(places(Some("btrfs"), &head), [Some(16), None, None, None]);
        let mut head = head;
        head[1024 + 20] = 31;
        assert_eq!(places(Some("f2fs"), &head)[2], Some(1 << 31));
        head[1024 + 20] = 32;
        assert_eq!(places(Some("f2fs"), &head)[2], None);
    }

    #[test]
    fn every_chunk_that_any_segment_watches_is_looked_at_once() {
        let segments = [
            segment(0, 1, 2),
            segment(16, 3, 4),
            segment(0, 2, 5),
            segment(Fingerprint::NONE, 0, 0),
        ];
        assert_eq!(watched(&segments), [0, 16]);
        assert!(watched(&[]).is_empty());
        // What one chunk may be another may not.
        assert!(recognised(&segments, 16, &[3; 8]) && !recognised(&segments, 16, &[1; 8]));
        assert!(recognised(&segments, 0, &[5; 8]) && !recognised(&segments, 0, &[4; 8]));
    }
}
