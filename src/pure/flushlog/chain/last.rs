//! Reading as little as an append needs: the last segment, and of those before it a few in turn.

use super::Chain;
use super::follow::Tail;
use crate::pure::chunks::Chunks;
use crate::pure::flushlog::fingerprint::watched;
use crate::pure::flushlog::format::{Header, Link, Mark, segment_chunks};
use crate::pure::flushlog::ring::Ring;

/// How many of the segments before the last one an append looks at, in turn.
pub const LOOKS: u32 = 8;

impl Chain {
    /// The end of a chain that ends as `mark` says, without reading all of it: its last segment, and of those before it
    /// [`LOOKS`], in turn. `None`: something is not as the mark says, so all has to be read to know what it is. A segment of
    /// another generation is not.
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
                // Those from the start on are next, also when there are more by the next time.
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

    /// What was appended since this generation ended cleanly, with `end` as [`Self::next`]; nothing else is read. `None`: it
    /// does not go on from there, or does not end cleanly.
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

    /// What [`Self::read_last`] has to know later. `None`: there is no segment, or what the last one knows of root
    /// is not all that the segments know.
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
