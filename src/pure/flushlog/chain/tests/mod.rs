//! A log in memory, for the tests of each part.

mod damage;
mod follow;
mod header;
mod last;
mod unreadable;

use std::collections::BTreeMap;

use super::*;
use crate::pure::chunks::{CHUNK_BYTES, Chunks, Unreadable};
use crate::pure::crc::crc32c;
use crate::pure::flushlog::records::{Fingerprint, sector_crcs};
use crate::pure::flushlog::segment_layout;

pub const CHUNKS: u64 = 300;

/// A log in memory.
#[derive(Clone)]
pub struct Card {
    pub bytes: Vec<u8>,
    /// How often it was read.
    pub reads: u64,
    /// Chunks that can't be read, and how many reads of each fail.
    pub faults: BTreeMap<u64, u32>,
    pub header: Header,
    /// The chain as a reader would find it after each flush.
    pub root: BTreeMap<u64, u8>,
}

impl Chunks for Card {
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        self.reads += 1;
        let end = chunk + (into.len() / CHUNK_BYTES) as u64;
        if let Some((_, left)) = self.faults.range_mut(chunk..end).find(|(_, left)| **left > 0) {
            *left -= u32::from(*left < u32::MAX);
            return Err(Unreadable);
        }
        let at = chunk as usize * CHUNK_BYTES;
        into.copy_from_slice(self.bytes.get(at..at + into.len()).ok_or(Unreadable)?);
        Ok(())
    }
}

impl Card {
    pub fn new(align: u32) -> Self {
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

    pub fn put(&mut self, chunk: u64, data: &[u8]) {
        let at = chunk as usize * CHUNK_BYTES;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        // What is written can be read.
        self.faults.remove(&chunk);
    }

    pub fn put_header(&mut self, header: Header) {
        self.header = header;
        self.put(0, &header.encode());
        self.put(CHUNKS - 1, &header.encode());
    }

    pub fn chain(&mut self) -> Chain {
        let header = header(self, CHUNKS).unwrap().header;
        Chain::read(self, header).unwrap()
    }

    /// Appends a segment that gives each of these chunks of root this byte.
    pub fn append(&mut self, chunks: &[u64], byte: u8) -> Head {
        let chain = self.chain();
        let head = self.write(&chain, chunks, byte);
        let behind = behind_crc(self, &chain.ring, chain.ring.aligned(head.commit() + 1));
        let commit = segment_layout::commit(&chain, &head, behind);
        self.put(chain.ring.chunk(head.commit()), &commit.encode());
        self.root.extend(chunks.iter().map(|chunk| (*chunk, byte)));
        head
    }

    /// All but the commit record.
    pub fn write(&mut self, chain: &Chain, chunks: &[u64], byte: u8) -> Head {
        let data = [byte; CHUNK_BYTES];
        let table: Vec<_> =
            chunks.iter().map(|old| Entry { old: *old, crc: crc32c(&data) }).collect();
        let fingerprints = [Fingerprint { chunk: 0, before: [0; 8], after: sector_crcs(&data) }; 4];
        let laid = segment_layout::segment(chain, &table, fingerprints, 5, 0);
        assert!(chain.fits(laid.head.count));
        for (position, piece) in (laid.head.position..).zip(laid.bytes.chunks(CHUNK_BYTES)) {
            self.put(chain.ring.chunk(position), piece);
        }
        for position in laid.head.data()..laid.head.commit() {
            self.put(chain.ring.chunk(position), &data);
        }
        laid.head
    }

    /// One more segment, cut short after `count` chunks. Returns whether it is complete but for its
    /// commit record.
    pub fn tear(&mut self, chunks: &[u64], byte: u8, count: u64) -> bool {
        let (chain, before) = (self.chain(), self.bytes.clone());
        let head = self.write(&chain, chunks, byte);
        for position in (head.position + count).min(head.commit())..head.commit() {
            let at = chain.ring.chunk(position) as usize * CHUNK_BYTES;
            self.bytes[at..at + CHUNK_BYTES].copy_from_slice(&before[at..at + CHUNK_BYTES]);
        }
        head.position + count >= head.commit()
    }

    /// From now on these can't be read.
    pub fn fail(&mut self, chunks: impl IntoIterator<Item = u64>) {
        self.faults = chunks.into_iter().map(|chunk| (chunk, u32::MAX)).collect();
    }

    pub fn merge(&mut self) {
        let chain = self.chain();
        let behind = behind_crc(self, &chain.ring, chain.next.position);
        let start = Link { id: 78 + chain.next.sequence, behind, ..chain.next };
        self.put_header(Header { start, number: self.header.number + 1, ..self.header });
        self.root.clear();
    }

    /// What applying the log would give each chunk of root.
    pub fn applied(&mut self) -> BTreeMap<u64, u8> {
        let mut chain = self.chain();
        let live = chain.verify(self);
        live.iter().map(|live| (live.old, self.bytes[live.place as usize * 4096])).collect()
    }
}

/// A log with three flushes, and the heads of these.
pub fn three() -> (Card, [Head; 3], Ring) {
    let mut card = Card::new(1);
    let heads = [(&[1, 2, 3][..], 10), (&[2, 3, 4], 11), (&[3, 5], 12)];
    let heads = heads.map(|(chunks, byte)| card.append(chunks, byte));
    let ring = card.chain().ring;
    (card, heads, ring)
}
