//! The flush log's records, byte by byte. docs/formats.md has the tables, and tests/formats.rs compares.
//!
//! Everything is little-endian. Each record is one sector of 512 bytes, so that no power cut
//! leaves half of one, and carries a checksum of itself.

use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::crc::crc32c;
use crate::pure::units::{Bytes, Utc};

/// The format of the segments that this program writes. It reads all up to it, and leaves a newer one alone.
pub const FORMAT: u32 = 1;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 512;
/// Bytes of one entry of a segment's table.
pub const ENTRY_BYTES: usize = 12;
/// How many chunks behind a segment its commit record describes.
pub const BEHIND: u64 = 8;
/// How many places of root a segment can watch.
pub const FINGERPRINTS: usize = 4;
/// Sectors in a chunk.
pub const SECTORS: usize = CHUNK_BYTES / 512;

/// What a log's first bytes are.
pub const HEADER_MAGIC: &[u8; 8] = b"cowflLOG";
const HEAD_MAGIC: &[u8; 8] = b"cowflSEG";
const COMMIT_MAGIC: &[u8; 8] = b"cowflEND";
const MARK_MAGIC: &[u8; 8] = b"cowflVUE";
const TRIES_MAGIC: &[u8; 8] = b"cowflTRY";

/// A UUID's 16 bytes.
pub type Uuid = [u8; 16];
/// A record's bytes.
pub type Record = [u8; RECORD_BYTES];

/// Why bytes are no record of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The bytes begin differently.
    Magic,
    /// The bytes are of a format that this program does not know.
    Newer,
    /// The checksum is wrong.
    Checksum,
}

/// The header: what the log is, and where its present generation of segments begins.
///
/// Every format keeps the fields by which a log and its owner are known: UUID, label, chunks, number, root's UUID, sectors and
/// start. So a program tells whose a log is that it can't read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What the log holds.
    pub format: Format,
    /// The log's own UUID.
    pub uuid: Uuid,
    /// A label for `LABEL=`, padded with zeros.
    pub label: [u8; 16],
    /// Size of the log in chunks.
    pub chunks: u64,
    /// Segments begin at a multiple of this many chunks: the erase block, or 1.
    pub align: u32,
    /// Merges fill the gaps in erase blocks of this many chunks; 0: they don't.
    pub fill: u32,
    /// Counts header updates. Of two copies the one with the larger number holds.
    pub number: u64,
    /// UUID of root's filesystem; zeros when it has none.
    pub root_uuid: Uuid,
    /// Size of root's partition in sectors.
    pub root_sectors: u64,
    /// Where the generation's first segment begins.
    pub start: Link,
    /// Figures over the log's life.
    pub life: Life,
    /// Where root's partition begins, in sectors, if it is on the log's own disk; 0: it is not, or nobody knows, as
    /// in a log that was made before this was kept, or in an image.
    pub root_start: u64,
}

/// The number of a log's format: no record in the log has a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(pub u32);

/// That of a log with nothing in it, whoever made it: a merge brings it back, so that an older program can use it after that.
impl Default for Format {
    fn default() -> Self {
        Self(1)
    }
}

impl Format {
    /// This program does not know it.
    pub fn is_newer(self) -> bool {
        self.0 > FORMAT
    }
}

/// What a segment is chained to: the generation, or the segment before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// A random number of the generation or the segment.
    pub id: u64,
    /// The sequence number of the last segment up to here. Larger ones are younger.
    pub sequence: u64,
    /// The position where the next segment begins.
    pub position: u64,
    /// Checksum of the [`BEHIND`] chunks there, as they were before the next segment.
    pub behind: u32,
}

/// Figures over a log's life, kept in its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// Segments that were merged.
    pub segments: u64,
    /// Chunks of data in them.
    pub chunks: u64,
    /// Merges.
    pub merges: u64,
    /// Chunks that merges wrote to root.
    pub merged: u64,
}

/// The head of a segment. Its table follows in the same chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The log's UUID.
    pub log: Uuid,
    /// The generation's random number.
    pub generation: u64,
    /// A random number of this segment.
    pub id: u64,
    /// The random number of the segment before, or of the generation.
    pub previous: u64,
    /// Larger than that of the segment before.
    pub sequence: u64,
    /// Where it begins.
    pub position: u64,
    /// Chunks of data.
    pub count: u32,
    /// Checksum of the table's bytes.
    pub table: u32,
    /// When it was written, in seconds since 1970.
    pub when: i64,
    /// What root's telling places hold.
    pub fingerprints: [Fingerprint; FINGERPRINTS],
}

