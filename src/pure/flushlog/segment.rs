//! A segment as a reader finds it.

use super::records::{Entry, Head};
use super::ring::Ring;

/// A segment of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its head.
    pub head: Head,
    /// What it holds, ascending by chunk of root.
    pub table: Vec<Entry>,
    /// Its commit record is there.
    pub committed: bool,
}

impl Segment {
    /// Whether a flush wrote it. A boot appends an empty segment, to cut off what is damaged.
    pub fn is_flush(&self) -> bool {
        self.head.count > 0
    }

    /// Where the data of each entry stand.
    pub fn data(&self, ring: &Ring) -> impl Iterator<Item = (u64, &Entry)> {
        let (ring, start) = (*ring, self.head.data());
        // A forged position may be so large that counting on would overflow.
        (0..).zip(&self.table).map(move |(n, entry)| (ring.chunk(start.saturating_add(n)), entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_without_data_is_no_flush() {
        let with = |count| Segment {
            head: Head { count, ..Head::default() },
            table: Vec::new(),
            committed: true,
        };
        assert_eq!([0, 1, 2].map(|count| with(count).is_flush()), [false, true, true]);
    }
}
