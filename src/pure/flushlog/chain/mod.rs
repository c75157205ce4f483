//! Reading a log: which segments are complete, in which order, and what is wrong with the rest.
//!
//! A segment belongs to the chain if its head stands where the segment before it ends, names that
//! segment's random number, and its table and data have the right checksums. After the last one
//! stands what stood there when it was committed; its commit record has a checksum of that, so the
//! usual end is known by reading eight chunks. Anything else there is either a segment that the
//! power cut short, or one that was damaged after it had been committed: then a younger commit
//! record still stands further on in the ring, which tells the two apart.
//!
//! # What can't be read
//!
//! There are three answers: *intact*, *damaged* (read, and wrong), and *unreadable*, which may be
//! either and is tried a few times. A card with a bad contact reads well a second later, so what
//! can't be read is never taken for wrong, nor for nothing. The other way round, a power cut leaves
//! unreadable sectors where it was writing, behind the chain's end; that must not hold up all later
//! flushes. So at the chain's end the question is: could a committed segment be here?
//!
//! | head at the end | commit record of a segment there | answer |
//! | --- | --- | --- |
//! | something else | | what a search finds |
//! | unreadable | any place behind it | what a search finds; [`ChainEnd::Unreadable`] if that can't read another chunk either |
//! | damaged, but ours | any place behind it | the same if a search can't read a chunk |
//! | ours | intact, or damaged, but ours | it was committed: [`ChainEnd::Damaged`] if something in it is wrong, else [`ChainEnd::Unreadable`] |
//! | ours | unreadable | [`ChainEnd::Unreadable`] unless all data are right |
//! | ours | something else | it was cut short; what a search finds |
//!
//! What a search finds: a younger commit record somewhere in the ring means that flushes were lost
//! ([`ChainEnd::Damaged`]), or can't be reached now ([`ChainEnd::Unreadable`] if what is in the way
//! can't be read). None means [`ChainEnd::Torn`]: a committed segment has its head and its commit
//! record in two chunks, so one unreadable chunk can't hide it. The checksum of what stands behind
//! a segment counts a chunk that can't be read as [`NOTHING`], in writing and in comparing: it
//! can't fail.

mod checked;
mod follow;
mod header;
mod last;
mod live;
mod search;

pub use self::checked::{Bad, NOTHING, bad_chunks, behind_crc};
pub use self::header::{HeaderRead, LogError, header, open};
pub use self::last::LOOKS;
pub use self::live::Live;

use super::records::{Commit, Entry, Head, Header, Link, segment_chunks};
use super::ring::Ring;
use super::segment::Segment;

/// How a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainEnd {
    /// As the last segment left it.
    Clean,
    /// With something that was never completed: what a power cut during a flush leaves.
    Torn,
    /// With something that had been complete.
    Damaged(Damage),
    /// With something that can't be read and may be intact.
    Unreadable {
        /// The chunk of the log that can't be read.
        chunk: u64,
        /// The largest sequence number that is known to be behind it; `None`: perhaps there is
        /// nothing.
        youngest: Option<u64>,
    },
}

impl ChainEnd {
    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            ChainEnd::Clean => "clean",
            ChainEnd::Torn => "torn",
            ChainEnd::Damaged(_) => "damaged",
            ChainEnd::Unreadable { .. } => "unreadable",
        }
    }
}

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The chunk of the log where it was noticed.
    pub chunk: u64,
    /// Its content.
    pub what: DamagedPart,
    /// The largest sequence number that is known to be lost.
    pub youngest: u64,
}

/// What was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamagedPart {
    /// A segment's head or table, or the start of the ring.
    Head,
    /// A chunk of data.
    Data,
}

impl core::fmt::Display for DamagedPart {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            DamagedPart::Head => "a segment's head or table",
            DamagedPart::Data => "a segment's data",
        })
    }
}

/// A log that was read.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The header.
    pub header: Header,
    /// Its ring.
    pub ring: Ring,
    /// The segments, oldest first.
    pub segments: Vec<Segment>,
    /// How it ends.
    pub end: ChainEnd,
    /// What the next segment is chained to. `sequence` is the largest that was seen anywhere.
    pub next: Link,
    /// `None`: all segments are here. Otherwise only the last one is, and a few of the others were
    /// read: the next append goes on with the segment that is chained to this.
    pub part: Option<Link>,
}

impl Chain {
    /// An empty chain that goes on from `next`; nothing was read yet.
    fn begin(header: Header, ring: Ring, next: Link) -> Self {
        Self { header, ring, segments: Vec::new(), end: ChainEnd::Clean, next, part: None }
    }

    /// What the segment after this one is chained to.
    fn link_after(&self, head: &Head) -> Link {
        let position = self.ring.aligned(head.commit().saturating_add(1));
        Link { id: head.id, sequence: head.sequence, position, behind: 0 }
    }

    /// Adds a segment that was just written behind this chain.
    pub fn push(&mut self, head: Head, table: Vec<Entry>, commit: &Commit) {
        self.segments.push(Segment { head, table, committed: true });
        self.next = commit.link;
        self.end = ChainEnd::Clean;
    }

    /// Chunks of the ring that are in use, padding included.
    pub fn used(&self) -> u64 {
        self.next.position.saturating_sub(self.header.start.position)
    }

    /// Chunks that the next segment can have, head and commit record included.
    pub fn room(&self) -> u64 {
        self.ring.length.saturating_sub(self.used())
    }

    /// Whether a segment with `count` chunks of data fits behind the last one.
    pub fn fits(&self, count: u32) -> bool {
        segment_chunks(count) <= self.room()
    }

    /// Whether the ring could take a segment of `count` chunks when it is empty.
    pub fn could_fit(&self, count: u32) -> bool {
        segment_chunks(count) <= self.ring.length
    }

    /// Raises the next sequence number above that of every segment that can't be read: by as many
    /// segments as the ring has room for.
    pub fn skip_unseen(&mut self) {
        self.next.sequence = self.next.sequence.saturating_add(self.ring.length);
    }
}

#[cfg(test)]
mod tests;
