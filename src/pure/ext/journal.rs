//! The journal: which blocks are its own, and whether it is empty, so that none of them counts.

use core::ops::Range;

use super::groups::Groups;
use super::layout::{extent, extent_header, extent_index, inode as at, journal as log};
use super::refusal::Refusal;
use super::superblock::{Sums, Superblock};
use crate::pure::chunks::Chunks;
use crate::pure::crc;
use crate::pure::field::{Field, Stored};

/// An empty journal.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Its blocks but the first, which is its superblock: ranges (start, end), ascending.
    ranges: Vec<(u32, u32)>,
    /// The number that its next transaction will have at the earliest.
    sequence: u32,
}

/// More blocks than mke2fs gives a journal.
const MOST_BLOCKS: u32 = 1 << 18;
const MAGIC: u32 = 0xc03b_3998;
/// revoke, 64bit, async_commit, csum_v2, csum_v3.
const KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10;
const HAS_SUM: u32 = 0x8 | 0x10;
const EXTENTS: u32 = 0x8_0000;
/// Extents that are not written have a length above this.
const LONGEST: u16 = 0x8000;
const DEEPEST: u16 = 5;
const NONSENSE: Refusal = "root's journal's inode makes no sense";

impl Journal {
    /// Reads the journal's inode and superblock. Without a journal there are no blocks.
    pub fn read(groups: &mut Groups<'_, impl Chunks>) -> Result<Self, Refusal> {
        let Some(number) = groups.superblock.journal else { return Ok(Self::default()) };
        let mut map = Map { groups, ranges: Vec::new(), seed: 0, blocks: 0, left: 0 };
        map.inode(number)?;
        let Map { mut ranges, blocks, .. } = map;
        let first = ranges.first_mut().ok_or(NONSENSE)?;
        let head = first.0;
        first.0 = head.saturating_add(1);
        let sequence = empty_since(groups.superblock, &groups.block(head)?, blocks)?;
        ranges.sort_unstable();
        let apart = |pair: &[(u32, u32)]| matches!(pair, [a, b] if a.1 <= b.0);
        let mut journal = Self { ranges, sequence };
        if !journal.ranges.windows(2).all(apart) || journal.has(head) {
            return Err(NONSENSE);
        }
        journal.ranges.retain(|range| range.0 < range.1);
        Ok(journal)
    }

    /// Whether a block belongs to the journal, apart from the journal's superblock.
    pub fn has(&self, block: u32) -> bool {
        let behind = self.ranges.partition_point(|range| range.1 <= block);
        self.ranges.get(behind).is_some_and(|range| range.0 <= block)
    }

    /// Whether a block is certainly of the journal's past: a recovery that reads its first bytes
    /// does not go on with it.
    ///
    /// A recovery goes on as long as it finds the transaction number that it expects. Numbers only
    /// grow, modulo 2^32; those of the past are smaller. (fs/jbd2/recovery.c, `do_one_pass`.)
    pub fn is_past(&self, head: &[u8]) -> bool {
        log::MAGIC.of(head) != MAGIC
            || (self.sequence.wrapping_sub(log::HEADER_SEQUENCE.of(head)) as i32) > 0
    }
}

/// The number of the next transaction, if the journal, which has `blocks` blocks, is empty.
fn empty_since(superblock: &Superblock, block: &[u8], blocks: u32) -> Result<u32, Refusal> {
    let version = log::BLOCKTYPE.of(block);
    // Version 1 has no features.
    let features = if version == 4 { log::FEATURE_INCOMPAT.of(block) } else { 0 };
    let length = log::MAXLEN.of(block);
    let right = log::MAGIC.of(block) == MAGIC
        && (version == 3 || version == 4)
        && log::BLOCKSIZE.of(block) as usize == superblock.block_bytes()
        && (1..=blocks).contains(&length);
    if !right {
        return Err("root's journal's superblock makes no sense");
    }
    if features & !KNOWN != 0 || version == 4 && log::FEATURE_RO_COMPAT.of(block) != 0 {
        return Err("root's journal has a feature that pruning does not know (as fast_commit)");
    }
    if features & HAS_SUM != 0 {
        let part = |range| block.get(range).unwrap_or_default();
        let Range { start, end } = log::CHECKSUM.range();
        let parts = [part(0..start), &[0; 4], part(end..log::BYTES)];
        if log::CHECKSUM_TYPE.of(block) != 4
            || parts.into_iter().fold(!0, crc::update) != log::CHECKSUM.of(block)
        {
            return Err("root's journal's superblock has a wrong checksum");
        }
    }
    if log::ERRNO.of(block) != 0 {
        return Err("root's journal has recorded an error: let e2fsck check it");
    }
    if log::START.of(block) != 0 {
        return Err("root's journal is not empty");
    }
    Ok(log::SEQUENCE.of(block))
}

