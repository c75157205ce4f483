//! Chunks of a block device or an image file, read and written past the page cache: it may hold
//! what a prober (udev) read before the device's content changed under it, and a write through it
//! would take memory.

use std::path::{Path, PathBuf};

use super::node::Node;
use super::{block, watchdog};
use crate::error::{Doing, Result};
use crate::pure::chunks::{CHUNK_BYTES, Chunk, Chunks, Unreadable};
use crate::pure::units::{Bytes, SECTOR_BYTES};

/// Most chunks in one request: 256 KiB, more than usual disk drivers take at once.
const MOST: usize = 64;

/// A chunk that direct I/O can use.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Aligned(Chunk);

/// An open device or image file.
pub struct Disk {
    node: Node,
    path: PathBuf,
    size: Bytes,
    buffer: Vec<Aligned>,
    /// Keeps others away.
    _claim: Option<Node>,
}

impl Disk {
    /// Opens for reading.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, false)
    }

    /// Opens for reading and writing.
    pub fn open_writable(path: &Path) -> Result<Self> {
        Self::open_as(path, true)
    }

    /// Opens a device for a caller that alone may use it: see [`block::claim`].
    pub fn open_exclusive(path: &Path) -> Result<Self> {
        let claim = block::claim(path)?;
        Ok(Self { _claim: Some(claim), ..Self::open_writable(path)? })
    }

    fn open_as(path: &Path, writable: bool) -> Result<Self> {
        let direct = Node::open(path, writable, libc::O_DIRECT);
        // A file on a tmpfs has no direct I/O, and no cache that could lie.
        let node = match direct {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Node::open(path, writable, 0)
            }
            other => other,
        };
        let node = node.doing(|| format!("open {}", path.display()))?;
        let size = node.size().doing(|| format!("measure {}", path.display()))?;
        Ok(Self { node, path: path.to_owned(), size, buffer: Vec::new(), _claim: None })
    }

    /// Its size.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Whole chunks in it.
    pub fn chunks(&self) -> u64 {
        self.size.0 / CHUNK_BYTES as u64
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Room for `bytes` of whole chunks, as bytes.
    fn room(buffer: &mut Vec<Aligned>, bytes: usize) -> &mut [u8] {
        let chunks = bytes.div_ceil(CHUNK_BYTES);
        if buffer.len() < chunks {
            buffer.resize(chunks, Aligned([0; CHUNK_BYTES]));
        }
        let first = buffer.as_mut_ptr().cast::<u8>();
        // SAFETY: `Aligned` is CHUNK_BYTES initialised bytes without padding (its size is its
        // alignment), the vector has `chunks` of them at least, and the borrow is kept.
        let all = unsafe { std::slice::from_raw_parts_mut(first, chunks * CHUNK_BYTES) };
        all.get_mut(..bytes).unwrap_or_default()
    }

    /// Reads chunk number `chunk` of 4096 bytes. What lies behind the end is zero.
    pub fn chunk(&mut self, chunk: u64) -> Result<Chunk> {
        let mut bytes = [0; CHUNK_BYTES];
        self.read_at(chunk, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads whole chunks from number `chunk` on. What lies behind the end is zero.
    pub fn read_at(&mut self, chunk: u64, into: &mut [u8]) -> Result<()> {
        let starts = (chunk..).step_by(MOST);
        for (start, piece) in starts.zip(into.chunks_mut(MOST * CHUNK_BYTES)) {
            let at = start.saturating_mul(CHUNK_BYTES as u64);
            let inside = self.inside(at, piece.len());
            let room = Self::room(&mut self.buffer, inside);
            self.node
                .read_exact_at(room, at)
                .doing(|| format!("read {} of {}", sectors(at, inside), self.path.display()))?;
            watchdog::progress();
            let (data, behind) = piece.split_at_mut(inside);
            data.copy_from_slice(room);
            behind.fill(0);
        }
        Ok(())
    }

    /// Writes whole chunks from number `chunk` on, each piece of 256 KiB in one request. What lies
    /// behind the end is left out.
    pub fn write_at(&mut self, chunk: u64, from: &[u8]) -> Result<()> {
        let starts = (chunk..).step_by(MOST);
        for (start, piece) in starts.zip(from.chunks(MOST * CHUNK_BYTES)) {
            let at = start.saturating_mul(CHUNK_BYTES as u64);
            let inside = self.inside(at, piece.len());
            let room = Self::room(&mut self.buffer, inside);
            room.copy_from_slice(piece.get(..inside).unwrap_or_default());
            self.node
                .write_all_at(room, at)
                .doing(|| format!("write {} of {}", sectors(at, inside), self.path.display()))?;
            watchdog::progress();
        }
        Ok(())
    }

    /// Writes one sector, `at` bytes into a chunk. Where the device's own sectors are larger, the
    /// whole chunk.
    pub fn write_sector(&mut self, chunk: u64, at: usize, sector: &[u8; 512]) -> Result<()> {
        let place = chunk.saturating_mul(CHUNK_BYTES as u64).saturating_add(at as u64);
        let room = Self::room(&mut self.buffer, sector.len());
        room.copy_from_slice(sector);
        match self.node.write_all_at(room, place) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let mut whole = self.chunk(chunk)?;
                let room = whole.get_mut(at..).unwrap_or_default();
                room.iter_mut().zip(sector).for_each(|(to, from)| *to = *from);
                self.write_at(chunk, &whole)
            }
            done => {
                done.doing(|| format!("write {} of {}", sectors(place, 512), self.path.display()))
            }
        }
    }

    /// How many of `length` bytes from `at` on are inside.
    fn inside(&self, at: u64, length: usize) -> usize {
        let left = self.size.0.saturating_sub(at);
        usize::try_from(left).map_or(length, |left| left.min(length))
    }

    /// Makes everything that was written durable: on a block device this ends with a FLUSH.
    pub fn sync(&self) -> Result<()> {
        self.node.sync_all().doing(|| format!("flush the write cache of {}", self.path.display()))
    }
}

impl Chunks for Disk {
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> core::result::Result<(), Unreadable> {
        let end = chunk.saturating_add((into.len() / CHUNK_BYTES) as u64);
        if end > self.chunks() {
            return Err(Unreadable);
        }
        self.read_at(chunk, into).map_err(|_| Unreadable)
    }
}

/// `sectors 8 to 15`.
fn sectors(at: u64, length: usize) -> String {
    let first = at / SECTOR_BYTES;
    let count = (length as u64).div_ceil(SECTOR_BYTES).max(1);
    format!("sectors {first} to {}", first.saturating_add(count - 1))
}
