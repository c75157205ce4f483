//! What a chain holds for root: the youngest data of each chunk, and whether they are intact.

use super::checked::{Bad, bad_chunks, wanted};
use super::search::Stop;
use super::{Chain, ChainEnd, Damage, DamagedPart};
use crate::pure::chunks::Chunks;
use crate::pure::cow::format::Exception;
use crate::pure::flushlog::format::Link;

/// The youngest data of one chunk of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Live {
    /// Chunk number on root.
    pub old: u64,
    /// Index of its segment in the chain.
    pub segment: usize,
    /// Chunk number in the log's partition.
    pub place: u64,
    /// Checksum of its data.
    pub crc: u32,
}

impl Chain {
    /// Where what root reads stands in the log with the last segment, if it was as `seen` before: chunk of root and chunk
    /// of the log, ascending.
    pub fn last_over(&self, seen: Vec<Exception>) -> Vec<Exception> {
        let Some(last) = self.segments.last() else { return seen };
        let mut both = Vec::with_capacity(seen.len() + last.table.len());
        let mut seen = seen.into_iter().peekable();
        // Both are ascending: to sort thousands again takes longer than all else in a small flush.
        for (place, entry) in last.data(&self.ring) {
            while let Some(before) = seen.next_if(|seen| seen.old < entry.old) {
                both.push(before);
            }
            seen.next_if(|seen| seen.old == entry.old);
            both.push(Exception { old: entry.old, new: place });
        }
        both.extend(seen);
        both
    }

    /// The youngest data of each chunk of root, ascending.
    pub fn live(&self) -> Vec<Live> {
        self.live_until(self.segments.len())
    }

    /// The youngest data of each chunk of root in the first `count` segments, ascending.
    pub fn live_until(&self, count: usize) -> Vec<Live> {
        let mut live = Vec::new();
        for (index, segment) in self.segments.iter().take(count).enumerate() {
            live.extend(segment.data(&self.ring).map(|(place, entry)| Live {
                old: entry.old,
                place,
                crc: entry.crc,
                segment: index,
            }));
        }
        // The youngest last, so that going backwards it comes first.
        live.sort_unstable();
        live.reverse();
        live.dedup_by_key(|live| live.old);
        live.reverse();
        live
    }

    /// Reads the data that would be applied and cuts the chain where they are damaged or can't be read. Returns
    /// what is left, as [`Self::live`].
    ///
    /// Data that a younger segment replaces are not read, unless the younger one is cut off. If that was because it
    /// can't be read, what turns out to be wrong then is not lost yet: the younger one may be read again.
    pub fn verify(&mut self, from: &mut impl Chunks) -> Vec<Live> {
        loop {
            let live = self.live();
            let wanted = live.iter().map(|live| (live.place, Some(live.crc))).collect();
            let bad = bad_chunks(from, wanted);
            let segment = |bad: &Bad| {
                live.iter().find(|live| live.place == bad.place).map(|live| live.segment)
            };
            // Of a segment's chunks one that is wrong says most: the segment is lost then.
            let first =
                bad.iter().filter_map(|bad| Some((segment(bad)?, bad.unreadable, *bad))).min();
            match first {
                Some((segment, _, bad)) => self.cut(segment, bad),
                None => return live,
            }
        }
    }

    /// Reads everything: all data, also those that were replaced, and the rest of the ring. Returns
    /// the places that are bad.
    ///
    /// A card that lied about a FLUSH may have lost the start of a segment and kept its commit
    /// record; then the chain seems to end as it was left, and only a look at the whole ring tells.
    pub fn verify_all(&mut self, from: &mut impl Chunks) -> Vec<Bad> {
        if self.end == ChainEnd::Clean {
            self.end_at(from, &Stop::NONE);
            if self.end == ChainEnd::Torn {
                self.end = ChainEnd::Clean;
            }
        }
        self.segments
            .iter()
            .flat_map(|segment| bad_chunks(from, wanted(&self.ring, segment)))
            .collect()
    }

    /// Ends the chain before segment number `index`, of whose data this is bad.
    pub fn cut(&mut self, index: usize, bad: Bad) {
        let hidden = bad.unreadable || matches!(self.end, ChainEnd::Unreadable { .. });
        let youngest = self.next.sequence;
        self.segments.truncate(index);
        let last = self.segments.last().map(|segment| segment.head);
        let link = last.map_or(self.header.start, |head| self.link_after(&head));
        // Younger than anything that was ever there: what was cut off must not fit again.
        self.next = Link { sequence: youngest, ..link };
        self.end = if hidden {
            ChainEnd::Unreadable { chunk: bad.place, youngest: Some(youngest) }
        } else {
            ChainEnd::Damaged(Damage { chunk: bad.place, what: DamagedPart::Data, youngest })
        };
    }
}
