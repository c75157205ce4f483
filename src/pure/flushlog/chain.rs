//! Reading a log: which segments are complete, in which order, and what is wrong with the rest.
//!
//! A segment belongs to the chain if its head stands where the segment before it ends, names that
//! segment's random number, and its table and data have the right checksums. After the last one
//! stands what stood there when it was committed; its commit record has a checksum of that, so
//! the usual end is known by reading eight chunks. Anything else there is either a segment that
//! the power cut short, or one that was damaged after it had been committed: then a younger
//! commit record is still to be found further on in the ring, and the difference is told.
//!
//! # What can't be read
//!
//! There are three answers: *intact*, *damaged* (read, and wrong), and *unreadable*, which may be
//! either and is tried a few times. A card with a bad contact reads well a second later, so what can't be read is never
//! taken for wrong, nor for nothing. The other way round, a power cut leaves unreadable sectors
//! where it was writing, behind the chain's end; that must not hold up all later flushes. So where the chain
//! ends it is asked: could a segment that was committed be here?
//!
//! | head at the end | commit record of a segment there | answer |
//! | --- | --- | --- |
//! | something else | | what a search finds |
//! | unreadable | any place behind it | what a search finds; [`End::Unreadable`] if that can't read another chunk either |
//! | damaged, but ours | any place behind it | the same if a search can't read a chunk |
//! | ours | intact, or damaged, but ours | it was committed: [`End::Damaged`] if something in it is wrong, else [`End::Unreadable`] |
//! | ours | unreadable | [`End::Unreadable`] unless all data are right |
//! | ours | something else | it was cut short; what a search finds |
//!
//! What a search finds: a younger commit record somewhere in the ring means that flushes were lost
//! ([`End::Damaged`]), or can't be reached now ([`End::Unreadable`] if what is in the way can't be read). None means
//! [`End::Torn`]: a committed segment has its head and its commit record in two chunks, so one unreadable chunk can't hide it. The
//! checksum of what stands behind a segment counts a chunk that can't be read as [`NOTHING`], in writing and in
//! comparing: it can't fail.

use core::ops::Range;

use super::format::{
    BEHIND, Commit, Defect, Entry, FORMAT, HEADER_MAGIC, Head, Header, Link, Mark, RECORD_BYTES,
    segment_chunks,
};
use super::ring::Ring;
use super::segment::Segment;
use super::witness::watched;
use crate::pure::chunks::{CHUNK_BYTES, Chunks, PIECE, Unreadable};
use crate::pure::cow::format::Exception;
use crate::pure::crc::{self, crc32c};

/// What was asked for is there, or something else is, or it can't be read (that chunk), which may be either.
enum Answer<T> {
    Intact(T),
    /// It was there: all but a part of it is.
    Damaged,
    Other,
    Unreadable(u64),
}

/// Why there is no log to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLog {
    /// Neither copy of the header is one.
    Absent,
    /// The header can't be read, so it may be intact: at this chunk.
    Unreadable(u64),
    /// A header is there, but neither copy is intact.
    Damaged,
    /// A copy of the header is intact and of a format that this program does not know: it may hold anything.
    Newer(Box<Header>),
    /// The header makes no sense.
    Nonsense,
    /// The partition has fewer chunks than the log.
    Truncated {
        /// Chunks that the log has by its header.
        log: u64,
        /// Chunks that there are.
        partition: u64,
    },
}

impl core::fmt::Display for NoLog {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            NoLog::Absent => f.write_str("it holds no flush log"),
            NoLog::Unreadable(chunk) => write!(f, "its chunk {chunk} can't be read"),
            NoLog::Newer(header) => write!(
                f,
                "its log has format {}, and this program knows none above {FORMAT}",
                header.format.0
            ),
            NoLog::Damaged => f.write_str("both copies of the log's header are damaged"),
            NoLog::Nonsense => f.write_str("the log's header makes no sense"),
            NoLog::Truncated { log, partition } => write!(
                f,
                "the log has {log} chunks of 4096 bytes, but the partition has only {partition}"
            ),
        }
    }
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The younger of the intact copies.
    pub header: Header,
    /// Both copies were intact and equal.
    pub whole: bool,
    /// Where a copy stands that can't be read.
    pub hidden: Option<u64>,
}

/// Reads the header of a log on a partition of `chunks`.
pub fn header(from: &mut impl Chunks, chunks: u64) -> Result<Found, NoLog> {
    // The inner answer is that of a copy that could be read.
    let mut record = |chunk: u64| {
        let mut bytes = vec![0; CHUNK_BYTES];
        fetch(from, chunk, &mut bytes).map_err(|Unreadable| chunk)?;
        Ok(Header::decode(&bytes).map_err(|defect| match defect {
            Defect::Magic if !bytes.starts_with(HEADER_MAGIC) => Defect::Magic,
            other => other,
        }))
    };
    let first = record(0);
    let end = first.as_ref().ok().and_then(|read| read.as_ref().ok());
    let last_chunk = end.map_or(chunks, |header| header.chunks).checked_sub(1);
    let second =
        last_chunk.filter(|chunk| *chunk < chunks).map_or(Ok(Err(Defect::Magic)), &mut record);
    // A disk whose last partition is a log, up to the disk's end, ends with that log's copy.
    let second = match second {
        Ok(Ok(header)) if !matches!(first, Ok(Ok(_))) && header.chunks != chunks => {
            Ok(Err(Defect::Magic))
        }
        other => other,
    };
    // The other copy may be one that a newer program could not write.
    let newer = [&first, &second].into_iter().filter_map(|read| read.as_ref().ok()?.as_ref().ok());
    if let Some(newer) = newer.copied().find(|header| header.format.is_newer()) {
        return Err(NoLog::Newer(Box::new(newer)));
    }
    let header = match (first, second) {
        (Ok(Ok(a)), Ok(Ok(b))) => {
            if b.number > a.number {
                b
            } else {
                a
            }
        }
        (Ok(Ok(one)), _) | (_, Ok(Ok(one))) => one,
        (Err(chunk), _) | (_, Err(chunk)) => return Err(NoLog::Unreadable(chunk)),
        (Ok(Err(Defect::Magic)), Ok(Err(Defect::Magic))) => return Err(NoLog::Absent),
        _ => return Err(NoLog::Damaged),
    };
    if header.chunks > chunks {
        return Err(NoLog::Truncated { log: header.chunks, partition: chunks });
    }
    if Ring::new(header.chunks, header.align).is_none() {
        return Err(NoLog::Nonsense);
    }
    let hidden = first.err().or(second.err());
    Ok(Found { header, whole: hidden.is_none() && first == second, hidden })
}

/// Reads a log on a partition of `chunks`, and says whether both copies of its header are intact. `in_use`: as
/// [`Chain::read_in_use`].
pub fn open(from: &mut impl Chunks, chunks: u64, in_use: bool) -> Result<(Chain, bool), NoLog> {
    let Found { header, whole, hidden } = header(from, chunks)?;
    let mut chain = Chain::read_as(from, header, in_use)?;
    // The copy that can't be read may be the younger one, and what seems lost its generation's.
    if let (Some(chunk), End::Damaged(damage)) = (hidden, chain.end) {
        chain.end = End::Unreadable { chunk, youngest: Some(damage.youngest) };
    }
    Ok((chain, whole))
}

/// How a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was left by the last segment.
    Clean,
    /// With something that was never completed: what a power cut during a flush leaves.
    Torn,
    /// With something that had been complete.
    Damaged(Damage),
    /// With something that can't be read, and may be intact.
    Unreadable {
        /// The chunk of the log that can't be read.
        chunk: u64,
        /// The largest sequence number that is known to be behind it; `None`: perhaps there is nothing.
        youngest: Option<u64>,
    },
}

impl End {
    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            End::Clean => "clean",
            End::Torn => "torn",
            End::Damaged(_) => "damaged",
            End::Unreadable { .. } => "unreadable",
        }
    }
}

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The chunk of the log where it was noticed.
    pub chunk: u64,
    /// Its content.
    pub what: What,
    /// The largest sequence number that is known to be lost.
    pub youngest: u64,
}

