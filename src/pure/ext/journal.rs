//! The journal: which blocks are its own, and that none of them counts.

use super::bytes::{Why, le16, le32};
use super::groups::Groups;
use super::superblock::{Sums, Superblock};
use crate::pure::chunks::Chunks;
use crate::pure::crc;

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
const NONSENSE: Why = "root's journal's inode makes no sense";

impl Journal {
    /// Reads the journal's inode and superblock. Without a journal there are no blocks.
    pub fn read(groups: &mut Groups<'_, impl Chunks>) -> Result<Self, Why> {
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

    /// Whether a block is the journal's and not its superblock.
    pub fn has(&self, block: u32) -> bool {
        let behind = self.ranges.partition_point(|range| range.1 <= block);
        self.ranges.get(behind).is_some_and(|range| range.0 <= block)
    }

    /// Whether a recovery can't take a block, by its beginning, for one that was written later.
    ///
    /// A recovery goes on as long as it finds the number that it expects. Numbers only grow, by 32
    /// bits around; those of the past are smaller. (fs/jbd2/recovery.c, `do_one_pass`.)
    pub fn is_past(&self, head: &[u8]) -> bool {
        be32(head, 0) != MAGIC || (self.sequence.wrapping_sub(be32(head, 8)) as i32) > 0
    }
}

/// The number of the next transaction, if the journal of so many blocks is empty.
fn empty_since(superblock: &Superblock, block: &[u8], blocks: u32) -> Result<u32, Why> {
    let version = be32(block, 0x4);
    // Version 1 has no features.
    let features = if version == 4 { be32(block, 0x28) } else { 0 };
    let length = be32(block, 0x10);
    let right = be32(block, 0) == MAGIC
        && (version == 3 || version == 4)
        && be32(block, 0xc) as usize == superblock.block_bytes()
        && (1..=blocks).contains(&length);
    if !right {
        return Err("root's journal's superblock makes no sense");
    }
    if features & !KNOWN != 0 || version == 4 && be32(block, 0x2c) != 0 {
        return Err("root's journal has a feature that pruning does not know (as fast_commit)");
    }
    if features & HAS_SUM != 0 {
        let part = |range| block.get(range).unwrap_or_default();
        let parts = [part(0..0xfc), &[0; 4], part(0x100..1024)];
        // 4 is CRC-32C.
        if block.get(0x50) != Some(&4)
            || parts.into_iter().fold(!0, crc::update) != be32(block, 0xfc)
        {
            return Err("root's journal's superblock has a wrong checksum");
        }
    }
    if be32(block, 0x20) != 0 {
        return Err("root's journal has recorded an error: let e2fsck check it");
    }
    if be32(block, 0x1c) != 0 {
        return Err("root's journal is not empty");
    }
    Ok(be32(block, 0x18))
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
    fn inode(&mut self, number: u32) -> Result<(), Why> {
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
        self.blocks = le32(inode, 0x4) >> shift;
        self.left = self.blocks;
        let regular = le16(inode, 0x0) & 0xf000 == 0x8000 && le16(inode, 0x1a) > 0;
        // 4 GiB or more is no journal.
        if !regular || le32(inode, 0x6c) != 0 || !(1..=MOST_BLOCKS).contains(&self.blocks) {
            return Err(NONSENSE);
        }
        let map = inode.get(0x28..0x28 + 60).unwrap_or_default();
        if le32(inode, 0x20) & EXTENTS != 0 {
            self.extents(map, None)?
        } else {
            self.indirect(map)?
        }
        if self.left == 0 { Ok(()) } else { Err(NONSENSE) }
    }

    /// Takes the next blocks of the journal.
    fn take(&mut self, start: u32, count: u32) -> Result<(), Why> {
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
    fn extents(&mut self, node: &[u8], level: Option<u16>) -> Result<(), Why> {
        let (count, depth) = (le16(node, 2), le16(node, 6));
        let right = le16(node, 0) == 0xf30a
            && depth <= DEEPEST
            && level.is_none_or(|level| level == depth)
            && (1..=le16(node, 4)).contains(&count)
            && usize::from(count) < node.len() / 12;
        if !right {
            return Err(NONSENSE);
        }
        for entry in node.chunks_exact(12).skip(1).take(usize::from(count)) {
            // In the order of the file and without holes, else the sum can't be right.
            if le32(entry, 0) != self.blocks.saturating_sub(self.left) {
                return Err(NONSENSE);
            }
            if depth > 0 {
                let child = self.node(within(le32(entry, 4), le16(entry, 8))?)?;
                self.extents(&child, Some(depth - 1))?;
                continue;
            }
            let length = le16(entry, 4);
            if length == 0 || length > LONGEST {
                return Err(NONSENSE);
            }
            self.take(within(le32(entry, 8), le16(entry, 6))?, u32::from(length))?;
        }
        Ok(())
    }

    /// A node outside of the inode; its checksum follows the entries that it has room for.
    fn node(&mut self, block: u32) -> Result<Vec<u8>, Why> {
        let bytes = self.groups.block(block)?;
        let end = 12 * (1 + usize::from(le16(&bytes, 4)));
        let covered = bytes.get(..end).ok_or(NONSENSE)?;
        let wrong = crc::update(self.seed, covered) != le32(&bytes, end);
        if self.groups.superblock.sums == Sums::Crc32c && wrong {
            return Err("root's journal's extents have a wrong checksum");
        }
        Ok(bytes)
    }

    /// The map of ext2 and ext3: 12 blocks, then blocks of numbers, then blocks of those.
    fn indirect(&mut self, map: &[u8]) -> Result<(), Why> {
        let (direct, trees) = map.split_at_checked(12 * 4).ok_or(NONSENSE)?;
        self.numbers(direct, 0)?;
        for (number, depth) in trees.chunks_exact(4).zip(1..) {
            self.numbers(number, depth)?;
        }
        Ok(())
    }

    /// Blocks of numbers, `depth` levels above the journal's own.
    fn numbers(&mut self, numbers: &[u8], depth: u32) -> Result<(), Why> {
        for number in numbers.chunks_exact(4).map(|number| le32(number, 0)) {
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
fn inode_seed(superblock: &Superblock, number: u32, inode: &[u8]) -> Result<u32, Why> {
    let generation = le32(inode, 0x64);
    let seed = crc::update(superblock.seed, &number.to_le_bytes());
    let seed = crc::update(seed, &generation.to_le_bytes());
    if superblock.sums != Sums::Crc32c {
        return Ok(seed);
    }
    // The upper half stands where a long inode has room for it.
    let long = inode.len() > 128 && le16(inode, 0x80) >= 4;
    let mut bytes = inode.to_vec();
    for at in [0x7c, 0x7d, 0x82, 0x83] {
        if let Some(byte) = bytes.get_mut(at).filter(|_| long || at < 0x80) {
            *byte = 0;
        }
    }
    let sum = crc::update(seed, &bytes);
    let (high, mask) = if long { (le16(inode, 0x82), !0) } else { (0, 0xffff) };
    let found = u32::from(high) << 16 | u32::from(le16(inode, 0x7c));
    if sum & mask == found { Ok(seed) } else { Err("root's journal's inode has a wrong checksum") }
}

/// A block's number, if it has no upper half.
fn within(low: u32, high: u16) -> Result<u32, Why> {
    if high == 0 { Ok(low) } else { Err(NONSENSE) }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    le32(bytes, at).swap_bytes()
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
