//! Where a snapshot keeps what it holds: drivers/md/dm-snap-persistent.c and dm-snap-transient.c of Linux 6.1.

use nix::errno::Errno;

use super::image::SECTOR;

/// `struct disk_exception`.
pub(super) const EXCEPTION: usize = 16;
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;

/// An exception store, and `struct pstore`.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) persistent: bool,
    /// `PO`: a full one is an overflow, and not the end of the snapshot.
    pub(super) overflow: bool,
    /// Sectors of a chunk, as `dm_exception_store` has them; 0 while it waits for another's store, and in one that was
    /// handed over.
    pub(super) shown: u64,
    /// The same by which it works.
    pub(super) chunk: u64,
    pub(super) valid: bool,
    /// Chunks of a persistent store, sectors of a transient one.
    pub(super) next_free: u64,
    /// Metadata areas before the one in memory.
    pub(super) area_number: u64,
    /// Exceptions in that one.
    pub(super) committed: u64,
    /// That area.
    pub(super) area: Vec<u8>,
}

impl Store {
    /// From the parameters of a table: type and chunk size (dm_exception_store_create, which answers EINVAL to all that it
    /// does not like).
    pub(super) fn new(kind: &str, chunk: &str) -> Result<Self, Errno> {
        let (persistent, overflow) = match kind {
            "P" | "p" => (true, false),
            "PO" | "Po" | "po" => (true, true),
            "N" | "n" => (false, false),
            _ => return Err(Errno::EINVAL),
        };
        let chunk: u64 = chunk.parse().map_err(|_| Errno::EINVAL)?;
        if !chunk.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            persistent,
            overflow,
            shown: chunk,
            chunk,
            valid: true,
            next_free: if persistent { 2 } else { 0 },
            area_number: 0,
            committed: 0,
            area: vec![0; chunk as usize * SECTOR],
        })
    }

    pub(super) fn per_area(&self) -> u64 {
        (self.chunk as usize * SECTOR / EXCEPTION) as u64
    }

    /// Where an area stands (area_location), in sectors.
    pub(super) fn place(&self, area: u64) -> u64 {
        (1 + (self.per_area() + 1) * area) * self.chunk
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let mut header = vec![0; self.chunk as usize * SECTOR];
        let fields = [MAGIC, u32::from(self.valid), VERSION, self.chunk as u32];
        for (slot, field) in header.chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        header
    }

    /// Reads a header (read_header, persistent_read_metadata): whether there is one, and what it says of being valid.
    pub(super) fn read_header(&self, header: &[u8]) -> Result<Option<bool>, Errno> {
        let field =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
        match (field(0), field(8), field(12)) {
            (0, ..) => Ok(None),
            (MAGIC, VERSION, chunk) if u64::from(chunk) == self.chunk => Ok(Some(field(4) != 0)),
            // A chunk size of its own would win over the table's; nobody here has one.
            (MAGIC, ..) => Err(Errno::EINVAL),
            _ => Err(Errno::ENXIO),
        }
    }

    /// The exceptions of an area up to the end mark, or all of them (insert_exceptions).
    pub(super) fn exceptions(area: &[u8]) -> impl Iterator<Item = (u64, u64)> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let all = area.chunks_exact(EXCEPTION);
        all.map(move |entry| (word(&entry[..8]), word(&entry[8..])))
            .take_while(|(_, new)| *new != 0)
    }

    /// One of the area in memory.
    pub(super) fn exception(&self, index: u64) -> (u64, u64) {
        let at = index as usize * EXCEPTION;
        let word =
            |at: usize| u64::from_le_bytes(self.area[at..at + 8].try_into().unwrap_or_default());
        (word(at), word(at + 8))
    }

    pub(super) fn put(&mut self, index: u64, (old, new): (u64, u64)) {
        let at = index as usize * EXCEPTION;
        self.area[at..at + 8].copy_from_slice(&old.to_le_bytes());
        self.area[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
    }

    /// skip_metadata.
    pub(super) fn skip_metadata(&mut self) {
        if self.next_free % (self.per_area() + 1) == 1 {
            self.next_free += 1;
        }
    }

    /// Takes the next place of a store of `size` sectors; `None`: there is none (persistent_ and transient_prepare_exception).
    pub(super) fn prepare(&mut self, size: u64) -> Option<u64> {
        if !self.persistent {
            let new = self.next_free / self.chunk;
            return (size >= self.next_free + self.chunk).then(|| {
                self.next_free += self.chunk;
                new
            });
        }
        if size < (self.next_free + 1) * self.chunk {
            return None;
        }
        let new = self.next_free;
        self.next_free += 1;
        self.skip_metadata();
        Some(new)
    }

    /// Allocated sectors, and those of metadata (persistent_usage, transient_usage).
    pub(super) fn usage(&self) -> (u64, u64) {
        match self.persistent {
            true => (self.next_free * self.shown, (self.area_number + 2) * self.shown),
            false => (self.next_free, 0),
        }
    }

    /// How many exceptions at the end of the table are one run, and the last of them (persistent_prepare_merge).
    pub(super) fn run(&self) -> (u64, (u64, u64)) {
        let last = self.exception(self.committed - 1);
        let mut count = 1;
        while count < self.committed {
            let (old, new) = self.exception(self.committed - 1 - count);
            if old != last.0.wrapping_sub(count) || new != last.1.wrapping_sub(count) {
                break;
            }
            count += 1;
        }
        (count, last)
    }
}
