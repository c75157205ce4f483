//! Follows a chain from segment to segment, and says what stands behind the last one.

use core::ops::Range;

use super::checked::{Bad, bad_chunks, behind_crc, fetch, wanted};
use super::search::Stop;
use super::{Chain, ChainEnd, LogError};
use crate::pure::chunks::{CHUNK_BYTES, Chunks};
use crate::pure::crc::crc32c;
use crate::pure::flushlog::records::{
    Commit, ENTRY_BYTES, Entry, Head, Header, Link, RECORD_BYTES, segment_chunks,
};
use crate::pure::flushlog::ring::Ring;
use crate::pure::flushlog::segment::Segment;

/// Whether a record was found at its place: it is there, it was damaged, something else is there,
/// or that chunk can't be read.
enum Answer<T> {
    Intact(T),
    /// What was asked for was there once: all but a part of it is.
    Damaged,
    Other,
    Unreadable(u64),
}

/// What is behind a chain's last complete segment.
pub(super) enum Tail {
    /// What was there when that was written, or nothing fits there.
    AsLeft,
    /// A segment with a good head, but not all of its data, and no commit record.
    CutShort(Stop, Box<Head>),
    /// Something else.
    Unknown(Stop),
}

impl Chain {
    /// Follows the chain from the header on. Heads, tables and commit records are read, data only
    /// of a last segment without a commit record; [`Self::verify`] reads the rest.
    pub fn read(from: &mut impl Chunks, header: Header) -> Result<Self, LogError> {
        Self::read_as(from, header, false)
    }

    /// As [`Self::read`], for a log that a stack is using, where a flush may have been killed: most
    /// likely at shutdown, when there is no time to search the ring of a slow card. It skips the
    /// search where the last segment only lacks its end and no other follows it.
    pub fn read_in_use(from: &mut impl Chunks, header: Header) -> Result<Self, LogError> {
        Self::read_as(from, header, true)
    }

    pub(super) fn read_as(
        from: &mut impl Chunks,
        header: Header,
        in_use: bool,
    ) -> Result<Self, LogError> {
        let (mut chain, tail) = Self::follow(from, header)?;
        match tail {
            Tail::AsLeft => {}
            Tail::CutShort(_, head) if in_use && chain.is_last(from, &head) => {
                chain.end = ChainEnd::Torn;
                // As after a search, no sequence number is used again that may stand in a commit
                // record.
                chain.next.sequence = head.sequence;
            }
            Tail::CutShort(stop, _) | Tail::Unknown(stop) => chain.end_at(from, &stop),
        }
        Ok(chain)
    }

    /// Follows the chain; returns what is behind it, too.
    fn follow(from: &mut impl Chunks, header: Header) -> Result<(Self, Tail), LogError> {
        let ring = Ring::new(header.chunks, header.align).ok_or(LogError::Nonsense)?;
        let mut chain = Self::begin(header, ring, header.start);
        let mut behind = Some(header.start.behind);
        loop {
            behind = match chain.step(from, behind) {
                Ok(behind) => behind,
                Err(tail) => return Ok((chain, tail)),
            };
        }
    }

    /// Adds the segment at the chain's end, or says what stands there instead. `behind` is the
    /// checksum of what the last segment had behind it. Returns the same of this one; a segment
    /// without a commit record does not have it.
    pub(super) fn step(
        &mut self,
        from: &mut impl Chunks,
        behind: Option<u32>,
    ) -> Result<Option<u32>, Tail> {
        self.next.behind = behind.unwrap_or_default();
        if self.room() < segment_chunks(0) {
            return Err(Tail::AsLeft);
        }
        // First the head: a boot reads them all, and each read of a card takes its time.
        let (head, first) = match self.head(from) {
            Answer::Intact(found) => found,
            other => {
                let as_left = self.is_as_left(from, behind);
                return Err(match other {
                    _ if as_left => Tail::AsLeft,
                    Answer::Unreadable(chunk) => {
                        Tail::Unknown(Stop { hidden: Some(chunk), doubt: 2, ..Stop::NONE })
                    }
                    Answer::Damaged => Tail::Unknown(Stop { doubt: 1, ..Stop::NONE }),
                    _ => Tail::Unknown(Stop::NONE),
                });
            }
        };
        let table = self.table(from, &head, first);
        let commit = self.commit(from, &head);
        let (segment, bad) = match table {
            Answer::Intact(table) => {
                let segment = Segment { head, table, committed: false };
                let committed = matches!(commit, Answer::Intact(_));
                let bad = if committed { None } else { self.bad_data(from, &segment) };
                (Some(segment), bad)
            }
            Answer::Unreadable(place) => (None, Some(Bad { place, unreadable: true })),
            _ => (None, None),
        };
        let (Some(segment), None) = (segment, bad) else {
            let hidden = bad.filter(|bad| bad.unreadable).map(|bad| bad.place);
            let stop = Stop { hidden, ..Stop::NONE };
            return Err(match commit {
                Answer::Intact(_) | Answer::Damaged => {
                    Tail::Unknown(Stop { committed: head.sequence, ..stop })
                }
                Answer::Unreadable(chunk) => {
                    Tail::Unknown(Stop { hidden: hidden.or(Some(chunk)), doubt: 0, ..stop })
                }
                Answer::Other if bad.is_some() => Tail::CutShort(stop, Box::new(head)),
                Answer::Other => Tail::Unknown(stop),
            });
        };
        let commit = match commit {
            Answer::Intact(commit) => Some(commit),
            _ => None,
        };
        self.next = self.link_after(&head);
        self.segments.push(Segment { committed: commit.is_some(), ..segment });
        Ok(commit.map(|commit| commit.link.behind))
    }

