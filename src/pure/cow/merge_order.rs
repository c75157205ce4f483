//! The order in which a sealed COW is merged.
//!
//! The kernel merges from the table's end towards its start, one *run* at a time: entries whose
//! old and new chunks are both consecutive, within one metadata area. A COW's own table is in
//! the order of the writes. A *view* is another table over the same data, written so that the
//! backward walk touches the card in strictly ascending order: the entry nearest to the table's
//! end has the lowest old chunk, and inside a run the order is ascending, as the kernel wants it.
//!
//! A view is a device of two parts: a sparse file of our own that holds the header and the areas,
//! and the sealed COW behind it, whose chunks keep their place shifted by [`Layout::data_start`].
//!
//! Chunks that are neighbours on the card are often strangers on the COW: a log that grows is
//! written a block at a time. Each would be a run, so a write and a FLUSH, of its own. The view
//! has free places behind each area, as many as the area has entries; a chunk that is copied there
//! stands in the order of the card. A [`Budget`] says for how many there is memory. Entries that
//! [`super::fill`] added are copied there in any case: they are on no COW.

use super::exception_store::{self, Exception, PER_AREA};
use super::fill::{Budget, is_filler};
use crate::pure::chunks::{CHUNK_BYTES, Chunk};

/// Where a view's parts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of exceptions.
    pub exceptions: u64,
}

impl Layout {
    /// First chunk of the view that is chunk 0 of the sealed COW.
    ///
    /// The kernel reads areas until it finds one that is not full, so there is one area more
    /// than full ones. Behind it come its entries' places for copies, then the COW.
    pub const fn data_start(&self) -> u64 {
        let last_area = exception_store::area_chunk(self.exceptions / PER_AREA);
        last_area.saturating_add(1 + self.exceptions % PER_AREA)
    }
}

/// A run of this many chunks (128 KiB) is left where it is: joining it to its neighbours would
/// copy much to save one write.
const LONG_RUN: usize = 32;

/// One metadata area of a view.
pub struct Area {
    /// The chunk number where it belongs.
    pub chunk: u64,
    /// What it holds.
    pub bytes: Box<Chunk>,
    /// What to copy: from that chunk of the sealed COW, or of the card (see [`super::fill`]), to
    /// that chunk of the view.
    pub copies: Vec<(u64, u64)>,
}

/// Builds the metadata areas of a view, the last one first.
///
/// Takes a table that [`exception_store::sort_checked`] accepted.
pub struct Areas<'a> {
    /// What is not placed yet, ascending; the table is filled from its end.
    rest: &'a [Exception],
    layout: Layout,
    budget: Budget,
    /// The area to build next; `None` when all are built.
    area: Option<u64>,
}

impl<'a> Areas<'a> {
    /// Starts with the area that holds the table's end (and possibly nothing else).
    pub fn new(sorted: &'a [Exception], budget: Budget) -> Self {
        let layout = Layout { exceptions: sorted.len() as u64 };
        Self { rest: sorted, layout, budget, area: Some(layout.exceptions / PER_AREA) }
    }

    /// Where the parts stand.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Takes the next piece, at most `most` entries, that will be one run; and whether it has to
    /// be copied for that.
    fn take(&mut self, most: usize) -> (&'a [Exception], bool) {
        // Looks at no more entries than could be taken: a table has thousands of pieces.
        let first = run_length(self.near(most));
        let joined = self.short_neighbours(first, most);
        // The room for fillers was taken off the budget when they were added.
        let fillers = |count| self.rest.iter().take(count).filter(|e| is_filler(e)).count();
        let own = joined.saturating_sub(fillers(joined)) as u64;
        let join = joined > first && own <= self.budget;
        if join {
            self.budget -= own;
        }
        let copy = join || fillers(first) > 0;
        let (piece, rest) = self.rest.split_at(if join { joined } else { first });
        self.rest = rest;
        (piece, copy)
    }

    /// The start of what is not placed yet, at most `most` entries.
    fn near(&self, most: usize) -> &'a [Exception] {
        self.rest.get(..most).unwrap_or(self.rest)
    }

    /// How many entries at the start are neighbours on the card and, on the COW, a row of short
    /// runs; `first` is the length of the first run.
    fn short_neighbours(&self, first: usize, most: usize) -> usize {
        let near = self.near(most);
        let near = near.get(..neighbours(near)).unwrap_or_default();
        let (mut taken, mut next) = (0, first);
        while next > 0 && next < LONG_RUN {
            taken += next;
            next = near.get(taken..).map_or(0, run_length);
        }
        taken
    }
}

