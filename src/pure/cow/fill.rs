//! Fills the gaps of erase blocks, so that a merge writes each block from its start on.
//!
//! A card that maps whole erase blocks (CompactFlash) takes writes to a log block. When that holds
//! a block's pages in order from the first one on, the card completes it by itself and erases one
//! block; when a page is missing in between, it copies everything once more and erases two. So
//! what stands between the block's start and the last chunk that is merged is written again, as it
//! is. It is the same content, so it does not matter how much of it a power cut lets through.

use super::exception_store::Exception;
use crate::pure::chunks::CHUNK_BYTES;

/// How many chunks may be copied into the view.
pub type Budget = u64;

/// New chunks from here on are not on the COW: chunk `FROM_CARD + c` is chunk c of the card.
pub const FROM_CARD: u64 = 1 << 62;

/// Where a card's erase blocks lie, in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EraseBlocks {
    /// Chunks in one.
    pub size: u64,
    /// Chunks on the card before root's first one.
    pub before: u64,
}

impl EraseBlocks {
    /// The erase block that root's chunk is in.
    fn of(self, chunk: u64) -> u64 {
        self.before.saturating_add(chunk) / self.size.max(1)
    }

    /// Root's first chunk in the same erase block.
    fn start(self, chunk: u64) -> u64 {
        let start = self.of(chunk).saturating_mul(self.size.max(1));
        start.saturating_sub(self.before)
    }
}

/// Whether an entry is one that [`fill`] added.
pub fn is_filler(exception: &Exception) -> bool {
    exception.new >= FROM_CARD
}

/// Adds entries to a sorted table so that each erase block is written from its start to its last
/// entry, as long as `budget` has room for what they copy. What they copy is subtracted from it.
pub fn fill(sorted: &[Exception], blocks: EraseBlocks, budget: &mut Budget) -> Vec<Exception> {
    let mut filled = Vec::with_capacity(sorted.len());
    for block in sorted.chunk_by(|a, b| blocks.of(a.old) == blocks.of(b.old)) {
        let (Some(first), Some(last)) = (block.first(), block.last()) else { continue };
        let start = blocks.start(first.old);
        let gaps = (last.old - start).saturating_add(1).saturating_sub(block.len() as u64);
        if gaps > *budget {
            filled.extend(block);
            continue;
        }
        *budget -= gaps;
        let mut next = start;
        for exception in block {
            let fillers = next..exception.old;
            filled.extend(fillers.map(|old| Exception { old, new: FROM_CARD.saturating_add(old) }));
            filled.push(*exception);
            next = exception.old.saturating_add(1);
        }
    }
    filled
}

/// The table without the fillers that `unwanted` names by their chunk; entries that are not fillers
/// stay.
pub fn without(table: &[Exception], unwanted: impl Fn(u64) -> bool) -> Vec<Exception> {
    table.iter().filter(|entry| !(is_filler(entry) && unwanted(entry.old))).copied().collect()
}

/// Reads neighbouring chunks of the card from `first` on, together where that works, else one by
/// one. Returns the chunks that can't be read: `read` returns `false` where it could not fill its
/// buffer from that chunk on.
pub fn read(first: u64, into: &mut [u8], mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Vec<u64> {
    if read(first, into) {
        return Vec::new();
    }
    let alone = (first..).zip(into.chunks_mut(CHUNK_BYTES));
    alone.filter_map(|(chunk, into)| (!read(chunk, into)).then_some(chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: EraseBlocks = EraseBlocks { size: 4, before: 2 };

    fn olds(table: &[Exception]) -> Vec<u64> {
        table.iter().map(|exception| exception.old).collect()
    }

    fn table(olds: &[u64]) -> Vec<Exception> {
        olds.iter().map(|&old| Exception { old, new: 100 + old }).collect()
    }

    #[test]
    fn each_block_is_written_from_its_start_to_its_last_entry() {
        // Root begins in the middle of a block: chunks 0 1 | 2 3 4 5 | 6 7 8 9 | 10 …
        let mut budget = 100;
        let filled = fill(&table(&[1, 4, 6, 9]), BLOCKS, &mut budget);
        assert_eq!(olds(&filled), [0, 1, 2, 3, 4, 6, 7, 8, 9]);
        assert_eq!(budget, 100 - 5);
        let fillers: Vec<_> = filled.iter().filter(|e| is_filler(e)).map(|e| e.new).collect();
        assert_eq!(fillers, [0, 2, 3, 7, 8].map(|old| FROM_CARD + old));
    }

    #[test]
    fn a_block_that_there_is_no_room_for_stays_as_it_is() {
        let mut budget = 1;
        assert_eq!(olds(&fill(&table(&[4, 7]), BLOCKS, &mut budget)), [4, 6, 7]);
        assert_eq!(budget, 0);
    }

    /// A gap is filled for the card's sake. What can't be read there costs a filler, never the
    /// merge.
    #[test]
    fn a_filler_that_cannot_be_read_is_left_out_and_nothing_else_is() {
        let mut budget = 100;
        let filled = fill(&table(&[1, 4, 6, 9]), BLOCKS, &mut budget);
        assert_eq!(olds(&without(&filled, |chunk| chunk == 3)), [0, 1, 2, 4, 6, 7, 8, 9]);
        // A chunk that is merged stays, whether or not the card's chunk can be read.
        assert_eq!(olds(&without(&filled, |_| true)), [1, 4, 6, 9]);
    }

    #[test]
    fn neighbours_of_a_bad_chunk_are_read_all_the_same() {
        let mut tries = Vec::new();
        let mut card = |bad: &'static [u64], first, count: usize| {
            let mut bytes = vec![0; count * CHUNK_BYTES];
            let unreadable = read(first, &mut bytes, |chunk, into| {
                tries.push((chunk, into.len() / CHUNK_BYTES));
                let chunks = chunk..chunk + (into.len() / CHUNK_BYTES) as u64;
                into.fill(chunk as u8);
                !chunks.into_iter().any(|chunk| bad.contains(&chunk))
            });
            (unreadable, bytes.iter().step_by(CHUNK_BYTES).copied().collect::<Vec<_>>())
        };
        assert_eq!(card(&[], 7, 3), (vec![], vec![7, 7, 7]));
        let (bad, bytes) = card(&[8], 7, 3);
        assert_eq!((bad, bytes[0], bytes[2]), (vec![8], 7, 9));
        assert_eq!(card(&[7, 8, 9], 7, 3).0, [7, 8, 9]);
        assert_eq!(tries[..3], [(7, 3), (7, 3), (7, 1)], "one read where that will do");
    }

    proptest! {
        #[test]
        fn every_entry_is_kept_and_order_holds(
            olds_in in prop::collection::btree_set(0u64..500, 0..60),
            size in 1u64..40,
            before in 0u64..40,
            room in 0u64..300,
        ) {
            let sorted = table(&olds_in.into_iter().collect::<Vec<_>>());
            let blocks = EraseBlocks { size, before };
            let mut budget = room;
            let filled = fill(&sorted, blocks, &mut budget);
            prop_assert!(filled.windows(2).all(|pair| pair[0].old < pair[1].old));
            let kept: Vec<_> = filled.iter().copied().filter(|e| !is_filler(e)).collect();
            prop_assert_eq!(&kept, &sorted);
            prop_assert_eq!((filled.len() - sorted.len()) as u64, room - budget);
            // Only blocks that something is merged into are written to.
            let touched = |chunk: u64| sorted.iter().any(|e| blocks.of(e.old) == blocks.of(chunk));
            prop_assert!(filled.iter().all(|e| touched(e.old)));
        }
    }
}
