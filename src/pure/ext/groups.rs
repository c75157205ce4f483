//! Block groups: their descriptors, and which blocks are free.

use core::ops::Range;

use super::layout::group as at;
use super::refusal::Refusal;
use super::superblock::{Sums, Superblock};
use crate::pure::chunks::{CHUNK_BYTES, Chunks};
use crate::pure::crc;
use crate::pure::field::Field;

/// A filesystem that is read group by group.
pub struct Groups<'a, C> {
    /// What it is.
    pub superblock: &'a Superblock,
    from: &'a mut C,
    /// The last group that was looked at, and its bitmap.
    seen: Option<(u32, Option<Vec<u8>>)>,
    /// In a group whose bitmap was never written, only the metadata count as used.
    untouched_is_free: bool,
}

/// A group's descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Where its block bitmap is.
    pub block_bitmap: u32,
    /// Where its inode bitmap is.
    pub inode_bitmap: u32,
    /// Where its inodes begin.
    pub inode_table: u32,
    /// Free blocks.
    pub free: u32,
    /// The bitmap was never written: nothing is used but metadata, where that may be.
    pub block_uninit: bool,
    /// The bitmap's checksum; 16 bits of it in a short descriptor.
    bitmap_sum: u32,
}

const BLOCK_UNINIT: u16 = 2;

impl<'a, C: Chunks> Groups<'a, C> {
    /// Starts with nothing read. A group whose bitmap was never written has no free blocks.
    pub fn new(superblock: &'a Superblock, from: &'a mut C) -> Self {
        Self { superblock, from, seen: None, untouched_is_free: false }
    }

    /// As [`Self::new`], but in a group whose bitmap was never written all blocks are free except
    /// those where the kernel puts metadata (fs/ext4/balloc.c, `ext4_init_block_bitmap`).
    pub fn with_untouched(superblock: &'a Superblock, from: &'a mut C) -> Self {
        Self { untouched_is_free: true, ..Self::new(superblock, from) }
    }

