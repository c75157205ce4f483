//! What a chain holds for root: the youngest data of each chunk, and whether they are intact.

use super::checked::{Bad, bad_chunks, wanted};
use super::search::Stop;
use super::{Chain, ChainEnd, Damage, DamagedPart};
use crate::pure::chunks::Chunks;
use crate::pure::cow::exception_store::Exception;
use crate::pure::flushlog::records::Link;

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
    /// What root reads from the log once the last segment is added to what it read before (`seen`):
    /// chunk of root and chunk of the log, ascending.
    pub fn last_over(&self, seen: Vec<Exception>) -> Vec<Exception> {
        let Some(last) = self.segments.last() else { return seen };
        let mut both = Vec::with_capacity(seen.len() + last.table.len());
        let mut seen = seen.into_iter().peekable();
        // Both are ascending, and merged as such: sorting thousands again would take longer than
        // the rest of a small flush.
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
        // The youngest comes last, so that a backward walk meets it first.
        live.sort_unstable();
        live.reverse();
        live.dedup_by_key(|live| live.old);
        live.reverse();
        live
    }

    /// Reads the data that would be applied, and cuts the chain where they are damaged or can't be
    /// read. Returns what [`Self::live`] returns afterwards.
    ///
    /// Data that a younger segment replaces are read only if the younger one is cut off. If it was
    /// cut off because it can't be read, older data that turn out to be wrong are not lost yet: the
    /// younger segment may become readable again.
    pub fn verify(&mut self, from: &mut impl Chunks) -> Vec<Live> {
        loop {
            let live = self.live();
            let wanted = live.iter().map(|live| (live.place, Some(live.crc))).collect();
            let bad = bad_chunks(from, wanted);
            let segment = |bad: &Bad| {
                live.iter().find(|live| live.place == bad.place).map(|live| live.segment)
            };
            // A wrong chunk comes before unreadable ones: it means that the segment is lost.
            let first =
                bad.iter().filter_map(|bad| Some((segment(bad)?, bad.unreadable, *bad))).min();
            match first {
                Some((segment, _, bad)) => self.cut(segment, bad),
                None => return live,
            }
        }
    }

    /// Reads everything: all data, those that were replaced as well, and the rest of the ring.
    /// Returns the bad chunks.
    ///
    /// A card that lied about a FLUSH may have lost the start of a segment and kept its commit
    /// record. Then the chain seems to end as it was left, and only reading the whole ring shows
    /// the loss.
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

    /// Ends the chain before segment number `index`, which has this bad chunk of data.
    pub fn cut(&mut self, index: usize, bad: Bad) {
        let hidden = bad.unreadable || matches!(self.end, ChainEnd::Unreadable { .. });
        let youngest = self.next.sequence;
        self.segments.truncate(index);
        let last = self.segments.last().map(|segment| segment.head);
        let link = last.map_or(self.header.start, |head| self.link_after(&head));
        // The next segment is younger than all that was ever there: what was cut off must not fit
        // again.
        self.next = Link { sequence: youngest, ..link };
        self.end = if hidden {
            ChainEnd::Unreadable { chunk: bad.place, youngest: Some(youngest) }
        } else {
            ChainEnd::Damaged(Damage { chunk: bad.place, what: DamagedPart::Data, youngest })
        };
    }
}