    pub(super) fn is_as_left(&self, from: &mut impl Chunks, behind: Option<u32>) -> bool {
        behind.is_some_and(|crc| behind_crc(from, &self.ring, self.next.position) == crc)
    }

    /// The head of the segment at the chain's end, and the chunk that it is in.
    fn head(&self, from: &mut impl Chunks) -> Answer<(Head, Vec<u8>)> {
        let at = self.next.position;
        let ours = Head {
            log: self.header.uuid,
            generation: self.header.start.id,
            previous: self.next.id,
            position: at,
            ..Head::default()
        };
        let place = self.ring.chunk(at);
        let mut chunk = vec![0; CHUNK_BYTES];
        if fetch(from, place, &mut chunk).is_err() {
            return Answer::Unreadable(place);
        }
        match Head::decode(&chunk) {
            Ok(head)
                if (head.log, head.generation, head.previous, head.position)
                    == (ours.log, ours.generation, ours.previous, ours.position)
                    && head.sequence > self.next.sequence
                    && self.fits(head.count) =>
            {
                Answer::Intact((head, chunk))
            }
            Err(_) if resembles(&chunk, &ours.encode(), &HEAD_MARKS) => Answer::Damaged,
            _ => Answer::Other,
        }
    }

    /// The table of the segment at the chain's end; `first` is the chunk that begins with its head.
    fn table(&self, from: &mut impl Chunks, head: &Head, mut first: Vec<u8>) -> Answer<Vec<Entry>> {
        let bytes = u64::from(head.count) * ENTRY_BYTES as u64;
        // `fits` bounds it by the ring's size.
        let mut table = Vec::with_capacity(bytes as usize + CHUNK_BYTES);
        table.extend_from_slice(first.get(RECORD_BYTES..).unwrap_or_default());
        for chunk in 1..head.head_chunks() {
            let place = self.ring.chunk(head.position.saturating_add(chunk));
            if fetch(from, place, &mut first).is_err() {
                return Answer::Unreadable(place);
            }
            table.extend_from_slice(&first);
        }
        let table = table.get(..bytes as usize).unwrap_or_default();
        if crc32c(table) != head.table {
            return Answer::Other;
        }
        let table: Vec<_> = Entry::decode_all(table).collect();
        let ascending = table.windows(2).all(|pair| matches!(pair, [a, b] if a.old < b.old));
        let root_chunks = self.header.root_sectors.div_ceil(8);
        let inside = table.last().is_none_or(|last| last.old < root_chunks);
        if ascending && inside { Answer::Intact(table) } else { Answer::Other }
    }

    /// The commit record of a segment.
    fn commit(&self, from: &mut impl Chunks, head: &Head) -> Answer<Commit> {
        let place = self.ring.chunk(head.commit());
        let mut chunk = vec![0; CHUNK_BYTES];
        if fetch(from, place, &mut chunk).is_err() {
            return Answer::Unreadable(place);
        }
        let ours = Commit {
            log: head.log,
            generation: head.generation,
            position: head.position,
            link: self.link_after(head),
        };
        match Commit::decode(&chunk) {
            Ok(commit)
                if (Commit { link: Link { behind: 0, ..commit.link }, ..commit }) == ours =>
            {
                Answer::Intact(commit)
            }
            Err(_) if resembles(&chunk, &ours.encode(), &COMMIT_MARKS) => Answer::Damaged,
            _ => Answer::Other,
        }
    }

    /// The first chunk of a segment's data that is not as its table says; one that is wrong, if
    /// there is one.
    fn bad_data(&self, from: &mut impl Chunks, segment: &Segment) -> Option<Bad> {
        bad_chunks(from, wanted(&self.ring, segment)).into_iter().min_by_key(|bad| bad.unreadable)
    }

    /// Whether the incomplete segment at the chain's end is the youngest: had it been complete
    /// once, and is damaged now, the next one's head would stand right behind it. What can't be
    /// read may be anything.
    fn is_last(&self, from: &mut impl Chunks, head: &Head) -> bool {
        let mut chunk = vec![0; CHUNK_BYTES];
        let next = self.ring.chunk(self.link_after(head).position);
        fetch(from, next, &mut chunk).is_ok()
            && !Head::decode(&chunk).is_ok_and(|behind| {
                behind.log == self.header.uuid && behind.sequence > head.sequence
            })
    }
}

/// The bytes of a record that say where it belongs: magic, the log's UUID, generation, place, and
/// what it is chained to.
const HEAD_MARKS: [Range<usize>; 5] = [0..8, 16..32, 32..40, 64..72, 48..56];
const COMMIT_MARKS: [Range<usize>; 5] = [0..8, 16..32, 32..40, 40..48, 48..56];

/// Whether a damaged record was once `wanted`: at least all but one of these fields agree.
fn resembles(found: &[u8], wanted: &[u8], marks: &[Range<usize>; 5]) -> bool {
    let differ =
        marks.iter().filter(|mark| found.get((*mark).clone()) != wanted.get((*mark).clone()));
    differ.count() <= 1
}