/// What one telling chunk of root held when a segment was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Chunk number on root; [`Fingerprint::NONE`] marks a place that is not used.
    pub chunk: u64,
    /// Checksums of its sectors on the card.
    pub before: [u32; SECTORS],
    /// Checksums of the sectors with this segment applied.
    pub after: [u32; SECTORS],
}

impl Fingerprint {
    /// The chunk number of an unused place.
    pub const NONE: u64 = u64::MAX;
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self { chunk: Self::NONE, before: [0; SECTORS], after: [0; SECTORS] }
    }
}

/// The record behind a segment's data: everything before it is on the card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// The log's UUID.
    pub log: Uuid,
    /// The generation's random number.
    pub generation: u64,
    /// Where its segment begins.
    pub position: u64,
    /// What the next segment is chained to.
    pub link: Link,
}

/// Where the log ended when root's table of it was made. It stands in that table, so in RAM, and lives as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The random number of the last segment.
    pub last: u64,
    /// What the last segment is chained to.
    pub before: Link,
    /// What the segment is chained to that is looked at next, of those before the last.
    pub cursor: Link,
}

/// How many boots have begun on the stack while the log ended as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// The log's UUID.
    pub log: Uuid,
    /// The random number of its last segment, or of the generation.
    pub last: u64,
    /// How many boots have begun.
    pub count: u32,
}

/// One entry of a table: a chunk of root, and the checksum of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Chunk number on root.
    pub old: u64,
    /// Checksum of the chunk's 4096 bytes.
    pub crc: u32,
}

impl Life {
    /// What it comes to, as a sentence.
    pub fn sentence(&self) -> String {
        let bytes = |chunks: u64| Bytes(chunks.saturating_mul(CHUNK_BYTES as u64));
        format!(
            "{} flushes of {}, {} merges of {} since {}",
            self.segments,
            bytes(self.chunks),
            self.merges,
            bytes(self.merged),
            Utc(self.made)
        )
    }
}

impl Header {
    /// The record.
    pub fn encode(&self) -> Record {
        let mut fields = Writer::of(HEADER_MAGIC, self.format);
        fields.put(&self.uuid).put(&self.label).u64(self.chunks).u32(self.align).u32(self.fill);
        fields.u64(self.number).put(&self.root_uuid).u64(self.root_sectors).link(&self.start);
        let Life { made, segments, chunks, merges, merged } = self.life;
        fields.i64(made).u64(segments).u64(chunks).u64(merges).u64(merged);
        fields.u64(self.root_start);
        fields.sealed()
    }

    /// Reads a record, also one of a newer format: whoever wants more than to know the log asks for that first.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let (format, mut fields) = checked(HEADER_MAGIC, record)?;
        let (uuid, label, chunks) = (fields.take(), fields.take(), fields.u64());
        let (align, fill) = (fields.u32(), fields.u32());
        Ok(Self {
            format,
            uuid,
            label,
            chunks,
            align,
            fill,
            number: fields.u64(),
            root_uuid: fields.take(),
            root_sectors: fields.u64(),
            start: fields.link(),
            life: Life {
                made: fields.i64(),
                segments: fields.u64(),
                chunks: fields.u64(),
                merges: fields.u64(),
                merged: fields.u64(),
            },
            root_start: fields.u64(),
        })
    }
}

impl Head {
    /// The record.
    pub fn encode(&self) -> Record {
        let mut fields = Writer::new(HEAD_MAGIC);
        fields.put(&self.log).u64(self.generation).u64(self.id).u64(self.previous);
        fields.u64(self.sequence).u64(self.position).u32(self.count).u32(self.table);
        fields.i64(self.when);
        for Fingerprint { chunk, before, after } in &self.fingerprints {
            fields.u64(*chunk);
            for crc in before.iter().chain(after) {
                fields.u32(*crc);
            }
        }
        fields.sealed()
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let mut fields = known(HEAD_MAGIC, record)?;
        Ok(Self {
            log: fields.take(),
            generation: fields.u64(),
            id: fields.u64(),
            previous: fields.u64(),
            sequence: fields.u64(),
            position: fields.u64(),
            count: fields.u32(),
            table: fields.u32(),
            when: fields.i64(),
            fingerprints: std::array::from_fn(|_| Fingerprint {
                chunk: fields.u64(),
                before: std::array::from_fn(|_| fields.u32()),
                after: std::array::from_fn(|_| fields.u32()),
            }),
        })
    }

    /// Chunks of head and table together.
    pub fn head_chunks(&self) -> u64 {
        head_chunks(self.count)
    }

    /// Where its data begin.
    pub fn data(&self) -> u64 {
        self.position.saturating_add(self.head_chunks())
    }

