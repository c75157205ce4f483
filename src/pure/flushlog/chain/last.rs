//! Reads as little as an append needs: the last segment, and a few of those before it, in turn.

use super::Chain;
use super::follow::Tail;
use crate::pure::chunks::Chunks;
use crate::pure::flushlog::fingerprint::watched;
use crate::pure::flushlog::records::{Header, Link, Mark, segment_chunks};
use crate::pure::flushlog::ring::Ring;

/// How many of the segments before the last one each append reads, in turn.
pub const LOOKS: u32 = 8;

impl Chain {
    /// Reads the end of a chain that ends as `mark` says: its last segment, and [`LOOKS`] of those
    /// before it, in turn. `None`: something is not as the mark says, such as a segment of another
    /// generation; only reading the whole log tells what it is.
    pub fn read_last(from: &mut impl Chunks, header: Header, mark: &Mark) -> Option<Self> {
        let ring = Ring::new(header.chunks, header.align)?;
        let is_last = |link: &Link| link.position >= mark.before.position;
        let first = if is_last(&mark.cursor) { header.start } else { mark.cursor };
        let mut chain = Self::begin(header, ring, first);
        let mut left = LOOKS;
        while left > 0 && !is_last(&chain.next) {
            chain.step(from, None).ok()?;
            left -= 1;
            if is_last(&chain.next) {
                if chain.next.id != mark.before.id {
                    return None;
                }
                // The next append begins at the start again, even if the log has more segments by
                // then.
                chain.next = header.start;
            }
            if chain.next == first {
                break;
            }
        }
        let cursor = chain.next;
        (chain.next, chain.part) = (mark.before, Some(cursor));
        chain.segments.clear();
        let behind = chain.step(from, None).ok()?;
        let full = chain.room() < segment_chunks(0);
        let as_left = behind.is_some() && (full || chain.is_as_left(from, behind));
        chain.next.behind = behind.unwrap_or_default();
        let is_it = chain.segments.last().is_some_and(|last| last.head.id == mark.last);
        (is_it && as_left).then_some(chain)
    }

    /// Reads only what was appended since this generation ended cleanly, with `end` as
    /// [`Self::next`]. `None`: the chain does not go on from there, or does not end cleanly.
    pub fn since(from: &mut impl Chunks, header: Header, end: Link) -> Option<Self> {
        let mut chain = Self::begin(header, Ring::new(header.chunks, header.align)?, end);
        chain.part = Some(end);
        let mut behind = Some(end.behind);
        loop {
            behind = match chain.step(from, behind) {
                Ok(behind) => behind,
                Err(Tail::AsLeft) => return Some(chain),
                Err(_) => return None,
            };
        }
    }

    /// What [`Self::read_last`] needs later. `None`: there is no segment, or the last one does not
    /// have the fingerprints of all sectors that the segments together know.
    pub fn mark(&self) -> Option<Mark> {
        let (last, before) = self.segments.split_last()?;
        if watched(&self.segments).len() > watched(core::slice::from_ref(last)).len() {
            return None;
        }
        let start = self.header.start;
        let before = before.last().map_or(start, |before| self.link_after(&before.head));
        Some(Mark { last: last.head.id, before, cursor: self.part.unwrap_or(start) })
    }
}