/// What was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A segment's head or table, or the start of the ring.
    Head,
    /// A chunk of data.
    Data,
}

impl core::fmt::Display for What {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            What::Head => "a segment's head or table",
            What::Data => "a segment's data",
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
    pub end: End,
    /// What the next segment is chained to. `sequence` is the largest that was seen anywhere.
    pub next: Link,
    /// `None`: all segments are here. Else only the last ones, and of those before some were looked at: the next look
    /// at them begins at the segment that is chained to this.
    pub part: Option<Link>,
}

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

/// A chunk of data that is not as its segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bad {
    /// Chunk number in the log's partition.
    pub place: u64,
    /// It can't be read; else its checksum is wrong.
    pub unreadable: bool,
}

/// How often a chunk is read that can't be read.
const TRIES: u32 = 3;

/// How many of the segments before the last one an append looks at, in turn.
pub const LOOKS: u32 = 8;

/// What a chunk counts as, byte by byte, in the checksum of what stands behind a segment, if it can't be read.
pub const NOTHING: u8 = 0xb5;

/// What is behind a chain's last complete segment.
enum Tail {
    /// What was there when that was written, or nothing fits there.
    AsLeft,
    /// A segment with a good head, but not all of its data, and no commit record.
    CutShort(Stop, Box<Head>),
    /// Something else.
    Unknown(Stop),
}

/// What is known of the place where a chain ends.
struct Stop {
    /// What is in the way can't be read, at this chunk.
    hidden: Option<u64>,
    /// A segment was committed here, of that number.
    committed: u64,
    /// One may have been, if the ring has so many chunks that can't be read.
    doubt: usize,
}

impl Stop {
    /// No segment that had been committed is here.
    const NONE: Self = Self { hidden: None, committed: 0, doubt: usize::MAX };
}

/// What a search of the ring found.
#[derive(Default)]
struct Searched {
    /// The largest sequence number of any commit record.
    youngest: u64,
    /// The first chunk that can't be read.
    hidden: Option<u64>,
    /// How many can't.
    unreadable: usize,
}

impl Chain {
    /// Follows the chain from the header on. Heads, tables and commit records are read, data only
    /// of a last segment without a commit record; [`Self::verify`] reads the rest.
    pub fn read(from: &mut impl Chunks, header: Header) -> Result<Self, NoLog> {
        Self::read_as(from, header, false)
    }

    /// The same for a log that a stack is using, where a flush may have been killed: at shutdown, most
    /// likely, and then there is no time to search the ring of a slow card. A segment that only
    /// lacks its end is passed by, if none follows it; anything else is searched for.
    pub fn read_in_use(from: &mut impl Chunks, header: Header) -> Result<Self, NoLog> {
        Self::read_as(from, header, true)
    }

    fn read_as(from: &mut impl Chunks, header: Header, in_use: bool) -> Result<Self, NoLog> {
        let (mut chain, tail) = Self::follow(from, header)?;
        match tail {
            Tail::AsLeft => {}
            Tail::CutShort(_, head) if in_use && chain.is_last(from, &head) => {
                chain.end = End::Torn;
                // As a search would: no number is used again that may stand in a commit record.
                chain.next.sequence = head.sequence;
            }
            Tail::CutShort(stop, _) | Tail::Unknown(stop) => chain.end_at(from, &stop),
        }
        Ok(chain)
    }

    /// A chain that goes on from here; nothing was read of it.
    fn begin(header: Header, ring: Ring, next: Link) -> Self {
        Self { header, ring, segments: Vec::new(), end: End::Clean, next, part: None }
    }

    /// Follows the chain; returns what is behind it, too.
    fn follow(from: &mut impl Chunks, header: Header) -> Result<(Self, Tail), NoLog> {
        let ring = Ring::new(header.chunks, header.align).ok_or(NoLog::Nonsense)?;
        let mut chain = Self::begin(header, ring, header.start);
        let mut behind = Some(header.start.behind);
        loop {
            behind = match chain.step(from, behind) {
                Ok(behind) => behind,
                Err(tail) => return Ok((chain, tail)),
            };
        }
    }

