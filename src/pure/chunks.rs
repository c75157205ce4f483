//! Chunks of 4 KiB, the unit in which a COW, the flush log and root are counted, read and written.

/// Chunk size that cowflush uses, in sectors: the page and the usual filesystem block.
pub const CHUNK_SECTORS: u32 = 8;
/// Chunk size in bytes.
pub const CHUNK_BYTES: usize = 4096;
/// Chunks that are read or written together: 256 KiB, at which a card works at its full rate.
pub const PIECE: usize = 64;

/// The bytes of one chunk.
pub type Chunk = [u8; CHUNK_BYTES];

/// The chunks of a device, wherever they are.
pub trait Chunks {
    /// Reads whole chunks from number `chunk` on.
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable>;
}

/// A chunk could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;