impl Iterator for Areas<'_> {
    type Item = Area;

    fn next(&mut self) -> Option<Area> {
        let area = self.area?;
        self.area = area.checked_sub(1);
        let chunk = exception_store::area_chunk(area);
        let mut bytes = Box::new([0; CHUNK_BYTES]);
        let mut copies = Vec::new();
        // What belongs into this area is the lowest part of the rest, since areas are built
        // from the last to the first.
        let mut free = self.rest.len().saturating_sub((area * PER_AREA) as usize);
        while free > 0 {
            let (piece, copy) = self.take(free);
            free -= piece.len();
            for (index, exception) in (free..).zip(piece) {
                let new = if copy {
                    let place = chunk.saturating_add(1 + index as u64);
                    copies.push((exception.new, place));
                    place
                } else {
                    exception.new.saturating_add(self.layout.data_start())
                };
                exception_store::put_exception(
                    &mut bytes,
                    index,
                    Exception { old: exception.old, new },
                );
            }
        }
        Some(Area { chunk, bytes, copies })
    }
}

/// How many exceptions at the start of a sorted table are consecutive on the card; at least 1
/// unless the table is empty.
pub fn neighbours(sorted: &[Exception]) -> usize {
    let follows = |pair: &[Exception]| match pair {
        [a, b] => a.old.checked_add(1) == Some(b.old),
        _ => false,
    };
    let joined = sorted.windows(2).take_while(|pair| follows(pair)).count();
    joined + usize::from(!sorted.is_empty())
}

/// How many exceptions at the start of a sorted table are consecutive in both chunk numbers;
/// at least 1 unless the table is empty.
pub fn run_length(sorted: &[Exception]) -> usize {
    let follows = |pair: &[Exception]| match pair {
        [a, b] => a.old.checked_add(1) == Some(b.old) && a.new.checked_add(1) == Some(b.new),
        _ => false,
    };
    let joined = sorted.windows(2).take_while(|pair| follows(pair)).count();
    joined + usize::from(!sorted.is_empty())
}

/// Sorts a table that is in a view's order: descending, but for its runs. A table in any other
/// order is sorted as well, more slowly.
pub fn sort_back(table: &mut [Exception]) {
    table.reverse();
    for run in table.chunk_by_mut(|a, b| a.old > b.old) {
        run.reverse();
    }
    if !table.is_sorted() {
        table.sort_unstable();
    }
}

