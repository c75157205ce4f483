//! The superblock: what the filesystem is, and whether it is one to prune.

use core::ops::Range;

use super::layout::superblock as at;
use super::refusal::Refusal;
use crate::pure::chunks::{CHUNK_BYTES, Chunks};
use crate::pure::crc;

/// How a filesystem protects its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// Not at all.
    None,
    /// `gdt_csum`: CRC-16 of the group descriptors.
    Crc16,
    /// `metadata_csum`: CRC-32C of everything.
    Crc32c,
}

/// Where everything is. Numbers are in blocks unless they say bytes.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Bytes of a block, as a power of 2: 10 to 16.
    pub shift: u32,
    /// The first block of group 0.
    pub first: u32,
    /// The block behind the last one.
    pub end: u32,
    /// Blocks of a group, but for the last; a multiple of 8.
    pub per_group: u32,
    /// Blocks behind the descriptors that are kept for more of them.
    pub reserved: u32,
    /// Inodes of a group.
    pub inodes_per_group: u32,
    /// Bytes of an inode: a power of 2 from 128 to a block.
    pub inode_bytes: usize,
    /// Bytes of a group's descriptor: a power of 2 from 32 to 1024.
    pub descriptor_bytes: usize,
    /// Descriptors are long; block numbers could have 64 bits, but none that large is pruned.
    pub is_64bit: bool,
    /// How metadata are protected.
    pub sums: Sums,
    /// What checksums begin with.
    pub seed: u32,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The journal's inode.
    pub journal: Option<u32>,
}

/// A chunk's bytes, as a power of 2.
const CHUNK_SHIFT: u32 = CHUNK_BYTES.trailing_zeros();

/// dir_prealloc, imagic_inodes, has_journal, ext_attr, resize_inode, dir_index, sparse_super2,
/// stable_inodes, orphan_file.
const COMPAT: u32 = 0x1 | 0x2 | at::HAS_JOURNAL | 0x8 | 0x10 | 0x20 | 0x200 | 0x800 | 0x1000;
const RECOVER: u32 = 0x4;
const CSUM_SEED: u32 = 0x2000;
/// filetype, extents, 64bit, flex_bg, ea_inode, csum_seed, large_dir, inline_data, encrypt,
/// casefold.
const INCOMPAT: u32 =
    0x2 | 0x40 | at::IS_64BIT | 0x200 | 0x400 | CSUM_SEED | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
const GDT_CSUM: u32 = 0x10;
const METADATA_CSUM: u32 = 0x400;
/// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, quota, metadata_csum,
/// project, verity, orphan_present.
const RO_COMPAT: u32 =
    0x1 | 0x2 | 0x8 | GDT_CSUM | 0x20 | 0x40 | 0x100 | METADATA_CSUM | 0x2000 | 0x8000 | 0x1_0000;

const VALID: u16 = 1;
const NONSENSE: Refusal = "root's superblock makes no sense";

impl Superblock {
    /// Reads the superblock from a device of `chunks` chunks. An error says why the filesystem
    /// can't be pruned.
    pub fn read(from: &mut impl Chunks, chunks: u64, frozen: bool) -> Result<Self, Refusal> {
        let mut chunk = [0; CHUNK_BYTES];
        from.read(0, &mut chunk)?;
        let bytes = chunk.get(at::AT..at::AT + at::BYTES).unwrap_or_default();
        if at::MAGIC.of(bytes) != at::MAGIC_NUMBER {
            return Err("root is not ext2, ext3 or ext4");
        }
        let sums = sums(bytes)?;
        trustworthy(bytes, frozen)?;
        let found = Self::parse(bytes, sums);
        found.is_plausible(bytes, chunks).then_some(found).ok_or(NONSENSE)
    }

    fn parse(bytes: &[u8], sums: Sums) -> Self {
        let incompat = at::FEATURE_INCOMPAT.of(bytes);
        let is_64bit = incompat & at::IS_64BIT != 0;
        let uuid = at::UUID.of(bytes);
        let seed = if incompat & CSUM_SEED != 0 {
            at::CHECKSUM_SEED.of(bytes)
        } else {
            crc::update(!0, &uuid)
        };
        let has_journal = at::FEATURE_COMPAT.of(bytes) & at::HAS_JOURNAL != 0;
        Self {
            shift: at::LOG_BLOCK_SIZE.of(bytes).saturating_add(10),
            first: at::FIRST_DATA_BLOCK.of(bytes),
            end: at::BLOCKS_COUNT_LO.of(bytes),
            per_group: at::BLOCKS_PER_GROUP.of(bytes),
            reserved: u32::from(at::RESERVED_GDT_BLOCKS.of(bytes)),
            inodes_per_group: at::INODES_PER_GROUP.of(bytes),
            inode_bytes: if at::REV_LEVEL.of(bytes) == 0 {
                128
            } else {
                usize::from(at::INODE_SIZE.of(bytes))
            },
            descriptor_bytes: if is_64bit { usize::from(at::DESC_SIZE.of(bytes)) } else { 32 },
            is_64bit,
            sums,
            seed,
            uuid,
            journal: has_journal.then(|| at::JOURNAL_INUM.of(bytes)),
        }
    }