/// A journal's blocks in their order, as its inode tells them.
struct Map<'a, 'b, C> {
    groups: &'a mut Groups<'b, C>,
    ranges: Vec<(u32, u32)>,
    /// What checksums of the inode's blocks begin with.
    seed: u32,
    /// Blocks of the journal.
    blocks: u32,
    /// Of these, those that are still to be found.
    left: u32,
}

impl<C: Chunks> Map<'_, '_, C> {
    fn inode(&mut self, number: u32) -> Result<(), Refusal> {
        let superblock = self.groups.superblock;
        let Superblock { inodes_per_group, inode_bytes, shift, .. } = *superblock;
        let index = number.checked_sub(1).ok_or(NONSENSE)?;
        let group = index / inodes_per_group.max(1);
        if group >= superblock.groups() {
            return Err(NONSENSE);
        }
        let (block, within) = superblock.place(index % inodes_per_group.max(1), inode_bytes);
        let table = self.groups.descriptor(group)?.inode_table;
        let block = self.groups.block(table.saturating_add(block))?;
        let inode = block.get(within..within + inode_bytes).unwrap_or_default();
        self.seed = inode_seed(superblock, number, inode)?;
        self.blocks = at::SIZE_LO.of(inode) >> shift;
        self.left = self.blocks;
        let regular = at::MODE.of(inode) & 0xf000 == 0x8000 && at::LINKS_COUNT.of(inode) > 0;
        // A journal is smaller than 4 GiB.
        if !regular || at::SIZE_HIGH.of(inode) != 0 || !(1..=MOST_BLOCKS).contains(&self.blocks) {
            return Err(NONSENSE);
        }
        let map = inode.get(at::BLOCK.range()).unwrap_or_default();
        if at::FLAGS.of(inode) & EXTENTS != 0 {
            self.extents(map, None)?
        } else {
            self.indirect(map)?
        }
        if self.left == 0 { Ok(()) } else { Err(NONSENSE) }
    }