/// The next run that the kernel will merge: its lowest old chunk and its number of chunks. `area`
/// is the last area of the view that is in use; `None` when it is empty.
///
/// After a failed merge this is the run that failed.
pub fn next_run(area: &Chunk) -> Option<(u64, u64)> {
    let mut run: Option<(Exception, u64)> = None;
    for exception in exception_store::exceptions(area) {
        run = match run {
            Some((previous, length))
                if previous.old.checked_add(1) == Some(exception.old)
                    && previous.new.checked_add(1) == Some(exception.new) =>
            {
                Some((exception, length + 1))
            }
            _ => Some((exception, 1)),
        };
    }
    run.map(|(last, length)| (last.old.saturating_sub(length - 1), length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn table(pairs: &[(u64, u64)]) -> Vec<Exception> {
        let mut table: Vec<_> = pairs.iter().map(|&(old, new)| Exception { old, new }).collect();
        table.sort();
        table
    }

    /// The runs in the order in which dm-snapshot merges them, by the rule of
    /// `persistent_prepare_merge`: (first old chunk, first new chunk, length).
    fn kernel_walk(areas: &BTreeMap<u64, Box<Chunk>>) -> Vec<(u64, u64, u64)> {
        let mut runs = vec![];
        for bytes in areas.values().rev() {
            let mut left: Vec<_> = exception_store::exceptions(bytes).collect();
            while let Some(&last) = left.last() {
                let length = (1..=left.len())
                    .take_while(|&n| {
                        let e = left[left.len() - n];
                        let back = (n - 1) as u64;
                        e.old.wrapping_add(back) == last.old && e.new.wrapping_add(back) == last.new
                    })
                    .count();
                let first = left[left.len() - length];
                runs.push((first.old, first.new, length as u64));
                left.truncate(left.len() - length);
            }
        }
        runs
    }

    struct View {
        layout: Layout,
        areas: BTreeMap<u64, Box<Chunk>>,
        copies: BTreeMap<u64, u64>,
    }

    impl View {
        fn build(sorted: &[Exception], budget: Budget) -> Self {
            let built = Areas::new(sorted, budget);
            let layout = built.layout();
            let (mut areas, mut copies) = (BTreeMap::new(), BTreeMap::new());
            for area in built {
                areas.insert(area.chunk, area.bytes);
                copies.extend(area.copies.iter().map(|&(from, to)| (to, from)));
            }
            Self { layout, areas, copies }
        }

        fn walk(&self) -> Vec<(u64, u64, u64)> {
            kernel_walk(&self.areas)
        }

        /// The chunk of the sealed COW that a chunk of the view shows.
        fn source(&self, chunk: u64) -> u64 {
            self.copies.get(&chunk).copied().unwrap_or_else(|| chunk - self.layout.data_start())
        }
    }

    #[test]
    fn scattered_writes_are_merged_upwards() {
        let sorted = table(&[(50, 2), (10, 3), (51, 4), (11, 5), (12, 6)]);
        let view = View::build(&sorted, 0);
        assert_eq!(view.layout.data_start(), 2 + 5);
        assert_eq!(view.walk(), [(10, 10, 1), (11, 12, 2), (50, 9, 1), (51, 11, 1)]);
    }

    #[test]
    fn with_memory_neighbours_on_the_card_become_one_run() {
        let sorted = table(&[(50, 2), (10, 3), (51, 4), (11, 5), (12, 6)]);
        let view = View::build(&sorted, 5);
        assert_eq!(view.walk(), [(10, 4, 3), (50, 2, 2)]);
        assert_eq!([2, 3, 4, 5, 6].map(|chunk| view.source(chunk)), [2, 4, 3, 5, 6]);
        let half = View::build(&sorted, 3);
        assert_eq!(half.walk(), [(10, 4, 3), (50, 9, 1), (51, 11, 1)]);
    }

    #[test]
    fn fillers_are_copied_and_join_their_neighbours() {
        use crate::pure::cow::fill::{EraseBlocks, FROM_CARD, fill};
        let blocks = EraseBlocks { size: 8, before: 0 };
        let mut budget = 10;
        let filled = fill(&table(&[(10, 7), (11, 3), (13, 5)]), blocks, &mut budget);
        assert_eq!(budget, 7);
        let view = View::build(&filled, budget);
        assert_eq!(view.walk(), [(8, 2, 6)]);
        let sources = [8, 9, 10, 11, 12, 13].map(|old| view.source(old - 6));
        assert_eq!(sources, [FROM_CARD + 8, FROM_CARD + 9, 7, 3, FROM_CARD + 12, 5]);
        // Without room to join, what the COW holds stays there; fillers are copied all the same.
        let alone = View::build(&filled, 0);
        assert_eq!(
            alone.walk().iter().map(|run| (run.0, run.2)).collect::<Vec<_>>(),
            [(8, 2), (10, 1), (11, 1), (12, 1), (13, 1)]
        );
        assert_eq!(alone.copies.values().filter(|&&from| from >= FROM_CARD).count(), 3);
    }

    #[test]
    fn long_runs_are_left_where_they_are() {
        let long = (0..LONG_RUN as u64).map(|n| (100 + n, 300 + n));
        let around = [(98, 5), (99, 3), (100 + LONG_RUN as u64, 2), (101 + LONG_RUN as u64, 9)];
        let sorted = table(&long.chain(around).collect::<Vec<_>>());
        let view = View::build(&sorted, 1000);
        let runs: Vec<_> = view.walk().iter().map(|run| (run.0, run.2)).collect();
        assert_eq!(runs, [(98, 2), (100, LONG_RUN as u64), (100 + LONG_RUN as u64, 2)]);
        assert_eq!(view.copies.len(), 4);
    }

    #[test]
    fn what_is_one_run_already_is_not_copied() {
        let view = View::build(&table(&[(10, 2), (11, 3), (12, 4)]), 100);
        assert_eq!((view.walk().len(), view.copies.len()), (1, 0));
    }

    #[test]
    fn an_exactly_full_area_is_followed_by_an_empty_one() {
        let pairs: Vec<_> = (0..PER_AREA).map(|n| (n, 2 + n)).collect();
        let view = View::build(&table(&pairs), 0);
        assert_eq!(view.areas.keys().copied().collect::<Vec<_>>(), [1, 258]);
        assert_eq!(exception_store::exceptions(&view.areas[&258]).count(), 0);
        assert_eq!(view.layout.data_start(), 259);
        assert_eq!(view.walk(), [(0, 2 + 259, PER_AREA)]);
    }

    #[test]
    fn a_run_over_an_area_border_is_still_merged_upwards() {
        let pairs: Vec<_> = (0..600).map(|n| (1000 + n, 1_000_000 + n)).collect();
        let view = View::build(&table(&pairs), 0);
        let starts: Vec<_> = view.walk().iter().map(|run| (run.0, run.2)).collect();
        assert_eq!(starts, [(1000, 88), (1088, 256), (1344, 256)]);
    }

    #[test]
    fn an_empty_table_has_one_empty_area() {
        let view = View::build(&[], 9);
        assert_eq!((view.layout.data_start(), view.areas.len()), (2, 1));
        assert!(view.walk().is_empty());
    }

    #[test]
    fn the_next_run_is_the_one_the_kernel_takes() {
        let view = View::build(&table(&[(50, 2), (10, 3), (51, 4), (11, 5), (12, 6)]), 0);
        assert_eq!(next_run(&view.areas[&1]), Some((10, 1)));
        assert_eq!(next_run(&[0; CHUNK_BYTES]), None);
    }

    proptest! {
        #[test]
        fn every_view_walks_upwards_and_keeps_every_chunk(
            olds in prop::collection::btree_set(0u64..5000, 0..1200),
            shuffle in any::<u64>(),
            step in 1u64..4,
            budget in prop_oneof![Just(0), 0u64..600, Just(u64::MAX)],
        ) {
            // New chunks in an order of writing that is unlike the card's.
            let mut news: Vec<u64> =
                (0..).map(|n| 2 + n * step).filter(|&n| exception_store::is_data_chunk(n))
                    .take(olds.len()).collect();
            let half = news.len() / 2;
            if shuffle % 3 == 0 { news.reverse() } else if shuffle % 3 == 1 { news.rotate_left(half) }
            let sorted: Vec<_> =
                olds.iter().zip(&news).map(|(&old, &new)| Exception { old, new }).collect();
            let view = View::build(&sorted, budget);
            // As it is read back, area by area
            let mut read: Vec<_> = view.areas.values().flat_map(|area| exception_store::exceptions(area)).collect();
            sort_back(&mut read);
            prop_assert!(read.iter().map(|e| e.old).eq(sorted.iter().map(|e| e.old)));
            let mut next_free = 0;
            let mut seen = BTreeMap::new();
            let walk = view.walk();
            for &(old, new, length) in &walk {
                prop_assert!(old >= next_free, "{old} after {next_free}");
                next_free = old + length;
                for n in 0..length {
                    seen.insert(old + n, view.source(new + n));
                }
            }
            let expected: BTreeMap<_, _> = sorted.iter().map(|e| (e.old, e.new)).collect();
            prop_assert_eq!(seen, expected);
            prop_assert!(view.copies.len() as u64 <= budget);
            // Copies stand on free places: on no area, and before the COW.
            for place in view.copies.keys() {
                prop_assert!(exception_store::is_data_chunk(*place) && *place < view.layout.data_start());
            }
            if budget == u64::MAX {
                let short = |run: &(u64, u64, u64)| run.2 < LONG_RUN as u64;
                let split = walk.windows(2).filter(|pair| {
                    pair[1].0 == pair[0].0 + pair[0].2 && short(&pair[0]) && short(&pair[1])
                });
                // Short neighbours are two runs only at the border of an area.
                prop_assert!(split.count() as u64 <= 1 + sorted.len() as u64 / PER_AREA);
            }
        }

        #[test]
        fn any_area_has_a_next_run(bytes in prop::collection::vec(any::<u8>(), CHUNK_BYTES)) {
            let mut chunk = [0; CHUNK_BYTES];
            chunk.copy_from_slice(&bytes);
            let _ = next_run(&chunk);
        }
    }

    #[test]
    fn a_table_in_any_order_is_sorted() {
        for pairs in [[(1, 9), (3, 8), (2, 7)], [(2, 1), (1, 2), (3, 3)], [(1, 1), (2, 2), (3, 3)]]
        {
            let mut read = pairs.map(|(old, new)| Exception { old, new });
            sort_back(&mut read);
            assert_eq!(read.to_vec(), table(&pairs));
        }
    }

    #[test]
    fn the_next_run_is_the_last_one_that_is_joined_on_both_sides() {
        let next = |pairs: &[(u64, u64)]| {
            let mut area = [0; CHUNK_BYTES];
            for (slot, (old, new)) in area.chunks_exact_mut(16).zip(pairs) {
                slot[..8].copy_from_slice(&old.to_le_bytes());
                slot[8..].copy_from_slice(&new.to_le_bytes());
            }
            next_run(&area)
        };
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[(9, 3)]), Some((9, 1)));
        assert_eq!(next(&[(5, 10), (6, 11), (9, 20), (10, 21), (11, 22)]), Some((9, 3)));
        assert_eq!(next(&[(5, 10), (6, 20)]), Some((6, 1)), "joined on root only");
        assert_eq!(next(&[(5, 10), (7, 11)]), Some((7, 1)), "joined on the store only");
    }
}
