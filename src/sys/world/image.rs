//! What a medium holds, by chunks. A copy costs nothing until one of the two is written to, so that a history can fork.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::pure::chunks::{CHUNK_BYTES, Chunk};

/// Bytes in a sector.
pub const SECTOR: usize = 512;
/// Where a sector begins.
pub const fn byte(sector: u64) -> u64 {
    sector * SECTOR as u64
}
/// Sectors in a chunk.
pub const PER_CHUNK: u64 = (CHUNK_BYTES / SECTOR) as u64;

/// The content; what was never written is zero.
#[derive(Clone, Default)]
pub struct Image(Rc<BTreeMap<u64, Rc<Chunk>>>);

impl Image {
    /// Reads from byte `at` on.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        for (number, place, piece) in pieces(at, into.len()) {
            let into = &mut into[piece.clone()];
            match self.0.get(&number) {
                Some(chunk) => into.copy_from_slice(&chunk[place..place + piece.len()]),
                None => into.fill(0),
            }
        }
    }

    /// Writes from byte `at` on.
    pub fn write(&mut self, at: u64, from: &[u8]) {
        let chunks = Rc::make_mut(&mut self.0);
        for (number, place, piece) in pieces(at, from.len()) {
            let chunk = chunks.entry(number).or_insert_with(|| Rc::new([0; CHUNK_BYTES]));
            Rc::make_mut(chunk)[place..place + piece.len()].copy_from_slice(&from[piece]);
        }
    }

    /// How many chunks were ever written: what a file in RAM takes.
    pub fn taken(&self) -> u64 {
        self.0.len() as u64
    }

    /// Of these bytes, the chunks that were never written.
    pub fn fresh(&self, at: u64, bytes: usize) -> u64 {
        pieces(at, bytes).filter(|(number, ..)| !self.0.contains_key(number)).count() as u64
    }
}

/// A range by chunks: the chunk's number, where in it, and which of the bytes.
fn pieces(at: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (at, size) = (at + done as u64, CHUNK_BYTES as u64);
        let place = (at % size) as usize;
        let length = (CHUNK_BYTES - place).min(bytes - done);
        let piece = (at / size, place, done..done + length);
        done += length;
        (length > 0).then_some(piece)
    })
}
