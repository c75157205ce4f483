//! The flush log's records, byte by byte. docs/formats.md has the tables, and tests/formats.rs
//! compares.
//!
//! Everything is little-endian. Each record is one sector of 512 bytes, so that no power cut
//! leaves half of one, and carries a checksum of itself.

use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::crc::crc32c;
use crate::pure::units::{Bytes, Utc};

/// The format of the segments that this program writes. It reads all formats up to this one, and
/// leaves a newer one alone.
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

/// Why bytes are not a record of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// They begin differently.
    Magic,
    /// They are of a format that this program does not know.
    Newer,
    /// The checksum is wrong.
    Checksum,
}

/// What a record is made of: its bytes, one part after the other.
trait Part: Sized {
    fn put(&self, to: &mut Writer);
    fn take(from: &mut Fields<'_>) -> Self;
}

macro_rules! numbers {
    ($($number:ty),+) => {
        $(impl Part for $number {
            fn put(&self, to: &mut Writer) {
                to.put(&self.to_le_bytes());
            }

            fn take(from: &mut Fields<'_>) -> Self {
                Self::from_le_bytes(from.take())
            }
        })+
    };
}

numbers!(u32, u64, i64);

impl<const N: usize> Part for [u8; N] {
    fn put(&self, to: &mut Writer) {
        to.put(self);
    }

    fn take(from: &mut Fields<'_>) -> Self {
        from.take()
    }
}

macro_rules! rows {
    ($($row:ty),+) => {
        $(impl<const N: usize> Part for [$row; N] {
            fn put(&self, to: &mut Writer) {
                self.iter().for_each(|one| one.put(to));
            }

            fn take(from: &mut Fields<'_>) -> Self {
                std::array::from_fn(|_| Part::take(from))
            }
        })+
    };
}

rows!(u32, Fingerprint);

/// Declares what stands in records, each field once: those behind `in the record` follow one
/// another there.
macro_rules! record {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$outer_about:meta])* pub $outer:ident: $outer_type:ty,)*
            in the record:
            $($(#[$field_about:meta])* pub $field:ident: $type:ty,)+
            $(unused: $unused:literal,)?
        }
    ) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$outer_about])* pub $outer: $outer_type,)*
            $($(#[$field_about])* pub $field: $type,)+
        }

        impl Part for $name {
            fn put(&self, to: &mut Writer) {
                $(self.$field.put(to);)+
                $(to.put(&[0; $unused]);)?
            }

            fn take(from: &mut Fields<'_>) -> Self {
                let read = Self {
                    $($outer: Default::default(),)*
                    $($field: Part::take(from),)+
                };
                $(let _: [u8; $unused] = from.take();)?
                read
            }
        }
    };
}

record! {
    /// The header: what the log is, and where its present generation of segments begins.
    ///
    /// Every format keeps the fields by which a log and its owner are known: UUID, label, chunks,
    /// number, root's UUID, sectors and start. So a program can tell whose log it is even if it
    /// can't read the segments.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Header {
        /// What the log holds.
        pub format: Format,
        in the record:
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
        /// Where root's partition begins, in sectors, if it is on the log's own disk. 0: it is on
        /// another disk, or unknown, as in a log that an older version made, or in an image.
        pub root_start: u64,
    }
}

/// The number of a log's format: no record in the log has a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(pub u32);

/// The format of an empty log, whichever version made it. A merge resets the format to it, so that
/// an older program can use the log afterwards.
impl Default for Format {
    fn default() -> Self {
        Self(1)
    }
}

impl Format {
    /// Whether this program does not know the format.
    pub fn is_newer(self) -> bool {
        self.0 > FORMAT
    }
}

record! {
    /// What a segment is chained to: the generation, or the segment before it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Link {
        in the record:
        /// A random number of the generation or the segment.
        pub id: u64,
        /// The sequence number of the last segment up to here. Larger ones are younger.
        pub sequence: u64,
        /// The position where the next segment begins.
        pub position: u64,
        /// Checksum of the [`BEHIND`] chunks there, as they were before the next segment.
        pub behind: u32,
        unused: 4,
    }
}

record! {
    /// Figures over a log's life, kept in its header.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Life {
        in the record:
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
}

record! {
    /// The head of a segment. Its table follows in the same chunk.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Head {
        in the record:
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
        /// Checksums of the chunks of root that change with each mount.
        pub fingerprints: [Fingerprint; FINGERPRINTS],
    }
}

