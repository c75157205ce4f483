//! What the chunks of a simulated root are: each sector carries its number and its version.

use crate::pure::chunks::{CHUNK_BYTES, Chunk};

use super::kernel::CHUNKS;
use crate::sys::world::image::SECTOR;

/// The version of a chunk of which nobody can say what it is: the card has lost it.
pub const UNKNOWN: u32 = u32::MAX;
/// Versions from this one on are of a root whose owner has given it another UUID.
pub const RENAMED: u32 = 1 << 24;

/// What a chunk of root is in that version. The first has a superblock.
pub fn chunk(number: u64, version: u32) -> Chunk {
    let mut data = [0; CHUNK_BYTES];
    for (index, sector) in data.chunks_exact_mut(SECTOR).enumerate() {
        sector[..4].copy_from_slice(&version.to_le_bytes());
        sector[4..8].copy_from_slice(&((number as u32) << 16 | index as u32).to_le_bytes());
        sector[SECTOR - 4..].copy_from_slice(&version.to_le_bytes());
    }
    if number == 0 {
        // As ext4 has it: its size, when it was written, its sign, its UUID.
        let superblock = &mut data[1024..2048];
        superblock.fill(0);
        superblock[4..8].copy_from_slice(&(CHUNKS as u32).to_le_bytes());
        superblock[24..28].copy_from_slice(&2u32.to_le_bytes());
        superblock[48..52].copy_from_slice(&version.to_le_bytes());
        superblock[56..58].copy_from_slice(&[0x53, 0xEF]);
        superblock[104..120].fill(if version < RENAMED { 7 } else { 8 });
    }
    data
}

/// The version that a chunk is of.
pub fn version_of(number: u64, data: &Chunk) -> Option<u32> {
    let version = u32::from_le_bytes(data[..4].try_into().unwrap());
    (*data == chunk(number, version)).then_some(version)
}
