//! Reads chunks of a log, more than once where a read fails, and compares their checksums.

use crate::pure::chunks::{CHUNK_BYTES, Chunks, PIECE, Unreadable};
use crate::pure::crc::{self, crc32c};
use crate::pure::flushlog::records::BEHIND;
use crate::pure::flushlog::ring::Ring;
use crate::pure::flushlog::segment::Segment;

/// How often a chunk is tried before it counts as unreadable.
pub(super) const TRIES: u32 = 3;

/// The byte that stands for each byte of an unreadable chunk in the checksum of what stands behind
/// a segment.
pub const NOTHING: u8 = 0xb5;

/// A chunk of data that is not as its segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bad {
    /// Chunk number in the log's partition.
    pub place: u64,
    /// Whether the chunk can't be read; else its checksum is wrong.
    pub unreadable: bool,
}

/// Checksum of the [`BEHIND`] chunks from a position on. One that can't be read counts as
/// [`NOTHING`].
pub fn behind_crc(from: &mut impl Chunks, ring: &Ring, position: u64) -> u32 {
    let (mut at, end) = (position, position.saturating_add(BEHIND));
    let mut state = !0;
    while at < end {
        let count = ring.contiguous(at).clamp(1, end - at);
        each(from, ring.chunk(at), count as usize, &mut |_, chunk| {
            state = crc::update(state, chunk.unwrap_or(&[NOTHING; CHUNK_BYTES]));
        });
        at += count;
    }
    !state
}

/// Where a segment's data stand, and their checksums.
pub(super) fn wanted(ring: &Ring, segment: &Segment) -> Vec<(u64, Option<u32>)> {
    segment.data(ring).map(|(place, entry)| (place, Some(entry.crc))).collect()
}

/// Which of these places can't be read, or have another checksum than the one that is given. They
/// are read in ascending order, neighbours together.
pub fn bad_chunks(from: &mut impl Chunks, mut wanted: Vec<(u64, Option<u32>)>) -> Vec<Bad> {
    wanted.sort_unstable();
    let mut bad = Vec::new();
    let mut rest = wanted.as_slice();
    while let Some((start, _)) = rest.first() {
        let row = (*start..).zip(rest).take(PIECE).take_while(|(at, (place, _))| at == place);
        let (row, next) = rest.split_at(row.count());
        rest = next;
        let mut expected = row.iter();
        each(from, *start, row.len(), &mut |place, chunk| {
            let crc = expected.next().and_then(|(_, crc)| *crc);
            match chunk {
                None => bad.push(Bad { place, unreadable: true }),
                Some(chunk) if crc.is_some_and(|crc| crc32c(chunk) != crc) => {
                    bad.push(Bad { place, unreadable: false });
                }
                Some(_) => {}
            }
        });
    }
    bad
}

/// Reads a chunk; a read that fails is tried again.
pub(super) fn fetch(from: &mut impl Chunks, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
    (0..TRIES).find_map(|_| from.read(chunk, into).ok()).ok_or(Unreadable)
}

/// Shows a row of chunks, each with its number; `None` for one that can't be read.
pub(super) fn each(
    from: &mut impl Chunks,
    start: u64,
    count: usize,
    each: &mut dyn FnMut(u64, Option<&[u8]>),
) {
    let mut buffer = vec![0; count * CHUNK_BYTES];
    let together = from.read(start, &mut buffer).is_ok();
    for (at, chunk) in (start..).zip(buffer.chunks_exact_mut(CHUNK_BYTES)) {
        let readable = together || fetch(from, at, chunk).is_ok();
        each(at, readable.then_some(&*chunk));
    }
}