    /// Whether the superblock meets the kernel's conditions for a mount and fits the device's size.
    fn is_plausible(&self, bytes: &[u8], chunks: u64) -> bool {
        let Self { shift, first, end, per_group, inode_bytes, descriptor_bytes, .. } = *self;
        if !(10..=16).contains(&shift) {
            return false;
        }
        let power = |number: usize, range: core::ops::RangeInclusive<usize>| {
            number.is_power_of_two() && range.contains(&number)
        };
        let bits = 8 << shift;
        // Clusters are as large as blocks.
        let sizes = at::LOG_CLUSTER_SIZE.of(bytes) == at::LOG_BLOCK_SIZE.of(bytes)
            && power(inode_bytes, 128..=self.block_bytes())
            && power(descriptor_bytes, if self.is_64bit { 64..=1024 } else { 32..=32 })
            && (!self.is_64bit || at::BLOCKS_COUNT_HI.of(bytes) == 0);
        let groups = (1..=bits).contains(&per_group) && per_group.is_multiple_of(8);
        let inodes = (1..=bits).contains(&self.inodes_per_group);
        let last = self.blocks_of(chunks.saturating_sub(1));
        sizes
            && groups
            && inodes
            && first == u32::from(shift == 10)
            && first < end
            && last.is_none_or(|last| end <= last.end)
            && self.groups().checked_mul(self.inodes_per_group) == Some(at::INODES_COUNT.of(bytes))
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        1 << self.shift
    }

    /// How many groups there are.
    pub fn groups(&self) -> u32 {
        self.end.saturating_sub(self.first).div_ceil(self.per_group.max(1))
    }

    /// A group's blocks.
    pub fn group(&self, group: u32) -> Range<u32> {
        let start = self.first.saturating_add(group.saturating_mul(self.per_group));
        start..start.saturating_add(self.per_group).min(self.end)
    }

    /// The blocks that a chunk overlaps, at least one; `None` where block numbers don't reach that
    /// far.
    pub fn blocks_of(&self, chunk: u64) -> Option<Range<u32>> {
        let (chunk, count) =
            (u32::try_from(chunk).ok()?, 1 << CHUNK_SHIFT.saturating_sub(self.shift));
        let start = (chunk >> self.shift.saturating_sub(CHUNK_SHIFT)).checked_mul(count)?;
        Some(start..start.checked_add(count)?)
    }

    /// The beginnings of blocks that lie in a chunk, which has number `chunk`.
    pub fn headers_in<'a>(&self, chunk: u64, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let per_block = 1u64 << self.shift.saturating_sub(CHUNK_SHIFT);
        let bytes = if chunk.is_multiple_of(per_block) { bytes } else { &[] };
        bytes.chunks(self.block_bytes())
    }
}

/// Features, revision and checksum.
fn sums(bytes: &[u8]) -> Result<Sums, Refusal> {
    let (compat, incompat) = (at::FEATURE_COMPAT.of(bytes), at::FEATURE_INCOMPAT.of(bytes));
    let ro_compat = at::FEATURE_RO_COMPAT.of(bytes);
    let unknown = compat & !COMPAT | incompat & !(INCOMPAT | RECOVER) | ro_compat & !RO_COMPAT;
    if unknown != 0 || at::REV_LEVEL.of(bytes) > 1 || at::CREATOR_OS.of(bytes) != 0 {
        return Err(
            "root has a feature that pruning does not know (as fast_commit, bigalloc, meta_bg)",
        );
    }
    match (ro_compat & METADATA_CSUM != 0, ro_compat & GDT_CSUM != 0) {
        (false, false) => Ok(Sums::None),
        (false, true) => Ok(Sums::Crc16),
        (true, true) => Err(NONSENSE),
        (true, false) => {
            let sum = crc::update(!0, bytes.get(..at::CHECKSUM.at).unwrap_or_default());
            let right = at::CHECKSUM_TYPE.of(bytes) == 1 && sum == at::CHECKSUM.of(bytes);
            if right { Ok(Sums::Crc32c) } else { Err("root's superblock has a wrong checksum") }
        }
    }
}

/// Whether the superblock shows a complete filesystem without recorded errors.
fn trustworthy(bytes: &[u8], frozen: bool) -> Result<(), Refusal> {
    let has_journal = at::FEATURE_COMPAT.of(bytes) & at::HAS_JOURNAL != 0;
    let state = at::STATE.of(bytes);
    if state & !VALID != 0 {
        return Err("root has recorded errors: let e2fsck check it");
    }
    // A freeze clears the flag that says that the journal needs a recovery. Without a journal there
    // is none; then ext2's own driver marks what it froze as valid, ext4's does not.
    let whole = if has_journal {
        at::FEATURE_INCOMPAT.of(bytes) & RECOVER == 0
    } else {
        frozen || state == VALID
    };
    if !whole {
        return Err("root could not be frozen, or that is not known");
    }
    // The superblock names another device for the journal.
    if has_journal && (at::JOURNAL_DEV.of(bytes) != 0 || at::JOURNAL_INUM.of(bytes) == 0) {
        return Err("root's journal is on another device");
    }
    Ok(())
}