    /// Reads a block.
    pub fn block(&mut self, block: u32) -> Result<Vec<u8>, Refusal> {
        let length = self.superblock.block_bytes();
        let start = u64::from(block) << self.superblock.shift;
        let mut bytes = vec![0; length.max(CHUNK_BYTES)];
        self.from.read(start / CHUNK_BYTES as u64, &mut bytes)?;
        bytes.drain(..start as usize % CHUNK_BYTES);
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Whether the bitmaps call a block free. A block outside of all groups is not free.
    pub fn is_free(&mut self, block: u32) -> Result<bool, Refusal> {
        let Superblock { first, end, per_group, .. } = *self.superblock;
        if !(first..end).contains(&block) {
            return Ok(false);
        }
        let (group, bit) = ((block - first) / per_group, (block - first) % per_group);
        let bits = match self.seen.take() {
            Some((seen, bits)) if seen == group => bits,
            _ => self.bitmap(group)?,
        };
        let free = bits.as_ref().is_some_and(|bits| !is_set(bits, bit));
        self.seen = Some((group, bits));
        Ok(free)
    }

    /// A group's descriptor, if its checksum is right.
    pub fn descriptor(&mut self, group: u32) -> Result<Descriptor, Refusal> {
        let Superblock { descriptor_bytes: length, first, is_64bit, .. } = *self.superblock;
        let (table, within) = self.superblock.place(group, length);
        let block = self.block(table.saturating_add(first + 1))?;
        let bytes = block.get(within..within + length).unwrap_or_default();
        let right = match self.superblock.sums {
            Sums::None => true,
            Sums::Crc16 => at::CHECKSUM.of(bytes) == self.superblock.crc16(group, bytes),
            Sums::Crc32c => at::CHECKSUM.of(bytes) == self.superblock.crc32c(group, bytes) as u16,
        };
        if !right {
            return Err("one of root's group descriptors has a wrong checksum");
        }
        // In a short descriptor the upper halves lie behind the end, and are 0.
        let high = [at::BLOCK_BITMAP_HI, at::INODE_BITMAP_HI, at::INODE_TABLE_HI];
        if is_64bit && high.iter().any(|half| half.of(bytes) != 0) {
            return Err("one of root's group descriptors makes no sense");
        }
        let whole = |low: Field<u16>, high: Field<u16>| {
            u32::from(high.of(bytes)) << 16 | u32::from(low.of(bytes))
        };
        let flags = if self.superblock.sums == Sums::None { 0 } else { at::FLAGS.of(bytes) };
        Ok(Descriptor {
            block_bitmap: at::BLOCK_BITMAP_LO.of(bytes),
            inode_bitmap: at::INODE_BITMAP_LO.of(bytes),
            inode_table: at::INODE_TABLE_LO.of(bytes),
            free: whole(at::FREE_BLOCKS_COUNT_LO, at::FREE_BLOCKS_COUNT_HI),
            block_uninit: flags & BLOCK_UNINIT != 0,
            bitmap_sum: whole(at::BLOCK_BITMAP_CSUM_LO, at::BLOCK_BITMAP_CSUM_HI),
        })
    }

    /// A group's block bitmap, if everything about it is right; `None` when it was never written.
    fn bitmap(&mut self, group: u32) -> Result<Option<Vec<u8>>, Refusal> {
        let descriptor = self.descriptor(group)?;
        if descriptor.block_uninit {
            return Ok(self.untouched_is_free.then(|| self.untouched(&descriptor, group)));
        }
        let Superblock { first, end, per_group, sums, seed, .. } = *self.superblock;
        if !(first..end).contains(&descriptor.block_bitmap) {
            return Err("one of root's block bitmaps is nowhere");
        }
        let bits = self.block(descriptor.block_bitmap)?;
        if sums == Sums::Crc32c {
            let covered = bits.get(..(per_group / 8) as usize).unwrap_or_default();
            let mask = if self.superblock.is_64bit { !0 } else { 0xffff };
            if crc::update(seed, covered) & mask != descriptor.bitmap_sum {
                return Err("one of root's block bitmaps has a wrong checksum");
            }
        }
        let blocks = self.superblock.group(group);
        if !self.agrees(&descriptor, &bits, &blocks) {
            return Err(
                "one of root's block bitmaps does not agree with its group: let e2fsck check it",
            );
        }
        Ok(Some(bits))
    }

    /// Whether the bitmap has as many free blocks as the descriptor says, and the blocks of the
    /// group's own metadata are not free. Without checksums nothing else tells a bitmap from
    /// garbage.
    fn agrees(&self, descriptor: &Descriptor, bits: &[u8], blocks: &Range<u32>) -> bool {
        let used = |block: u32| is_set(bits, block.saturating_sub(blocks.start));
        let free = blocks.clone().filter(|block| !used(*block)).count() as u32;
        // With flex_bg they may lie in another group.
        free == descriptor.free
            && self.own(descriptor).all(|block| !blocks.contains(&block) || used(block))
    }

    /// The group's own metadata, but for copies of the superblock.
    fn own(&self, descriptor: &Descriptor) -> impl Iterator<Item = u32> + use<C> {
        let Superblock { inodes_per_group, inode_bytes, .. } = *self.superblock;
        let end = self.superblock.blocks_for(inodes_per_group, inode_bytes);
        let end = descriptor.inode_table.saturating_add(end);
        [descriptor.block_bitmap, descriptor.inode_bitmap]
            .into_iter()
            .chain(descriptor.inode_table..end)
    }

    /// The bitmap of a group that has nothing but metadata. It takes each group to have a copy of
    /// the superblock and the descriptors, though only some may.
    fn untouched(&self, descriptor: &Descriptor, group: u32) -> Vec<u8> {
        let Superblock { per_group, descriptor_bytes, reserved, .. } = *self.superblock;
        let descriptors = self.superblock.blocks_for(self.superblock.groups(), descriptor_bytes);
        let start = self.superblock.group(group).start;
        let mut bits = vec![0; (per_group / 8) as usize];
        let copies = 0..descriptors.saturating_add(reserved).saturating_add(1).min(per_group);
        let own = self.own(descriptor).filter_map(|block| block.checked_sub(start));
        for bit in copies.chain(own) {
            if let Some(byte) = bits.get_mut((bit / 8) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
        bits
    }
}

impl Superblock {
    /// Where entry `index` of a table stands: in which of the table's blocks, and at which byte of
    /// it. An entry has `bytes` bytes, a power of 2 that is not larger than a block.
    pub fn place(&self, index: u32, bytes: usize) -> (u32, usize) {
        let per_block = self.shift - bytes.trailing_zeros().min(self.shift);
        let within = index as usize & ((1 << per_block) - 1);
        (index >> per_block, within * bytes)
    }

    /// How many blocks a table of `entries` takes.
    fn blocks_for(&self, entries: u32, bytes: usize) -> u32 {
        let (blocks, rest) = self.place(entries, bytes);
        blocks + u32::from(rest > 0)
    }

    fn crc32c(&self, group: u32, descriptor: &[u8]) -> u32 {
        let (before, after) = around_sum(descriptor);
        let state = crc::update(self.seed, &group.to_le_bytes());
        [before, &[0; 2], after].into_iter().fold(state, crc::update)
    }

    fn crc16(&self, group: u32, descriptor: &[u8]) -> u16 {
        let (before, after) = around_sum(descriptor);
        let number = group.to_le_bytes();
        [&self.uuid, &number[..], before, after].into_iter().fold(!0, crc16)
    }
}

fn around_sum(descriptor: &[u8]) -> (&[u8], &[u8]) {
    let part = |range| descriptor.get(range).unwrap_or_default();
    let Range { start, end } = at::CHECKSUM.range();
    (part(0..start), part(end..descriptor.len().max(end)))
}

/// CRC-16 with the polynomial 0x8005, reflected (the kernel's lib/crc16.c).
fn crc16(state: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(state ^ u16::from(*byte), |state, _| {
            if state & 1 == 1 { state >> 1 ^ 0xa001 } else { state >> 1 }
        })
    })
}

/// What lies behind the bitmap's end is not free.
fn is_set(bits: &[u8], bit: u32) -> bool {
    bits.get((bit / 8) as usize).is_none_or(|byte| byte >> (bit % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_value_of_crc16() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }

    #[test]
    fn bits_behind_the_end_are_set() {
        assert!(
            !is_set(&[0b10], 0) && is_set(&[0b10], 1) && is_set(&[0], 8) && is_set(&[], u32::MAX)
        );
    }
}