    /// Takes in the segment at the chain's end, or says what stands there instead. `behind` is the checksum of what the last one
    /// had behind it; returns that of this one, which one without a commit record does not have.
    fn step(&mut self, from: &mut impl Chunks, behind: Option<u32>) -> Result<Option<u32>, Tail> {
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

    /// The end of a chain that ends as `mark` says, without reading all of it: its last segment, and of those before it
    /// [`LOOKS`], in turn. `None`: something is not as the mark says, so all has to be read to know what it is. A segment of
    /// another generation is not.
    pub fn glance(from: &mut impl Chunks, header: Header, mark: &Mark) -> Option<Self> {
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

    /// What [`Self::glance`] has to know later. `None`: there is no segment, or what the last one knows of root
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

    /// What the segment after this one is chained to.
    fn link_after(&self, head: &Head) -> Link {
        let position = self.ring.aligned(head.commit().saturating_add(1));
        Link { id: head.id, sequence: head.sequence, position, behind: 0 }
    }

    /// Takes in a segment that was just written behind this chain.
    pub fn push(&mut self, head: Head, table: Vec<Entry>, commit: &Commit) {
        self.segments.push(Segment { head, table, committed: true });
        self.next = commit.link;
        self.end = End::Clean;
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

    fn is_as_left(&self, from: &mut impl Chunks, behind: Option<u32>) -> bool {
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
        let bytes = u64::from(head.count) * super::format::ENTRY_BYTES as u64;
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

    /// The first chunk of a segment's data that is not as its table says; one that is wrong, if there is one.
    fn bad_data(&self, from: &mut impl Chunks, segment: &Segment) -> Option<Bad> {
        bad_chunks(from, wanted(&self.ring, segment)).into_iter().min_by_key(|bad| bad.unreadable)
    }

    /// Whether the incomplete segment at the chain's end is the youngest: had it been complete once, and
    /// is damaged now, the next one's head would stand right behind it. What can't be read may be
    /// anything.
    fn is_last(&self, from: &mut impl Chunks, head: &Head) -> bool {
        let mut chunk = vec![0; CHUNK_BYTES];
        let next = self.ring.chunk(self.link_after(head).position);
        fetch(from, next, &mut chunk).is_ok()
            && !Head::decode(&chunk).is_ok_and(|behind| {
                behind.log == self.header.uuid && behind.sequence > head.sequence
            })
    }

    /// Looks through the rest of the ring for anything younger than the chain's end, which was found to be this.
    fn end_at(&mut self, from: &mut impl Chunks, stop: &Stop) {
        let found = self.search(from);
        let youngest = found.youngest.max(stop.committed);
        let start = self.ring.chunk(self.next.position);
        self.end = if youngest > self.next.sequence {
            match stop.hidden {
                Some(chunk) => End::Unreadable { chunk, youngest: Some(youngest) },
                None => End::Damaged(Damage { chunk: start, what: What::Head, youngest }),
            }
        } else if found.unreadable >= stop.doubt {
            let chunk = stop.hidden.or(found.hidden).unwrap_or(start);
            End::Unreadable { chunk, youngest: None }
        } else {
            End::Torn
        };
        self.next.sequence = self.next.sequence.max(youngest);
    }

    /// Looks through the rest of the ring.
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

    /// The same, of the first `count` segments only.
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
        if self.end == End::Clean {
            self.end_at(from, &Stop::NONE);
            if self.end == End::Torn {
                self.end = End::Clean;
            }
        }
        self.segments
            .iter()
            .flat_map(|segment| bad_chunks(from, wanted(&self.ring, segment)))
            .collect()
    }

    /// Ends the chain before segment number `index`, of whose data this is bad.
    pub fn cut(&mut self, index: usize, bad: Bad) {
        let hidden = bad.unreadable || matches!(self.end, End::Unreadable { .. });
        let youngest = self.next.sequence;
        self.segments.truncate(index);
        let last = self.segments.last().map(|segment| segment.head);
        let link = last.map_or(self.header.start, |head| self.link_after(&head));
        // Younger than anything that was ever there: what was cut off must not fit again.
        self.next = Link { sequence: youngest, ..link };
        self.end = if hidden {
            End::Unreadable { chunk: bad.place, youngest: Some(youngest) }
        } else {
            End::Damaged(Damage { chunk: bad.place, what: What::Data, youngest })
        };
    }

    /// Numbers what comes next so that it is younger than anything that can't be seen: the ring has no room for
    /// more segments than this.
    pub fn skip_unseen(&mut self) {
        self.next.sequence = self.next.sequence.saturating_add(self.ring.length);
    }
}

/// Checksum of the [`BEHIND`] chunks from a position on. One that can't be read counts as [`NOTHING`].
pub fn behind_crc(from: &mut impl Chunks, ring: &Ring, position: u64) -> u32 {
    let (mut at, end) = (position, position.saturating_add(BEHIND));
    let mut state = !0;
    while at < end {
        let count = ring.contiguous(at).clamp(1, end - at);
        each(from, ring.chunk(at), count as usize, &mut |_, chunk| {
            state = crc::update(state, chunk.unwrap_or(&[NOTHING; CHUNK_BYTES]));
        });
        at += count;
    }
    !state
}

/// Where a segment's data stand, and their checksums.
fn wanted(ring: &Ring, segment: &Segment) -> Vec<(u64, Option<u32>)> {
    segment.data(ring).map(|(place, entry)| (place, Some(entry.crc))).collect()
}

/// Which of these places can't be read, or do not hold what has the checksum, where one is known. They are
/// read in their order, neighbours together.
pub fn bad_chunks(from: &mut impl Chunks, mut wanted: Vec<(u64, Option<u32>)>) -> Vec<Bad> {
    wanted.sort_unstable();
    let mut bad = Vec::new();
    let mut rest = wanted.as_slice();
    while let Some((start, _)) = rest.first() {
        let row = (*start..).zip(rest).take(PIECE).take_while(|(at, (place, _))| at == place);
        let (row, next) = rest.split_at(row.count());
        rest = next;
        let mut expected = row.iter();
        each(from, *start, row.len(), &mut |place, chunk| {
            let crc = expected.next().and_then(|(_, crc)| *crc);
            match chunk {
                None => bad.push(Bad { place, unreadable: true }),
                Some(chunk) if crc.is_some_and(|crc| crc32c(chunk) != crc) => {
                    bad.push(Bad { place, unreadable: false });
                }
                Some(_) => {}
            }
        });
    }
    bad
}

/// Reads a chunk, which may fail once and work when it is tried again.
fn fetch(from: &mut impl Chunks, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
    (0..TRIES).find_map(|_| from.read(chunk, into).ok()).ok_or(Unreadable)
}

/// Shows a row of chunks, each with its number; `None` for one that can't be read.
fn each(
    from: &mut impl Chunks,
    start: u64,
    count: usize,
    look: &mut dyn FnMut(u64, Option<&[u8]>),
) {
    let mut buffer = vec![0; count * CHUNK_BYTES];
    let together = from.read(start, &mut buffer).is_ok();
    for (at, chunk) in (start..).zip(buffer.chunks_exact_mut(CHUNK_BYTES)) {
        let readable = together || fetch(from, at, chunk).is_ok();
        look(at, readable.then_some(&*chunk));
    }
}

/// Where a record says whose it is: its magic, the log's UUID, the generation, its place, and what it is chained to.
const HEAD_MARKS: [Range<usize>; 5] = [0..8, 16..32, 32..40, 64..72, 48..56];
const COMMIT_MARKS: [Range<usize>; 5] = [0..8, 16..32, 32..40, 40..48, 48..56];

/// Whether a record that is not intact was this one: all but one of its marks are there.
fn resembles(found: &[u8], wanted: &[u8], marks: &[Range<usize>; 5]) -> bool {
    let differ =
        marks.iter().filter(|mark| found.get((*mark).clone()) != wanted.get((*mark).clone()));
    differ.count() <= 1
}

#[cfg(test)]
mod tests {
    use super::super::format::{Format, Witness, sector_crcs};
    use super::super::layout;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const CHUNKS: u64 = 300;

    /// A log in memory.
    #[derive(Clone)]
    struct Card {
        bytes: Vec<u8>,
        /// How often it was read.
        reads: u64,
        /// Chunks that can't be read, and how often not: from then on they can.
        faults: BTreeMap<u64, u32>,
        header: Header,
        /// The chain as a reader would find it after each flush.
        root: BTreeMap<u64, u8>,
    }

    impl Chunks for Card {
        fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
            self.reads += 1;
            let end = chunk + (into.len() / CHUNK_BYTES) as u64;
            if let Some((_, left)) = self.faults.range_mut(chunk..end).find(|(_, left)| **left > 0)
            {
                *left -= u32::from(*left < u32::MAX);
                return Err(Unreadable);
            }
            let at = chunk as usize * CHUNK_BYTES;
            into.copy_from_slice(self.bytes.get(at..at + into.len()).ok_or(Unreadable)?);
            Ok(())
        }
    }

    impl Card {
        fn new(align: u32) -> Self {
            let mut bytes = vec![0; CHUNKS as usize * CHUNK_BYTES];
            // A card is never blank.
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = (at * 31 / 7) as u8;
            }
            let mut header = Header {
                uuid: [3; 16],
                chunks: CHUNKS,
                align,
                number: 1,
                root_sectors: 8000,
                ..Header::default()
            };
            let ring = Ring::new(CHUNKS, align).unwrap();
            let (faults, root) = (BTreeMap::new(), BTreeMap::new());
            let mut card = Self { bytes, reads: 0, faults, header, root };
            let behind = behind_crc(&mut card, &ring, 0);
            header.start = Link { id: 77, sequence: 0, position: 0, behind };
            card.put_header(header);
            card
        }

        fn put(&mut self, chunk: u64, data: &[u8]) {
            let at = chunk as usize * CHUNK_BYTES;
            self.bytes[at..at + data.len()].copy_from_slice(data);
            // What is written can be read.
            self.faults.remove(&chunk);
        }

        fn put_header(&mut self, header: Header) {
            self.header = header;
            self.put(0, &header.encode());
            self.put(CHUNKS - 1, &header.encode());
        }

        fn chain(&mut self) -> Chain {
            let header = header(self, CHUNKS).unwrap().header;
            Chain::read(self, header).unwrap()
        }

        /// Appends a segment that gives each of these chunks of root this byte.
        fn append(&mut self, chunks: &[u64], byte: u8) -> Head {
            let chain = self.chain();
            let head = self.write(&chain, chunks, byte);
            let behind = behind_crc(self, &chain.ring, chain.ring.aligned(head.commit() + 1));
            let commit = layout::commit(&chain, &head, behind);
            self.put(chain.ring.chunk(head.commit()), &commit.encode());
            self.root.extend(chunks.iter().map(|chunk| (*chunk, byte)));
            head
        }

        /// All but the commit record.
        fn write(&mut self, chain: &Chain, chunks: &[u64], byte: u8) -> Head {
            let data = [byte; CHUNK_BYTES];
            let table: Vec<_> =
                chunks.iter().map(|old| Entry { old: *old, crc: crc32c(&data) }).collect();
            let witnesses = [Witness { chunk: 0, before: [0; 8], after: sector_crcs(&data) }; 4];
            let laid = layout::segment(chain, &table, witnesses, 5, 0);
            assert!(chain.fits(laid.head.count));
            for (position, piece) in (laid.head.position..).zip(laid.bytes.chunks(CHUNK_BYTES)) {
                self.put(chain.ring.chunk(position), piece);
            }
            for position in laid.head.data()..laid.head.commit() {
                self.put(chain.ring.chunk(position), &data);
            }
            laid.head
        }

        /// One more segment, cut short after so many chunks. Returns whether it is complete but for its commit record.
        fn tear(&mut self, chunks: &[u64], byte: u8, count: u64) -> bool {
            let (chain, before) = (self.chain(), self.bytes.clone());
            let head = self.write(&chain, chunks, byte);
            for position in (head.position + count).min(head.commit())..head.commit() {
                let at = chain.ring.chunk(position) as usize * CHUNK_BYTES;
                self.bytes[at..at + CHUNK_BYTES].copy_from_slice(&before[at..at + CHUNK_BYTES]);
            }
            head.position + count >= head.commit()
        }

        /// From now on these can't be read.
        fn fail(&mut self, chunks: impl IntoIterator<Item = u64>) {
            self.faults = chunks.into_iter().map(|chunk| (chunk, u32::MAX)).collect();
        }

        fn merge(&mut self) {
            let chain = self.chain();
            let behind = behind_crc(self, &chain.ring, chain.next.position);
            let start = Link { id: 78 + chain.next.sequence, behind, ..chain.next };
            self.put_header(Header { start, number: self.header.number + 1, ..self.header });
            self.root.clear();
        }

        /// What applying the log would give each chunk of root.
        fn applied(&mut self) -> BTreeMap<u64, u8> {
            let mut chain = self.chain();
            let live = chain.verify(self);
            live.iter().map(|live| (live.old, self.bytes[live.place as usize * 4096])).collect()
        }
    }

    #[test]
    fn segments_are_found_in_order_and_the_youngest_data_wins() {
        let mut card = Card::new(1);
        assert_eq!((card.chain().segments.len(), card.chain().end), (0, End::Clean));
        card.append(&[1, 2, 3], 10);
        card.append(&[2, 900], 11);
        let chain = card.chain();
        assert_eq!((chain.segments.len(), chain.end), (2, End::Clean));
        assert_eq!(chain.used(), 5 + 4);
        assert_eq!(card.applied(), BTreeMap::from([(1, 10), (2, 11), (3, 10), (900, 11)]));
    }

    #[test]
    fn a_segment_may_go_over_the_rings_end_and_a_merge_starts_where_it_left_off() {
        for align in [1, 32] {
            let mut card = Card::new(align);
            for round in 0..9 {
                let chunks: Vec<u64> = (0..100).map(|n| n * 2 + round).collect();
                card.append(&chunks, round as u8);
                assert_eq!(card.applied(), card.root, "round {round}");
                card.merge();
                let chain = card.chain();
                assert_eq!((chain.segments.len(), chain.used(), chain.end), (0, 0, End::Clean));
            }
            assert!(card.header.start.position > 3 * card.chain().ring.length);
        }
    }

    #[test]
    fn a_small_segment_costs_two_reads() {
        let mut card = Card::new(1);
        let empty = {
            card.reads = 0;
            card.chain();
            card.reads
        };
        for n in 0..20 {
            card.append(&[n, 30], 10);
        }
        card.reads = 0;
        assert_eq!(card.chain().segments.len(), 20);
        // Its head and its commit record.
        assert_eq!(card.reads, empty + 20 * 2);
    }

    #[test]
    fn an_unfinished_segment_is_dropped() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let chain = card.chain();
        let head = card.write(&chain, &[1, 2], 11);
        // Everything but the commit record got there: that is the new state, complete.
        assert_eq!(card.applied(), BTreeMap::from([(1, 11), (2, 11)]));
        assert!(!card.chain().segments[1].committed);
        card.put(chain.ring.chunk(head.data() + 1), b"not yet");
        assert_eq!(card.chain().end, End::Torn);
        assert_eq!(card.applied(), BTreeMap::from([(1, 10)]));
        // The next flush writes over it.
        card.append(&[7], 12);
        assert_eq!(card.applied(), BTreeMap::from([(1, 10), (7, 12)]));
        assert_eq!(card.chain().end, End::Clean);
    }