record! {
    /// Checksums of one chunk of root that changes with each mount, when a segment was written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Fingerprint {
        in the record:
        /// Chunk number on root; [`Fingerprint::NONE`] marks a place that is not used.
        pub chunk: u64,
        /// Checksums of its sectors on the card.
        pub before: [u32; SECTORS],
        /// The same with this segment applied.
        pub after: [u32; SECTORS],
    }
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

record! {
    /// The record behind a segment's data: everything before it is on the card.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Commit {
        in the record:
        /// The log's UUID.
        pub log: Uuid,
        /// The generation's random number.
        pub generation: u64,
        /// Where its segment begins.
        pub position: u64,
        /// What the next segment is chained to.
        pub link: Link,
    }
}

record! {
    /// Where the log ended when root's table of it was made. It is stored in that table, in RAM,
    /// and lives as long.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Mark {
        in the record:
        /// The random number of the last segment.
        pub last: u64,
        /// What the last segment is chained to.
        pub before: Link,
        /// What the segment is chained to that is looked at next, of those before the last.
        pub cursor: Link,
    }
}

record! {
    /// How many boots have begun on the stack while the log ended as it does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BootCount {
        in the record:
        /// The log's UUID.
        pub log: Uuid,
        /// The random number of its last segment, or of the generation.
        pub last: u64,
        /// The number of boots.
        pub count: u32,
    }
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
    /// The figures as a sentence.
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
        sealed(HEADER_MAGIC, self.format, self)
    }

    /// Reads a record, also one of a newer format: a caller that wants more than the log's identity
    /// checks the format first.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        let (format, mut fields) = checked(HEADER_MAGIC, record)?;
        Ok(Self { format, ..Part::take(&mut fields) })
    }
}

impl Head {
    /// The record.
    pub fn encode(&self) -> Record {
        sealed(HEAD_MAGIC, Format(FORMAT), self)
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        known(HEAD_MAGIC, record)
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
        sealed(COMMIT_MAGIC, Format(FORMAT), self)
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        known(COMMIT_MAGIC, record)
    }
}

impl Mark {
    /// The record.
    pub fn encode(&self) -> Record {
        sealed(MARK_MAGIC, Format(FORMAT), self)
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        known(MARK_MAGIC, record)
    }
}

impl BootCount {
    /// The record, of the format that every log has.
    pub fn encode(&self) -> Record {
        sealed(TRIES_MAGIC, Format::default(), self)
    }

    /// Reads a record.
    pub fn decode(record: &[u8]) -> Result<Self, Defect> {
        known(TRIES_MAGIC, record)
    }
}

impl Entry {
    /// The entry's bytes in a table.
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
            Self { old: u64::take(&mut fields), crc: u32::take(&mut fields) }
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

/// The record of a kind: magic, format, checksum, then its fields.
fn sealed(magic: &[u8; 8], format: Format, fields: &impl Part) -> Record {
    let mut writer = Writer { record: [0; RECORD_BYTES], at: 0 };
    writer.put(magic);
    format.0.put(&mut writer);
    0u32.put(&mut writer);
    fields.put(&mut writer);
    let crc = checksum(&writer.record);
    if let Some(slot) = writer.record.get_mut(CRC_AT..BODY_AT) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    writer.record
}

/// Writes one part of a record after the other.
struct Writer {
    record: Record,
    at: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        // All records are shorter than a sector (a test checks the longest).
        if let Some(slot) = self.record.get_mut(self.at..self.at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
        self.at += bytes.len();
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
}

/// Reads a record of a kind, if it is of a format that this program knows.
fn known<T: Part>(magic: &[u8; 8], bytes: &[u8]) -> Result<T, Defect> {
    let (format, mut fields) = checked(magic, bytes)?;
    if format.is_newer() { Err(Defect::Newer) } else { Ok(T::take(&mut fields)) }
}

/// Checks magic and checksum; the fields follow.
fn checked<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<(Format, Fields<'a>), Defect> {
    let record: &Record = bytes.first_chunk().ok_or(Defect::Magic)?;
    let mut fields = Fields(record);
    if fields.take() != *magic {
        return Err(Defect::Magic);
    }
    let (format, crc) = (Format(u32::take(&mut fields)), u32::take(&mut fields));
    // A damaged format number must not look like a newer format. Every format keeps these fields.
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
    fn a_logs_life_is_told_with_all_its_figures() {
        let life = Life { made: 4_102_444_800, segments: 1, chunks: 2, merges: 3, merged: 256 };
        assert_eq!(
            life.sentence(),
            "1 flushes of 8.0 KiB, 3 merges of 1.0 MiB since 2100-01-01 00:00:00 UTC"
        );
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
