//! Chunks of 4 KiB, the unit in which a COW, the flush log and root are counted, read and written.

/// Chunk size that cowflush uses, in sectors: the page and the usual filesystem block.
pub const CHUNK_SECTORS: u32 = 8;
/// Chunk size in bytes.
pub const CHUNK_BYTES: usize = 4096;
/// Chunks that are read or written together: 256 KiB, at which a card works at its full rate.
pub const PIECE: usize = 64;

/// The parts of a list whose chunks, which `number` returns, follow each other; each is at most a
/// [`PIECE`].
pub fn rows<T>(mut list: &[T], number: impl Fn(&T) -> u64) -> impl Iterator<Item = &[T]> {
    core::iter::from_fn(move || {
        let first = number(list.first()?);
        let near = (0..).zip(list.iter().take(PIECE));
        let near = near.take_while(|(n, item)| first.checked_add(*n) == Some(number(item)));
        let (row, rest) = list.split_at_checked(near.count())?;
        list = rest;
        Some(row)
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_ends_where_a_chunk_is_left_out_and_after_a_piece() {
        let split = |list: &[u64]| rows(list, |chunk| *chunk).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(split(&[]), [0; 0]);
        assert_eq!(split(&[7]), [1]);
        assert_eq!(split(&[0, 1, 3, 2, 2, 3, u64::MAX, 0]), [2, 1, 1, 2, 1, 1]);
        let long: Vec<_> = (5..).take(2 * PIECE + 3).collect();
        assert_eq!(split(&long), [PIECE, PIECE, 3]);
    }
}
