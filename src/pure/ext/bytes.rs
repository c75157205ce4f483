//! What all readers of the filesystem share: numbers at a place, and why one of them gives up.

use crate::pure::chunks::Unreadable;

/// Why nothing is pruned, as a sentence about root's filesystem.
pub type Why = &'static str;

impl From<Unreadable> for Why {
    fn from(_: Unreadable) -> Self {
        "root's metadata can't be read"
    }
}

/// Little-endian numbers at a place; what lies behind the end is 0.
pub fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_le_bytes(*word))
}

pub fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}
