//! Searches the rest of the ring for flushes that had been committed.

use super::checked::each;
use super::{Chain, ChainEnd, Damage, DamagedPart};
use crate::pure::chunks::{Chunks, PIECE};
use crate::pure::flushlog::records::Commit;

/// What is known of the place where a chain ends.
pub(super) struct Stop {
    /// What is in the way can't be read, at this chunk.
    pub hidden: Option<u64>,
    /// A segment was committed here, of that number.
    pub committed: u64,
    /// A segment may have been committed here if the ring has at least this many unreadable chunks.
    pub doubt: usize,
}

impl Stop {
    /// No segment that had been committed is here.
    pub const NONE: Self = Self { hidden: None, committed: 0, doubt: usize::MAX };
}

/// What a search of the ring found.
#[derive(Default)]
struct Searched {
    /// The largest sequence number of any commit record.
    youngest: u64,
    /// The first chunk that can't be read.
    hidden: Option<u64>,
    /// How many chunks can't be read.
    unreadable: usize,
}

impl Chain {
    /// Searches the rest of the ring for anything younger than the chain's end, which was found to
    /// be `stop`, and sets the chain's end accordingly.
    pub(super) fn end_at(&mut self, from: &mut impl Chunks, stop: &Stop) {
        let found = self.search(from);
        let youngest = found.youngest.max(stop.committed);
        let start = self.ring.chunk(self.next.position);
        self.end = if youngest > self.next.sequence {
            match stop.hidden {
                Some(chunk) => ChainEnd::Unreadable { chunk, youngest: Some(youngest) },
                None => {
                    ChainEnd::Damaged(Damage { chunk: start, what: DamagedPart::Head, youngest })
                }
            }
        } else if found.unreadable >= stop.doubt {
            let chunk = stop.hidden.or(found.hidden).unwrap_or(start);
            ChainEnd::Unreadable { chunk, youngest: None }
        } else {
            ChainEnd::Torn
        };
        self.next.sequence = self.next.sequence.max(youngest);
    }

    /// Reads the rest of the ring.
    fn search(&self, from: &mut impl Chunks) -> Searched {
        let mut found = Searched::default();
        let mut at = self.next.position;
        let end = at.saturating_add(self.room());
        while at < end {
            let count = (PIECE as u64).min(end - at).min(self.ring.contiguous(at));
            each(from, self.ring.chunk(at), count as usize, &mut |place, chunk| match chunk
                .map(Commit::decode)
            {
                Some(Ok(commit)) if commit.log == self.header.uuid => {
                    found.youngest = found.youngest.max(commit.link.sequence);
                }
                Some(_) => {}
                None => {
                    found.hidden = found.hidden.or(Some(place));
                    found.unreadable += 1;
                }
            });
            at = at.saturating_add(count);
        }
        found
    }
}
