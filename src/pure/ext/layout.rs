//! Where the structures of ext2, ext3 and ext4 have their fields. Sources: the kernel's
//! fs/ext4/ext4.h, fs/ext4/ext4_extents.h and include/linux/jbd2.h, with their names less the
//! prefix.

/// `struct ext4_super_block`: 1024 bytes, 1024 bytes behind the start of the partition.
pub mod superblock {
    use crate::pure::field::fields;

    /// Where it begins on the partition, in bytes.
    pub const AT: usize = 1024;
    /// Its bytes.
    pub const BYTES: usize = 1024;

    fields! {
        INODES_COUNT: u32 = 0x0,
        BLOCKS_COUNT_LO: u32 = 0x4,
        FIRST_DATA_BLOCK: u32 = 0x14,
        /// Bytes of a block are 1024 shifted by this.
        LOG_BLOCK_SIZE: u32 = 0x18,
        LOG_CLUSTER_SIZE: u32 = 0x1c,
        BLOCKS_PER_GROUP: u32 = 0x20,
        INODES_PER_GROUP: u32 = 0x28,
        /// Always [`MAGIC_NUMBER`].
        MAGIC: u16 = 0x38,
        STATE: u16 = 0x3a,
        CREATOR_OS: u32 = 0x48,
        REV_LEVEL: u32 = 0x4c,
        INODE_SIZE: u16 = 0x58,
        FEATURE_COMPAT: u32 = 0x5c,
        FEATURE_INCOMPAT: u32 = 0x60,
        FEATURE_RO_COMPAT: u32 = 0x64,
        UUID: [u8; 16] = 0x68,
        VOLUME_NAME: [u8; 16] = 0x78,
        /// Blocks behind the group descriptors that are kept for more of them.
        RESERVED_GDT_BLOCKS: u16 = 0xce,
        /// The journal's inode; 0: it has none here.
        JOURNAL_INUM: u32 = 0xe0,
        /// The journal's device; 0: this one.
        JOURNAL_DEV: u32 = 0xe4,
        DESC_SIZE: u16 = 0xfe,
        BLOCKS_COUNT_HI: u32 = 0x150,
        /// 1 is CRC-32C.
        CHECKSUM_TYPE: u8 = 0x175,
        CHECKSUM_SEED: u32 = 0x270,
        /// Of all before it.
        CHECKSUM: u32 = 0x3fc,
    }

    /// What [`MAGIC`] is.
    pub const MAGIC_NUMBER: u16 = 0xef53;
    /// A bit of [`FEATURE_COMPAT`].
    pub const HAS_JOURNAL: u32 = 0x4;
    /// A bit of [`FEATURE_INCOMPAT`].
    pub const IS_64BIT: u32 = 0x80;
}

/// `struct ext4_group_desc`: 32 bytes, or more with 64-bit block numbers, whose upper halves stand
/// behind those.
pub mod group {
    use crate::pure::field::fields;

    fields! {
        BLOCK_BITMAP_LO: u32 = 0x0,
        INODE_BITMAP_LO: u32 = 0x4,
        INODE_TABLE_LO: u32 = 0x8,
        FREE_BLOCKS_COUNT_LO: u16 = 0xc,
        FLAGS: u16 = 0x12,
        BLOCK_BITMAP_CSUM_LO: u16 = 0x18,
        /// Of the descriptor without this field.
        CHECKSUM: u16 = 0x1e,
        BLOCK_BITMAP_HI: u32 = 0x20,
        INODE_BITMAP_HI: u32 = 0x24,
        INODE_TABLE_HI: u32 = 0x28,
        FREE_BLOCKS_COUNT_HI: u16 = 0x2c,
        BLOCK_BITMAP_CSUM_HI: u16 = 0x38,
    }
}

/// `struct ext4_inode`.
pub mod inode {
    use crate::pure::field::fields;

    fields! {
        MODE: u16 = 0x0,
        SIZE_LO: u32 = 0x4,
        LINKS_COUNT: u16 = 0x1a,
        FLAGS: u32 = 0x20,
        /// The map of its blocks.
        BLOCK: [u8; 60] = 0x28,
        GENERATION: u32 = 0x64,
        SIZE_HIGH: u32 = 0x6c,
        CHECKSUM_LO: u16 = 0x7c,
        /// Bytes behind the first 128 that are in use.
        EXTRA_ISIZE: u16 = 0x80,
        CHECKSUM_HI: u16 = 0x82,
    }
}

/// `struct ext4_extent_header`, with which each node begins.
pub mod extent_header {
    use crate::pure::field::fields;

    fields! {
        MAGIC: u16 = 0,
        ENTRIES: u16 = 2,
        MAX: u16 = 4,
        /// Levels below this node.
        DEPTH: u16 = 6,
    }

    /// What [`MAGIC`] is.
    pub const MAGIC_NUMBER: u16 = 0xf30a;
    /// Bytes of the header, and of each entry behind it.
    pub const BYTES: usize = 12;
}

/// `struct ext4_extent_idx`: an entry above the lowest level.
pub mod extent_index {
    use crate::pure::field::fields;

    fields! {
        BLOCK: u32 = 0,
        LEAF_LO: u32 = 4,
        LEAF_HI: u16 = 8,
    }
}

/// `struct ext4_extent`: an entry of the lowest level.
pub mod extent {
    use crate::pure::field::fields;

    fields! {
        BLOCK: u32 = 0,
        LEN: u16 = 4,
        START_HI: u16 = 6,
        START_LO: u32 = 8,
    }
}

/// `struct journal_superblock_s`, with `struct journal_header_s` in front. The highest byte of each
/// number is the first.
pub mod journal {
    use crate::pure::field::{BigEndian32, fields};

    fields! {
        MAGIC: BigEndian32 = 0x0,
        BLOCKTYPE: BigEndian32 = 0x4,
        /// Of a block's header: the transaction that it belongs to.
        HEADER_SEQUENCE: BigEndian32 = 0x8,
        BLOCKSIZE: BigEndian32 = 0xc,
        /// Blocks of the journal.
        MAXLEN: BigEndian32 = 0x10,
        /// The first transaction that a recovery expects.
        SEQUENCE: BigEndian32 = 0x18,
        /// Where the log begins; 0: it is empty.
        START: BigEndian32 = 0x1c,
        ERRNO: BigEndian32 = 0x20,
        FEATURE_INCOMPAT: BigEndian32 = 0x28,
        FEATURE_RO_COMPAT: BigEndian32 = 0x2c,
        /// 4 is CRC-32C.
        CHECKSUM_TYPE: u8 = 0x50,
        /// Of all of [`BYTES`], this field taken as zeros.
        CHECKSUM: BigEndian32 = 0xfc,
    }

    /// Bytes of the superblock.
    pub const BYTES: usize = 1024;
}