    /// Where its commit record stands.
    pub fn commit(&self) -> u64 {
        self.data().saturating_add(u64::from(self.count))
    }
}

/// Chunks of head and table of a segment with `count` chunks of data.
pub fn head_chunks(count: u32) -> u64 {
    (RECORD_BYTES as u64 + u64::from(count) * ENTRY_BYTES as u64).div_ceil(CHUNK_BYTES as u64)
}

/// All chunks of a segment with `count` chunks of data, its commit record included.
pub fn segment_chunks(count: u32) -> u64 {
    head_chunks(count) + u64::from(count) + 1
}

impl Commit {
    /// The record.
    pub fn encode(&self) -> Record {
        let mut fields = Writer::new(COMMIT_MAGIC);
        fields.put(&self.log).u64(self.generation).u64(self.position).link(&self.link);
        fields.sealed()
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let mut fields = known(COMMIT_MAGIC, record)?;
        Ok(Self {
            log: fields.take(),
            generation: fields.u64(),
            position: fields.u64(),
            link: fields.link(),
        })
    }
}

impl Mark {
    /// The record.
    pub fn encode(&self) -> Record {
        let mut fields = Writer::new(MARK_MAGIC);
        fields.u64(self.last).link(&self.before).link(&self.cursor);
        fields.sealed()
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let mut fields = known(MARK_MAGIC, record)?;
        Ok(Self { last: fields.u64(), before: fields.link(), cursor: fields.link() })
    }
}

impl Tries {
    /// The record, of the format that every log has.
    pub fn encode(&self) -> Record {
        let mut fields = Writer::of(TRIES_MAGIC, Format::default());
        fields.put(&self.log).u64(self.last).u32(self.count);
        fields.sealed()
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let mut fields = known(TRIES_MAGIC, record)?;
        Ok(Self { log: fields.take(), last: fields.u64(), count: fields.u32() })
    }
}

impl Entry {
    /// Its bytes in a table.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let (old, crc) = bytes.split_at_mut(8);
        old.copy_from_slice(&self.old.to_le_bytes());
        crc.copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Reads a table's bytes; an incomplete entry at the end is left out.
    pub fn decode_all(table: &[u8]) -> impl Iterator<Item = Self> {
        table.as_chunks::<ENTRY_BYTES>().0.iter().map(|bytes| {
            let mut fields = Fields(bytes);
            Self { old: fields.u64(), crc: fields.u32() }
        })
    }
}

/// Checksums of a chunk's sectors.
pub fn sector_crcs(chunk: &[u8]) -> [u32; SECTORS] {
    let mut sectors = chunk.as_chunks::<512>().0.iter();
    std::array::from_fn(|_| sectors.next().map_or(0, |sector| crc32c(sector)))
}

const CRC_AT: usize = 12;
const BODY_AT: usize = 16;

/// Writes a record's fields one after the other: magic, version, checksum, then the rest.
struct Writer {
    record: Record,
    at: usize,
}

impl Writer {
    fn new(magic: &[u8; 8]) -> Self {
        Self::of(magic, Format(FORMAT))
    }

    fn of(magic: &[u8; 8], format: Format) -> Self {
        let mut writer = Self { record: [0; RECORD_BYTES], at: 0 };
        writer.put(magic).u32(format.0).u32(0);
        writer
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        // All records are shorter than a sector (a test checks the longest).
        if let Some(slot) = self.record.get_mut(self.at..self.at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
        self.at += bytes.len();
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn link(&mut self, link: &Link) -> &mut Self {
        self.u64(link.id).u64(link.sequence).u64(link.position).u32(link.behind).u32(0)
    }

    fn sealed(mut self) -> Record {
        let crc = checksum(&self.record);
        if let Some(slot) = self.record.get_mut(CRC_AT..BODY_AT) {
            slot.copy_from_slice(&crc.to_le_bytes());
        }
        self.record
    }
}

/// The checksum of a record, its own field taken as zeros.
fn checksum(record: &Record) -> u32 {
    let mut copy = *record;
    if let Some(slot) = copy.get_mut(CRC_AT..BODY_AT) {
        slot.fill(0);
    }
    crc32c(&copy)
}

/// Reads fields one after the other; what is missing is zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((taken, rest)) => {
                self.0 = rest;
                *taken
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }

    fn link(&mut self) -> Link {
        let (id, sequence, position) = (self.u64(), self.u64(), self.u64());
        let (behind, _) = (self.u32(), self.u32());
        Link { id, sequence, position, behind }
    }
}