    /// Takes the next blocks of the journal.
    fn take(&mut self, start: u32, count: u32) -> Result<(), Refusal> {
        let end = start.saturating_add(count);
        let inside = start >= self.groups.superblock.first && end <= self.groups.superblock.end;
        self.left = self.left.checked_sub(count).filter(|_| inside).ok_or(NONSENSE)?;
        match self.ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.ranges.push((start, end)),
        }
        Ok(())
    }

    /// A node of the extent tree, whose level the node above tells.
    fn extents(&mut self, node: &[u8], level: Option<u16>) -> Result<(), Refusal> {
        let (count, depth) = (extent_header::ENTRIES.of(node), extent_header::DEPTH.of(node));
        let right = extent_header::MAGIC.of(node) == extent_header::MAGIC_NUMBER
            && depth <= DEEPEST
            && level.is_none_or(|level| level == depth)
            && (1..=extent_header::MAX.of(node)).contains(&count)
            && usize::from(count) < node.len() / extent_header::BYTES;
        if !right {
            return Err(NONSENSE);
        }
        for entry in node.chunks_exact(extent_header::BYTES).skip(1).take(usize::from(count)) {
            // Extents have the order of the file and leave no holes, else the total can't be right.
            if extent::BLOCK.of(entry) != self.blocks.saturating_sub(self.left) {
                return Err(NONSENSE);
            }
            if depth > 0 {
                let child = self.node(within(
                    extent_index::LEAF_LO.of(entry),
                    extent_index::LEAF_HI.of(entry),
                )?)?;
                self.extents(&child, Some(depth - 1))?;
                continue;
            }
            let length = extent::LEN.of(entry);
            if length == 0 || length > LONGEST {
                return Err(NONSENSE);
            }
            self.take(
                within(extent::START_LO.of(entry), extent::START_HI.of(entry))?,
                u32::from(length),
            )?;
        }
        Ok(())
    }

    /// A node outside of the inode; its checksum follows the entries that it has room for.
    fn node(&mut self, block: u32) -> Result<Vec<u8>, Refusal> {
        let bytes = self.groups.block(block)?;
        let end = extent_header::BYTES * (1 + usize::from(extent_header::MAX.of(&bytes)));
        let covered = bytes.get(..end).ok_or(NONSENSE)?;
        let wrong = crc::update(self.seed, covered) != Field::<u32>::at(end).of(&bytes);
        if self.groups.superblock.sums == Sums::Crc32c && wrong {
            return Err("root's journal's extents have a wrong checksum");
        }
        Ok(bytes)
    }

    /// The map of ext2 and ext3: 12 blocks, then blocks of numbers, then blocks of those.
    fn indirect(&mut self, map: &[u8]) -> Result<(), Refusal> {
        let (direct, trees) = map.split_at_checked(12 * 4).ok_or(NONSENSE)?;
        self.numbers(direct, 0)?;
        for (number, depth) in trees.chunks_exact(4).zip(1..) {
            self.numbers(number, depth)?;
        }
        Ok(())
    }

    /// Blocks of numbers, `depth` levels above the journal's own.
    fn numbers(&mut self, numbers: &[u8], depth: u32) -> Result<(), Refusal> {
        for number in numbers.chunks_exact(4).map(u32::read) {
            if self.left == 0 {
                break;
            }
            match depth.checked_sub(1) {
                None => self.take(number, 1)?,
                Some(below) => {
                    let block = self.groups.block(number)?;
                    self.numbers(&block, below)?;
                }
            }
        }
        Ok(())
    }
}

/// What checksums of an inode's blocks begin with, if the inode's own is right.
fn inode_seed(superblock: &Superblock, number: u32, inode: &[u8]) -> Result<u32, Refusal> {
    let generation = at::GENERATION.of(inode);
    let seed = crc::update(superblock.seed, &number.to_le_bytes());
    let seed = crc::update(seed, &generation.to_le_bytes());
    if superblock.sums != Sums::Crc32c {
        return Ok(seed);
    }
    // The upper half stands where a long inode has room for it.
    let long = inode.len() > 128 && at::EXTRA_ISIZE.of(inode) >= 4;
    let mut bytes = inode.to_vec();
    for place in at::CHECKSUM_LO.range().chain(at::CHECKSUM_HI.range().filter(|_| long)) {
        if let Some(byte) = bytes.get_mut(place) {
            *byte = 0;
        }
    }
    let sum = crc::update(seed, &bytes);
    let (high, mask) = if long { (at::CHECKSUM_HI.of(inode), !0) } else { (0, 0xffff) };
    let found = u32::from(high) << 16 | u32::from(at::CHECKSUM_LO.of(inode));
    if sum & mask == found { Ok(seed) } else { Err("root's journal's inode has a wrong checksum") }
}

/// A block's number, if it has no upper half.
fn within(low: u32, high: u16) -> Result<u32, Refusal> {
    if high == 0 { Ok(low) } else { Err(NONSENSE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u32) -> Vec<u8> {
        [MAGIC, 1, sequence].iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn only_smaller_numbers_are_past() {
        let journal = Journal { sequence: 5, ..Journal::default() };
        let past = |sequence| journal.is_past(&header(sequence));
        assert!(past(4) && past(0) && past(u32::MAX) && past(0x8000_0006));
        assert!(!past(5) && !past(6) && !past(0x8000_0004));
        assert!(journal.is_past(b"no header at all") && journal.is_past(&[]));
    }

    #[test]
    fn ranges_have_their_blocks() {
        let journal = Journal { ranges: vec![(3, 5), (9, 10)], sequence: 0 };
        let has: Vec<u32> = (0..12).filter(|block| journal.has(*block)).collect();
        assert_eq!(has, [3, 4, 9]);
    }
}