    #[test]
    fn a_flush_that_was_cut_short_is_passed_by_without_a_search_while_the_log_is_in_use() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let chain = card.chain();
        let cut = card.write(&chain, &[1, 2], 11);
        card.put(chain.ring.chunk(cut.data() + 1), b"not yet");
        card.reads = 0;
        let searched = card.chain();
        let long = card.reads;
        card.reads = 0;
        let passed = Chain::read_in_use(&mut card, searched.header).unwrap();
        assert_eq!((passed.end, &passed.segments), (End::Torn, &searched.segments));
        assert!(card.reads < 10 && card.reads < long, "{} of {long}", card.reads);
        // What is appended then is younger than what was cut short.
        let next = card.write(&passed, &[5], 12);
        assert!(next.sequence > cut.sequence && next.previous == cut.previous);
        assert_eq!(card.applied(), BTreeMap::from([(1, 10), (5, 12)]));
    }

    #[test]
    fn damage_in_a_log_in_use_is_not_taken_for_a_flush_that_was_cut_short() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let chain = card.chain();
        let second = card.append(&[1, 2], 11);
        card.append(&[3], 12);
        // Data and commit record: as if it had never been complete.
        card.put(chain.ring.chunk(second.data() + 1), b"bad");
        card.put(chain.ring.chunk(second.commit()), b"bad");
        let found = Chain::read_in_use(&mut card, chain.header).unwrap();
        assert!(matches!(found.end, End::Damaged(_)), "{:?}", found.end);
    }

    #[test]
    fn a_damaged_head_is_told_from_a_cut_flush() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let second = card.append(&[1, 2], 11);
        card.append(&[3], 12);
        let place = card.chain().ring.chunk(second.position);
        card.put(place, &[0; CHUNK_BYTES]);
        let chain = card.chain();
        assert_eq!(chain.segments.len(), 1);
        let lost = Damage { chunk: place, what: What::Head, youngest: 3 };
        assert_eq!(chain.end, End::Damaged(lost));
        // What is appended now has nothing to do with the third segment.
        card.append(&[1, 2], 13);
        let chain = card.chain();
        assert_eq!((chain.segments.len(), chain.end), (2, End::Clean));
        assert_eq!(chain.segments[1].head.sequence, 4);
        assert_eq!(card.applied(), BTreeMap::from([(1, 13), (2, 13)]));
    }

    #[test]
    fn damaged_data_end_the_chain_unless_they_were_replaced() {
        let mut card = Card::new(1);
        let first = card.append(&[1, 2], 10);
        let second = card.append(&[2, 3], 11);
        card.append(&[3, 4], 12);
        let ring = card.chain().ring;
        // Chunk 3 of the second segment is replaced by the third: nobody reads it.
        card.put(ring.chunk(second.data() + 1), b"x");
        let mut chain = card.chain();
        assert_eq!((chain.verify(&mut card.clone()).len(), chain.end), (4, End::Clean));
        let wrong = Bad { place: ring.chunk(second.data() + 1), unreadable: false };
        assert_eq!(chain.verify_all(&mut card), [wrong]);
        // With the third gone it counts again, and ends the chain earlier.
        let mut broken = card.clone();
        let third = chain.segments[2].head;
        broken.put(ring.chunk(third.data()), b"x");
        let mut chain = broken.chain();
        assert_eq!(chain.verify(&mut broken).len(), 2);
        assert_eq!(chain.segments.len(), 1);
        assert!(matches!(chain.end, End::Damaged(Damage { what: What::Data, youngest: 3, .. })));
        broken.put(ring.chunk(first.data()), b"x");
        assert!(broken.applied().is_empty());
    }

    #[test]
    fn a_segment_whose_start_was_never_written_is_found_by_a_full_search() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let before = card.clone();
        let lost = card.append(&(0..40).collect::<Vec<_>>(), 11);
        let ring = card.chain().ring;
        // The card says that it has everything, but lost what it got first.
        for position in lost.position..lost.position + BEHIND {
            let at = ring.chunk(position) as usize * CHUNK_BYTES;
            let old = before.bytes[at..at + CHUNK_BYTES].to_vec();
            card.put(ring.chunk(position), &old);
        }
        let mut chain = card.chain();
        assert_eq!(chain.end, End::Clean, "a boot can't see it");
        assert!(chain.verify_all(&mut card).is_empty());
        assert!(matches!(chain.end, End::Damaged(Damage { youngest: 2, .. })));
    }

    #[test]
    fn a_header_has_two_copies() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let good = card.header;
        card.put(0, b"gone");
        let found = header(&mut card, CHUNKS).unwrap();
        assert_eq!((found.header, found.whole, found.hidden), (good, false, None));
        card.put(0, &good.encode());
        card.put(CHUNKS - 1, b"gone");
        assert_eq!(header(&mut card, CHUNKS).unwrap().header, good);
        card.put(0, b"cowflLOG and rubbish");
        assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Damaged));
        card.put(0, b"gone");
        assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Absent));
        card.put_header(good);
        let (log, partition) = (CHUNKS, CHUNKS - 1);
        assert_eq!(header(&mut card, CHUNKS - 1), Err(NoLog::Truncated { log, partition }));
        // Half of an update: the younger copy holds.
        let newer = Header { number: good.number + 1, ..good };
        card.put(CHUNKS - 1, &newer.encode());
        assert_eq!(
            header(&mut card, CHUNKS).unwrap(),
            Found { header: newer, whole: false, hidden: None }
        );
    }

    #[test]
    fn a_newer_copy_of_the_header_is_never_passed_over() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let known = card.header;
        for number in [0, known.number, known.number + 1] {
            let newer = Header { format: Format(FORMAT + 1), number, ..known };
            for (first, second) in [(newer, known), (known, newer), (newer, newer)] {
                card.put(0, &first.encode());
                card.put(CHUNKS - 1, &second.encode());
                assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Newer(Box::new(newer))));
            }
            for (place, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
                card.put(place, &newer.encode());
                for nothing in [&b"gone"[..], b"cowflLOG and rubbish"] {
                    card.put(other, nothing);
                    assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Newer(Box::new(newer))));
                }
            }
        }
        // A number that was only damaged is damage, and the other copy counts.
        let mut damaged = known.encode();
        damaged[8] = 2;
        card.put(0, &damaged);
        card.put(CHUNKS - 1, &known.encode());
        assert_eq!(header(&mut card, CHUNKS).map(|found| found.header), Ok(known));
        // Nor is a disk such a log that ends with one.
        let newer = Header { format: Format(FORMAT + 1), ..known };
        card.put_header(newer);
        card.bytes.splice(0..0, vec![0x5a; 64 * CHUNK_BYTES]);
        assert_eq!(header(&mut card, CHUNKS + 64), Err(NoLog::Absent));
    }

    #[test]
    fn a_disk_that_ends_with_a_log_is_no_log() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let before = vec![0x5a; 64 * CHUNK_BYTES];
        card.bytes.splice(0..0, before);
        assert_eq!(header(&mut card, CHUNKS + 64), Err(NoLog::Absent));
    }

    #[test]
    fn an_old_header_does_not_hide_a_younger_generation() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let old = card.header;
        card.merge();
        card.append(&[1], 11);
        card.put_header(old);
        assert!(matches!(card.chain().end, End::Damaged(_)));
    }

    #[test]
    fn a_forged_position_at_the_end_of_all_numbers_is_only_a_position() {
        let mut card = Card::new(1);
        let start = Link { position: u64::MAX - 2, behind: 0, ..card.header.start };
        card.put_header(Header { start, ..card.header });
        let chain = card.chain();
        card.write(&chain, &[1, 2, 3], 10);
        let mut chain = card.chain();
        assert_eq!(chain.verify(&mut card).len(), chain.live().len());
        assert!(chain.verify_all(&mut card).is_empty());
    }

    /// A log with three flushes, and the heads of these.
    fn three() -> (Card, [Head; 3], Ring) {
        let mut card = Card::new(1);
        let heads = [(&[1, 2, 3][..], 10), (&[2, 3, 4], 11), (&[3, 5], 12)];
        let heads = heads.map(|(chunks, byte)| card.append(chunks, byte));
        let ring = card.chain().ring;
        (card, heads, ring)
    }

    #[test]
    fn what_can_be_read_at_the_third_try_is_read() {
        let (card, heads, ring) = three();
        let parts = heads.iter().flat_map(|head| head.position..=head.commit());
        let behind = heads[2].commit() + 1..heads[2].commit() + 1 + BEHIND;
        let all = parts.chain(behind).map(|at| ring.chunk(at)).chain([0, CHUNKS - 1]);
        for chunk in all {
            let mut shaky = card.clone();
            shaky.faults = BTreeMap::from([(chunk, TRIES - 1)]);
            let (mut chain, whole) = open(&mut shaky, CHUNKS, false).unwrap();
            assert!(whole);
            assert_eq!((chain.segments.len(), chain.end), (3, End::Clean), "{chunk}");
            assert_eq!(chain.verify(&mut shaky).len(), 5);
            assert_eq!(chain.end, End::Clean, "{chunk}");
        }
    }

    #[test]
    fn what_stands_in_the_way_and_can_not_be_read_is_not_damaged() {
        let (card, heads, ring) = three();
        let second = heads[1];
        // Which chunk can't be read, how many flushes are found, and where it is noticed.
        let head = ring.chunk(second.position);
        let data = ring.chunk(second.data());
        for (chunk, counts, youngest) in
            [(head, 1, 3), (data, 1, 3), (ring.chunk(heads[2].data()), 2, 3)]
        {
            let mut worse = card.clone();
            worse.fail([chunk]);
            let mut chain = worse.chain();
            let live = chain.verify(&mut worse);
            assert_eq!(chain.segments.len(), counts, "{chunk}");
            assert!(!live.is_empty());
            // What the second replaced of the first counts again.
            let youngest = Some(youngest);
            assert_eq!(chain.end, End::Unreadable { chunk, youngest });
            worse.fail([]);
            assert_eq!(worse.applied(), card.root);
        }
        // Data that were replaced are not missed, and only a look at everything finds them.
        let mut worse = card.clone();
        let replaced = ring.chunk(second.data() + 1);
        worse.fail([replaced]);
        let mut chain = worse.chain();
        assert_eq!((chain.verify(&mut worse).len(), chain.end), (5, End::Clean));
        assert_eq!(chain.verify_all(&mut worse), [Bad { place: replaced, unreadable: true }]);
    }

    #[test]
    fn what_turns_out_wrong_behind_something_unreadable_is_not_lost_yet() {
        let (mut card, heads, ring) = three();
        // The third replaces it, and can't be read now.
        card.put(ring.chunk(heads[1].data() + 1), b"wrong");
        let third = ring.chunk(heads[2].data());
        card.fail([third]);
        let mut chain = card.chain();
        chain.verify(&mut card);
        assert_eq!(chain.segments.len(), 1);
        assert!(matches!(chain.end, End::Unreadable { youngest: Some(3), .. }), "{:?}", chain.end);
        card.fail([]);
        assert_eq!(card.applied(), card.root);
        // Of a segment that has both, all is lost.
        card.put(ring.chunk(heads[2].data()), b"wrong");
        card.fail([ring.chunk(heads[2].data() + 1)]);
        let mut chain = card.chain();
        chain.verify(&mut card);
        assert!(matches!(chain.end, End::Damaged(Damage { youngest: 3, .. })), "{:?}", chain.end);
    }

    #[test]
    fn one_chunk_that_can_not_be_read_in_free_space_holds_up_nothing() {
        let (card, heads, ring) = three();
        let end = heads[2].commit() + 1;
        for at in end..end + 20 {
            // It was unreadable before the last flush: that reckons with it.
            let mut before = card.clone();
            before.fail([ring.chunk(at + 4)]);
            before.append(&[7], 13);
            assert_eq!(
                (before.chain().segments.len(), before.chain().end),
                (4, End::Clean),
                "{at}"
            );
            // Or became so after it, as a power cut leaves it, with the start of a segment or without.
            for torn in [None, Some(0), Some(1), Some(3)] {
                let mut after = card.clone();
                if let Some(count) = torn {
                    after.tear(&[7, 8, 9, 10], 13, count);
                }
                after.fail([ring.chunk(at)]);
                let commit = torn.is_some_and(|count| count > 0) && at == end + 5;
                for in_use in [false, true] {
                    let (chain, _) = open(&mut after, CHUNKS, in_use).unwrap();
                    assert_eq!(chain.segments.len(), 3);
                    let hidden = matches!(chain.end, End::Unreadable { .. });
                    // Where its commit record would be nobody can tell.
                    assert_eq!(hidden, commit, "{at} {torn:?} {in_use} {:?}", chain.end);
                }
                if !commit {
                    // What is written over it heals it.
                    after.append(&[7, 8, 9, 10, 11, 12], 14);
                    assert_eq!((after.chain().segments.len(), after.chain().end), (4, End::Clean));
                    assert_eq!(after.applied(), after.root);
                }
            }
        }
    }

    #[test]
    fn a_small_flush_of_which_nothing_can_be_read_is_not_passed_over() {
        let (card, heads, ring) = three();
        let third = heads[2];
        let mut worse = card.clone();
        worse.fail((third.position..=third.commit()).map(|at| ring.chunk(at)));
        let chain = worse.chain();
        let chunk = ring.chunk(third.position);
        assert_eq!(chain.segments.len(), 2);
        assert_eq!(chain.end, End::Unreadable { chunk, youngest: None });
        // What is begun anew then is younger than what was not seen.
        let mut anew = chain.clone();
        anew.skip_unseen();
        assert!(anew.next.sequence > third.sequence);
    }

    #[test]
    fn a_header_that_can_not_be_read_is_not_absent() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let good = card.header;
        let unreadable = |chunk| Err(NoLog::Unreadable(chunk));
        for (hidden, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
            card.fail([hidden]);
            let found = Found { header: good, whole: false, hidden: Some(hidden) };
            assert_eq!(header(&mut card, CHUNKS), Ok(found), "one intact copy is enough");
            card.put(other, b"something else");
            assert_eq!(header(&mut card, CHUNKS), unreadable(hidden));
            card.put(other, b"cowflLOG and rubbish");
            assert_eq!(header(&mut card, CHUNKS), unreadable(hidden));
            card.put(other, &good.encode());
        }
        card.fail([0, CHUNKS - 1]);
        assert_eq!(header(&mut card, CHUNKS), unreadable(0));
        // On a partition that is larger than the log the copy at the end is not found.
        card.bytes.extend([0; CHUNK_BYTES]);
        card.fail([0]);
        assert_eq!(header(&mut card, CHUNKS + 1), unreadable(0));
    }

    #[test]
    fn flushes_of_a_generation_whose_header_can_not_be_read_are_not_lost() {
        let mut card = Card::new(1);
        card.append(&[1], 10);
        let old = card.header;
        card.merge();
        card.append(&[1], 11);
        // The first copy could not be written when the log was merged; now the second can't be read.
        card.put(0, &old.encode());
        card.fail([CHUNKS - 1]);
        let (chain, whole) = open(&mut card, CHUNKS, false).unwrap();
        assert!(!whole);
        assert_eq!(chain.end, End::Unreadable { chunk: CHUNKS - 1, youngest: Some(2) });
        card.fail([]);
        assert_eq!(open(&mut card, CHUNKS, false).unwrap().0.end, End::Clean);
    }

    impl Card {
        /// Its end as an append would look at it.
        fn glance(&mut self, mark: &Mark) -> Option<Chain> {
            let header = header(self, CHUNKS).ok()?.header;
            Chain::glance(self, header, mark)
        }

        /// What was appended since it ended so.
        fn since(&mut self, end: Link) -> Option<Chain> {
            let header = header(self, CHUNKS).ok()?.header;
            Chain::since(self, header, end)
        }
    }

    /// A log of so many segments of one chunk each.
    fn long(count: u64) -> Card {
        let mut card = Card::new(1);
        for number in 0..count {
            card.append(&[number % 7], number as u8);
        }
        card
    }

    #[test]
    fn an_append_reads_as_much_of_a_long_log_as_of_a_short_one() {
        let reads = |count| {
            let mut card = long(count);
            let mark = card.chain().mark().unwrap();
            card.reads = 0;
            card.glance(&mark).unwrap();
            card.reads
        };
        assert_eq!(reads(10), reads(90));
        // Two copies of the header, what is behind the last segment, and two chunks of each segment.
        assert_eq!(reads(90), 2 + 1 + 2 * (1 + u64::from(LOOKS)));
        assert_eq!(reads(1), 2 + 1 + 2);
    }

    #[test]
    fn a_glance_finds_the_end_that_a_whole_look_finds() {
        for count in [1, 2, 9, 10, 40] {
            let mut card = long(count);
            let whole = card.chain();
            let mut mark = whole.mark().unwrap();
            // Whatever the turn is at.
            for _ in 0..count {
                let end = card.glance(&mark).unwrap();
                assert_eq!((end.next, end.end, end.used()), (whole.next, whole.end, whole.used()));
                assert_eq!(end.segments.last(), whole.segments.last());
                let cursor = end.part.unwrap();
                assert!(cursor.position <= mark.before.position);
                mark.cursor = cursor;
            }
            // What was appended since changes the mark, and not the turn.
            let mut grown = card.glance(&mark).unwrap();
            card.append(&[3], 200);
            assert!(card.glance(&mark).is_none(), "it is more than the mark says");
            let after = card.chain();
            grown.segments.push(after.segments.last().unwrap().clone());
            let next = grown.mark().unwrap();
            let whole = after.mark().unwrap();
            assert_eq!(next.last, whole.last);
            assert_eq!(
                (next.before.id, next.before.position),
                (whole.before.id, whole.before.position)
            );
            assert_eq!(Some(next.cursor), grown.part);
            assert!(card.glance(&next).is_some());
        }
        assert_eq!(long(0).chain().mark(), None);
    }

    #[test]
    fn damage_anywhere_in_a_long_log_is_seen_after_as_many_appends_as_it_takes_to_look_at_all() {
        // The log grows meanwhile.
        let grown: Vec<Card> = (40..48).map(long).collect();
        for index in 0..39 {
            let chain = grown[0].clone().chain();
            let head = chain.segments[index].head;
            for place in [head.position, head.commit()] {
                // Wherever the turn is.
                for turn in [0, 7, 20, 38] {
                    let before = chain.segments.iter().take(turn).next_back();
                    let mut cursor =
                        before.map_or(chain.header.start, |before| chain.link_after(&before.head));
                    let mut seen = false;
                    for card in &grown {
                        let whole = card.clone().chain();
                        let mark = Mark { cursor, ..whole.mark().unwrap() };
                        let mut card = card.clone();
                        card.bytes[whole.ring.chunk(place) as usize * CHUNK_BYTES + 20] ^= 1;
                        let Some(end) = card.glance(&mark) else {
                            seen = true;
                            break;
                        };
                        // Until then nothing misleads it.
                        assert_eq!(end.next, whole.next);
                        cursor = end.part.unwrap();
                    }
                    // A commit record that is damaged costs nothing while the data are right.
                    assert_eq!(seen, place == head.position, "{index} {turn}");
                }
            }
        }
    }

    #[test]
    fn a_mark_of_another_time_says_nothing() {
        let mut card = long(12);
        let old = card.chain().mark().unwrap();
        card.merge();
        assert!(card.glance(&old).is_none(), "the log began anew");
        card.append(&[1], 1);
        let mark = card.chain().mark().unwrap();
        assert!(card.glance(&mark).is_some());
        assert!(card.glance(&Mark { last: mark.last ^ 1, ..mark }).is_none());
        let before = Link { id: 1, ..mark.before };
        assert!(card.glance(&Mark { before, ..mark }).is_none());
        // A flush that was cut short stands behind it.
        card.tear(&[1, 2], 5, 2);
        assert!(card.glance(&mark).is_none());
    }

    #[test]
    fn a_last_segment_that_knows_less_of_root_than_all_is_no_mark() {
        let mut chain = long(3).chain();
        assert!(chain.mark().is_some());
        chain.segments[2].head.witnesses = [Witness::default(); 4];
        assert_eq!(chain.mark(), None);
    }

    #[test]
    fn what_was_appended_to_a_long_log_is_read_without_the_rest() {
        let reads = |count| {
            let mut card = long(count);
            let end = card.chain().next;
            card.append(&[1, 2], 1);
            card.append(&[3], 2);
            card.reads = 0;
            assert_eq!(card.since(end).unwrap().segments.len(), 2);
            card.reads
        };
        // Two copies of the header, two chunks of each segment, the place behind them as a head and as it was left.
        assert_eq!((reads(0), reads(90)), (2 + 2 * 2 + 2, 2 + 2 * 2 + 2));
    }

    proptest! {
        /// Who looks again finds what a whole look finds, or nothing.
        #[test]
        fn what_was_appended_since_a_look_is_what_a_whole_look_finds_more(
            before in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 0..9),
            after in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 0..9),
            merged in any::<bool>(),
            torn in prop::option::of(0u64..9),
            flips in prop::collection::vec((0..160 * CHUNK_BYTES, 0u8..8), 0..2),
        ) {
            let mut card = Card::new(1);
            let put = |card: &mut Card, chunks: &std::collections::BTreeSet<u64>| {
                card.append(&chunks.iter().copied().collect::<Vec<_>>(), 1);
            };
            before.iter().for_each(|chunks| put(&mut card, chunks));
            let was = card.chain();
            if merged {
                card.merge();
            }
            after.iter().for_each(|chunks| put(&mut card, chunks));
            if let Some(count) = torn {
                card.tear(&[1, 2, 3], 2, count);
            }
            for (byte, bit) in &flips {
                card.bytes[*byte] ^= 1 << bit;
            }
            let same = header(&mut card, CHUNKS).is_ok_and(|now| now.header.start == was.header.start);
            match card.since(was.next).filter(|_| same) {
                None => prop_assert!(!same || torn.is_some() || !flips.is_empty()),
                Some(more) => {
                    // What was damaged before that a look from there does not see.
                    let now = card.chain();
                    if flips.is_empty() {
                        prop_assert_eq!(&more.segments[..], &now.segments[was.segments.len()..]);
                        prop_assert_eq!((more.next, now.end), (now.next, End::Clean));
                        prop_assert_eq!(more.used(), now.used());
                    }
                }
            }
        }

        /// A table that grew with each append is the one that a reader of the whole log makes.
        #[test]
        fn what_root_reads_may_be_taken_from_the_table_before(
            flushes in prop::collection::vec(prop::collection::btree_set(0u64..40, 0..9), 0..9),
        ) {
            let mut card = Card::new(1);
            let mut seen = Vec::new();
            for chunks in flushes {
                card.append(&chunks.into_iter().collect::<Vec<_>>(), 1);
                let chain = card.chain();
                seen = chain.last_over(seen);
                let live = chain.live();
                let live: Vec<_> = live.iter().map(|l| Exception { old: l.old, new: l.place }).collect();
                prop_assert_eq!(&seen, &live);
            }
        }

        /// Whatever became of the card since a mark was made: who believes it writes behind all that counted then.
        #[test]
        fn a_glance_is_never_misled(
            flushes in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 1..14),
            more in prop::option::of((prop::collection::btree_set(0u64..1000, 0..9), 0u64..14)),
            turn in 0usize..14,
            unreadable in prop::collection::btree_set(prop_oneof![9 => 0u64..160, 1 => Just(CHUNKS - 1)], 0..4),
            flips in prop::collection::vec((0..160 * CHUNK_BYTES, 0u8..8), 0..3),
        ) {
            let mut card = Card::new(1);
            for chunks in &flushes {
                card.append(&chunks.iter().copied().collect::<Vec<_>>(), 1);
            }
            let was = card.chain();
            let mut mark = was.mark().unwrap();
            let mut heads = was.segments.iter().take(turn.min(flushes.len() - 1));
            mark.cursor = heads.next_back().map_or(was.header.start, |one| was.link_after(&one.head));
            let mut grown = false;
            if let Some((chunks, count)) = &more {
                grown = card.tear(&chunks.iter().copied().collect::<Vec<_>>(), 2, *count);
            }
            for (byte, bit) in &flips {
                card.bytes[*byte] ^= 1 << bit;
            }
            card.fail(unreadable.iter().copied());
            let untouched = more.is_none() && flips.is_empty() && unreadable.is_empty();
            match card.glance(&mark) {
                None => prop_assert!(!untouched),
                Some(end) => {
                    prop_assert_eq!(end.next, was.next);
                    prop_assert_eq!(&end.segments[..], &was.segments[was.segments.len() - 1..]);
                    prop_assert!(!grown || !flips.is_empty());
                    prop_assert_eq!(end.used(), was.used());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_can_not_be_read_is_never_called_lost_nor_passed_over(
            flushes in prop::collection::vec(
                (prop::collection::btree_set(0u64..1000, 0..20), any::<u8>()), 0..5),
            torn in prop::option::of(
                (prop::collection::btree_set(0u64..1000, 0..20), any::<u8>(), 0u64..25)),
            unreadable in prop::collection::btree_set(
                prop_oneof![4 => 0u64..100, 1 => Just(CHUNKS - 1)], 0..6),
            flip in prop::option::of((0..100 * CHUNK_BYTES, 0u8..8)),
            in_use: bool,
        ) {
            let mut card = Card::new(1);
            let mut states = vec![BTreeMap::new()];
            for (chunks, value) in &flushes {
                card.append(&chunks.iter().copied().collect::<Vec<_>>(), *value);
                states.push(card.root.clone());
            }
            let good = card.clone();
            let mut place = None;
            if let Some((chunks, value, count)) = &torn {
                let chain = card.chain();
                let list: Vec<_> = chunks.iter().copied().collect();
                place = Some(chain.ring.chunk(chain.next.position + segment_chunks(list.len() as u32) - 1));
                if card.tear(&list, *value, *count) {
                    let mut root = good.root.clone();
                    root.extend(list.iter().map(|chunk| (*chunk, *value)));
                    states.push(root);
                }
            }
            if let Some((byte, bit)) = flip {
                card.bytes[byte] ^= 1 << bit;
            }
            card.fail(unreadable.iter().copied());
            let read = |card: &mut Card| {
                let (mut chain, _) = open(card, CHUNKS, in_use)?;
                let live = chain.verify(card);
                let root: BTreeMap<_, _> =
                    live.iter().map(|live| (live.old, card.bytes[live.place as usize * 4096])).collect();
                Ok::<_, NoLog>((chain, root))
            };
            match read(&mut card) {
                Err(error) => prop_assert!(matches!(error, NoLog::Unreadable(_)), "{error:?}"),
                Ok((chain, root)) => {
                    prop_assert!(states.contains(&root));
                    let hidden = matches!(chain.end, End::Unreadable { .. });
                    let damaged = matches!(chain.end, End::Damaged(_));
                    prop_assert!(flip.is_some() || !damaged, "{:?}", chain.end);
                    if chain.segments.len() < flushes.len() {
                        prop_assert!(hidden || damaged, "{:?}", chain.end);
                    } else if flip.is_none() && unreadable.len() <= 1 {
                        // One such chunk holds up nothing.
                        let told = unreadable.first().is_none_or(|chunk| Some(*chunk) != place);
                        prop_assert!(!(hidden && told), "{:?}", chain.end);
                    }
                }
            }
            if flip.is_none() {
                card.fail([]);
                let (chain, root) = read(&mut card).unwrap();
                prop_assert!(chain.segments.len() >= flushes.len());
                prop_assert_eq!(&root, &states[chain.segments.len()]);
            }
        }

        #[test]
        fn a_flipped_bit_never_yields_a_state_that_never_was(
            flushes in prop::collection::vec(
                (prop::collection::btree_set(0u64..1000, 1..30), any::<u8>()), 1..5),
            byte in 0..CHUNKS as usize * CHUNK_BYTES,
            bit in 0u8..8,
        ) {
            let mut card = Card::new(1);
            let mut states = vec![BTreeMap::new()];
            for (chunks, value) in &flushes {
                card.append(&chunks.iter().copied().collect::<Vec<_>>(), *value);
                states.push(card.root.clone());
            }
            let mut damaged = card.clone();
            damaged.bytes[byte] ^= 1 << bit;
            let mut chain = damaged.chain();
            let live = chain.verify(&mut damaged);
            let applied: BTreeMap<_, _> = live
                .iter()
                .map(|live| (live.old, damaged.bytes[live.place as usize * 4096]))
                .collect();
            prop_assert!(states.contains(&applied));
            // Less than everything is never silent.
            if chain.segments.len() < flushes.len() {
                prop_assert!(matches!(chain.end, End::Damaged(_)), "{:?}", chain.end);
            }
        }

        #[test]
        fn any_bytes_are_a_chain(
            pieces in prop::collection::vec((0u64..CHUNKS, any::<u64>()), 0..20),
        ) {
            let mut card = Card::new(1);
            card.append(&[1, 5, 9], 10);
            card.append(&[5, 7], 11);
            for (chunk, value) in pieces {
                card.put(chunk, &value.to_le_bytes());
            }
            if let Ok(found) = header(&mut card, CHUNKS) {
                let mut chain = Chain::read(&mut card, found.header).unwrap();
                let live = chain.verify(&mut card);
                for live in live {
                    prop_assert!(live.place > 0 && live.place < CHUNKS - 1);
                }
            }
        }
    }

    #[test]
    fn of_two_copies_of_the_header_the_younger_counts_and_either_is_enough() {
        let mut card = Card::new(1);
        let old = card.header;
        let new = Header { number: 2, ..old };
        assert_eq!(header(&mut card, CHUNKS), Ok(Found { header: old, whole: true, hidden: None }));
        for (first, second) in [(new, old), (old, new)] {
            card.put(0, &first.encode());
            card.put(CHUNKS - 1, &second.encode());
            assert_eq!(
                header(&mut card, CHUNKS),
                Ok(Found { header: new, whole: false, hidden: None })
            );
        }
        let (mut damaged, copy) = (new.encode().to_vec(), old.encode());
        damaged[20] ^= 1;
        for (place, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
            card.put(place, &damaged);
            card.put(other, &copy);
            assert_eq!(
                header(&mut card, CHUNKS),
                Ok(Found { header: old, whole: false, hidden: None })
            );
            // What was one is never taken for nothing.
            card.put(other, &[0; CHUNK_BYTES]);
            assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Damaged));
        }
        card.put(0, &[0; CHUNK_BYTES]);
        card.put(CHUNKS - 1, &[0; CHUNK_BYTES]);
        assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Absent));
    }

    #[test]
    fn a_log_is_as_large_as_it_says_or_none() {
        let mut card = Card::new(1);
        assert_eq!(
            header(&mut card, CHUNKS - 1),
            Err(NoLog::Truncated { log: CHUNKS, partition: CHUNKS - 1 })
        );
        // The copy at the end of a disk belongs to the log that ends there, not to the disk.
        card.put(0, &[0; CHUNK_BYTES]);
        assert_eq!(header(&mut card, CHUNKS).map(|found| found.whole), Ok(false));
        card.put(CHUNKS - 1, &Header { chunks: CHUNKS - 8, ..card.header }.encode());
        assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Absent));
        card.put_header(Header { align: CHUNKS as u32, ..card.header });
        assert_eq!(header(&mut card, CHUNKS), Err(NoLog::Nonsense));
    }

    #[test]
    fn what_fits_is_counted_to_the_chunk() {
        let mut card = Card::new(1);
        let most =
            |fits: &dyn Fn(u32) -> bool| (0..2 * CHUNKS as u32).filter(|count| fits(*count)).max();
        let empty = card.chain();
        let (room, length) = (empty.room(), empty.ring.length);
        assert_eq!((room, empty.used()), (length, 0));
        let largest = (0..).take_while(|count| segment_chunks(*count) <= length).last();
        assert_eq!(most(&|count| empty.fits(count)), largest);
        assert_eq!(most(&|count| empty.could_fit(count)), largest);
        let head = card.append(&[3, 4, 5], 1);
        let chain = card.chain();
        assert_eq!(chain.used(), head.commit() + 1 - head.position);
        assert_eq!(chain.room(), room - chain.used());
        let largest_now = (0..).take_while(|count| segment_chunks(*count) <= chain.room()).last();
        assert!(largest_now < largest);
        assert_eq!(most(&|count| chain.fits(count)), largest_now);
        assert_eq!(most(&|count| chain.could_fit(count)), largest);
    }

    #[test]
    fn what_was_just_written_is_in_the_chain_as_a_reader_would_find_it() {
        let mut card = Card::new(4);
        card.append(&[3, 4, 5], 1);
        let mut chain = card.chain();
        for byte in 2..5 {
            let (head, before) = (card.write(&chain, &[u64::from(byte), 7], byte), chain.clone());
            let behind = behind_crc(&mut card, &chain.ring, chain.ring.aligned(head.commit() + 1));
            let commit = layout::commit(&before, &head, behind);
            card.put(chain.ring.chunk(head.commit()), &commit.encode());
            let data = crc32c(&[byte; CHUNK_BYTES]);
            let table = [u64::from(byte), 7].map(|old| Entry { old, crc: data }).to_vec();
            chain.push(head, table, &commit);
            let read = card.chain();
            assert_eq!((&chain.segments, chain.end), (&read.segments, read.end));
            // What a reader does not need to know of the place behind.
            let link = |chain: &Chain| Link { behind: 0, ..chain.next };
            assert_eq!(link(&chain), link(&read));
        }
    }

    /// A log with one segment, and behind it one of these chunks whose head and commit record were changed before
    /// their checksums were made.
    fn forged(chunks: &[u64], change: fn(&mut Head), commit: fn(&mut Commit)) -> Chain {
        let mut card = Card::new(1);
        card.append(&[3], 1);
        let chain = card.chain();
        let mut head = card.write(&chain, chunks, 2);
        let place = chain.ring.chunk(head.commit());
        let behind = behind_crc(&mut card, &chain.ring, head.commit() + 1);
        let mut record = layout::commit(&chain, &head, behind);
        change(&mut head);
        card.put(chain.ring.chunk(chain.next.position), &head.encode());
        commit(&mut record);
        card.put(place, &record.encode());
        card.chain()
    }

    #[test]
    fn a_segment_of_another_log_time_or_place_is_not_slipped_in() {
        assert_eq!(forged(&[7, 999], |_| (), |_| ()).segments.len(), 2);
        type Change = (&'static str, fn(&mut Head));
        let changes: [Change; 7] = [
            ("log", |head| head.log[15] ^= 1),
            ("generation", |head| head.generation ^= 1),
            ("previous", |head| head.previous ^= 1),
            ("the same sequence", |head| head.sequence -= 1),
            ("position", |head| head.position += CHUNKS),
            ("more than fits", |head| head.count = u32::MAX),
            ("table", |head| head.table ^= 1),
        ];
        for (what, change) in changes {
            assert_eq!(forged(&[7, 999], change, |_| ()).segments.len(), 1, "{what}");
        }
        // Root has 1000 chunks; a table is ascending.
        for chunks in [&[7, 1000][..], &[9, 7], &[7, 7]] {
            assert_eq!(forged(chunks, |_| (), |_| ()).segments.len(), 1, "{chunks:?}");
        }
    }

    #[test]
    fn a_commit_record_of_another_segment_commits_nothing() {
        let committed = |change| {
            let chain = forged(&[7], |_| (), change);
            assert_eq!(chain.segments.len(), 2, "its data are complete");
            chain.segments[1].committed
        };
        assert!(committed(|_| ()));
        assert!(committed(|commit| commit.link.behind ^= 1), "what stands behind is no part of it");
        type Change = (&'static str, fn(&mut Commit));
        let changes: [Change; 6] = [
            ("log", |commit| commit.log[15] ^= 1),
            ("generation", |commit| commit.generation ^= 1),
            ("position", |commit| commit.position += 1),
            ("id", |commit| commit.link.id ^= 1),
            ("sequence", |commit| commit.link.sequence += 1),
            ("next", |commit| commit.link.position += 1),
        ];
        for (what, change) in changes {
            assert!(!committed(change), "{what}");
        }
    }
}