/// Checks magic number and checksum of a record whose fields may be another format's.
fn known<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<Fields<'a>, Defect> {
    let (format, fields) = checked(magic, bytes)?;
    if format.is_newer() { Err(Defect::Newer) } else { Ok(fields) }
}

/// Checks magic and checksum; the fields follow.
fn checked<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<(Format, Fields<'a>), Defect> {
    let record: &Record = bytes.first_chunk().ok_or(Defect::Magic)?;
    let mut fields = Fields(record);
    if fields.take() != *magic {
        return Err(Defect::Magic);
    }
    let (format, crc) = (Format(fields.u32()), fields.u32());
    // A number that is only damaged is no reason to ask for another program. Every format keeps these fields.
    if crc != checksum(record) {
        return Err(Defect::Checksum);
    }
    Ok((format, fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link() -> Link {
        Link { id: 1 << 63, sequence: 7, position: 99, behind: 0xdead_beef }
    }

    fn head() -> Head {
        let mut fingerprints = [Fingerprint::default(); FINGERPRINTS];
        fingerprints[3] =
            Fingerprint { chunk: 16, before: [5; SECTORS], after: [u32::MAX; SECTORS] };
        Head {
            log: [7; 16],
            generation: 1,
            id: 2,
            previous: 3,
            sequence: 4,
            position: 5,
            count: 300,
            table: 6,
            when: -1,
            fingerprints,
        }
    }

    #[test]
    fn records_read_back() {
        let header = Header {
            format: Format(1),
            uuid: [1; 16],
            label: *b"log\0\0\0\0\0\0\0\0\0\0\0\0\0",
            chunks: 16384,
            align: 32,
            fill: 1024,
            number: 3,
            root_uuid: [9; 16],
            root_sectors: 1 << 40,
            start: link(),
            life: Life { made: 4_102_444_800, segments: 1, chunks: 2, merges: 3, merged: 4 },
            root_start: 8192,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(Head::decode(&head().encode()), Ok(head()));
        let commit = Commit { log: [2; 16], generation: 8, position: 9, link: link() };
        assert_eq!(Commit::decode(&commit.encode()), Ok(commit));
        let mark = Mark { last: 2, before: link(), cursor: Link { id: 3, ..link() } };
        assert_eq!(Mark::decode(&mark.encode()), Ok(mark));
        assert_eq!(Head::decode(&commit.encode()), Err(Defect::Magic));
        // The last field of the longest record is inside the sector.
        assert_ne!(head().encode()[88 + FINGERPRINTS * 72 - 1], 0);
    }

    #[test]
    fn fields_stand_where_the_document_says() {
        let bytes = head().encode();
        assert_eq!(&bytes[..8], b"cowflSEG");
        assert_eq!(bytes[8..12], FORMAT.to_le_bytes());
        assert_eq!(bytes[64..72], 5u64.to_le_bytes());
        assert_eq!(bytes[72..76], 300u32.to_le_bytes());
        assert_eq!(bytes[80..88], (-1i64).to_le_bytes());
        assert_eq!(bytes[88 + 3 * 72..][..8], 16u64.to_le_bytes());
    }

    #[test]
    fn sizes_of_segments() {
        assert_eq!((head_chunks(0), segment_chunks(0)), (1, 2));
        assert_eq!((head_chunks(298), head_chunks(299)), (1, 2));
        assert_eq!((head().data(), head().commit()), (7, 307));
        let _ = segment_chunks(u32::MAX);
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut newer = head().encode();
        newer[8] = FORMAT as u8 + 1;
        assert_eq!(Head::decode(&newer), Err(Defect::Checksum));
        let crc = checksum(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Head::decode(&newer), Err(Defect::Newer));
    }

    #[test]
    fn a_log_of_any_format_is_known_by_its_header() {
        for format in [Format(1), Format(2), Format(u32::MAX)] {
            let header = Header { format, uuid: [1; 16], chunks: 9, ..Header::default() };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
            assert_eq!(format.is_newer(), format.0 > FORMAT);
        }
        // What an empty log has every program reads.
        assert!(!Format::default().is_newer());
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in 0..RECORD_BYTES * 8) {
            let mut bytes = head().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Head::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            let _ = (Header::decode(&bytes), Head::decode(&bytes), Commit::decode(&bytes));
            let entries: Vec<_> = Entry::decode_all(&bytes).collect();
            prop_assert_eq!(entries.len(), bytes.len() / ENTRY_BYTES);
            for (entry, bytes) in entries.iter().zip(bytes.chunks_exact(ENTRY_BYTES)) {
                prop_assert_eq!(&entry.encode()[..], bytes);
            }
            let _ = sector_crcs(&bytes);
        }
    }
}
