//! A model of the kernel's block devices, and of the cards below them: what a simulation works on instead of a machine.
//!
//! Device-mapper with `linear`, `snapshot`, `snapshot-merge` and `error`; loop devices over files in RAM; cards with a write
//! cache. Each rule says where in the kernel's sources it stands (Linux 6.1), and the same random requests are put to this
//! and to real kernels and compared ([`compare`]). Nothing here is compiled into the program.
//!
//! What the kernel does by itself and in its own time, a merge, is a step that the owner of the model takes
//! ([`World::merge`]). What waits for a suspended device, for ever as far as a single process can tell, says so
//! ([`Fail::Waits`]).

// A model that is asked for what can't be panics: the test is wrong, or the model is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod card;
#[cfg(feature = "model")]
pub mod compare;
pub mod image;
pub mod mapper;
mod snapshot;
#[cfg(any(test, feature = "model"))]
mod steps;
mod store;

use std::collections::BTreeMap;
use std::rc::Rc;

use nix::errno::Errno;

use self::card::Card;
use self::image::{Image, PER_CHUNK, SECTOR, byte};
use crate::pure::units::DevNo;

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// The kernel refuses it.
    Errno(Errno),
    /// It waits for as long as this device is suspended.
    Waits(DevNo),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// What a request ends with.
pub type Done<T = ()> = Result<T, Fail>;

const EIO: Fail = Fail::Errno(Errno::EIO);

/// A file in RAM, in a tmpfs of its own.
#[derive(Clone, Default)]
pub struct RamFile {
    data: Image,
    /// Bytes, as its end is set.
    size: u64,
    /// Most chunks that the tmpfs has.
    room: u64,
    /// Who has it open.
    open: Handle,
}

/// A loop device (drivers/block/loop.c): autoclear, so it is there while anybody uses it.
#[derive(Clone)]
struct Loop {
    file: u64,
    /// Bytes (`lo_sizelimit`; 0: no limit).
    limit: u64,
    open: Handle,
}

/// Shared by all who have something open.
pub type Handle = Rc<()>;

/// A partition of a card, or all of it.
#[derive(Clone, Copy)]
struct Part {
    card: usize,
    start: u64,
    size: u64,
}

/// The kernel, and what it has below it. A copy is another world that goes on from here.
#[derive(Clone, Default)]
pub struct World {
    /// The cards.
    pub cards: Vec<Card>,
    parts: BTreeMap<DevNo, Part>,
    files: BTreeMap<u64, RamFile>,
    loops: BTreeMap<DevNo, Loop>,
    mapped: BTreeMap<String, mapper::Mapped>,
    tables: BTreeMap<u64, mapper::Table>,
    snapshots: BTreeMap<u64, snapshot::Snapshot>,
    /// The snapshots of each origin (`_origins`), in the order in which they are met.
    registered: Vec<u64>,
    /// How the kernel was told to treat write caches (`queue/write_cache`), where it is not as it would be.
    write_through: Vec<DevNo>,
    /// Bytes that files in RAM may take in all.
    pub memory: Option<u64>,
    made: u64,
}

/// Where a device's content comes from.
enum Below {
    Card(Part),
    File(u64),
    Table(u64),
}

impl World {
    /// A number that was not there before.
    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Adds a card that has no partitions, or one (`start`, `size` in sectors) of a card that is there.
    pub fn add_part(&mut self, number: DevNo, card: usize, start: u64, size: u64) {
        self.parts.insert(number, Part { card, start, size });
    }

    /// A new file in RAM of `size` bytes, in a tmpfs with room for `room` bytes.
    pub fn add_file(&mut self, size: u64, room: u64) -> (u64, Handle) {
        let (number, open) = (self.next(), Handle::default());
        let room = room / (PER_CHUNK * SECTOR as u64);
        self.files.insert(number, RamFile { size, room, open: open.clone(), ..RamFile::default() });
        (number, open)
    }

    /// A new loop device over a file; `limit` in bytes.
    pub fn add_loop(&mut self, number: DevNo, file: u64, limit: u64) -> Handle {
        let open = Handle::default();
        self.loops.insert(number, Loop { file, limit, open: open.clone() });
        open
    }

    /// Lets a loop device have another limit (LOOP_SET_STATUS64).
    pub fn set_limit(&mut self, number: DevNo, limit: u64) -> Done {
        self.loops.get_mut(&number).ok_or(Errno::ENXIO)?.limit = limit;
        Ok(())
    }

    /// What nobody has open any more is gone: loop devices with autoclear, and files without a name (`__lo_release`).
    pub fn release(&mut self) {
        let used: Vec<_> = self.tables.values().flat_map(|table| self.devices(table)).collect();
        self.loops.retain(|number, it| Rc::strong_count(&it.open) > 1 || used.contains(number));
        let loops = &self.loops;
        self.files.retain(|number, file| {
            Rc::strong_count(&file.open) > 1 || loops.values().any(|it| it.file == *number)
        });
    }

    fn below(&self, device: DevNo) -> Done<Below> {
        if let Some(part) = self.parts.get(&device) {
            return Ok(Below::Card(*part));
        }
        if let Some(it) = self.loops.get(&device) {
            return Ok(Below::File(it.file));
        }
        let mapped = self.by_number(device).ok_or(Errno::ENXIO)?;
        if mapped.suspended {
            return Err(Fail::Waits(device));
        }
        Ok(Below::Table(mapped.live.ok_or(Errno::EIO)?))
    }

    /// Sectors of a device; 0 for one without a table, as for one that is not there.
    pub fn size(&self, device: DevNo) -> u64 {
        if let Some(part) = self.parts.get(&device) {
            return part.size;
        }
        if let Some(it) = self.loops.get(&device) {
            // get_size in drivers/block/loop.c
            let file = self.files[&it.file].size;
            let size = if it.limit > 0 { file.min(it.limit) } else { file };
            return size / SECTOR as u64;
        }
        let live = self.by_number(device).and_then(|mapped| mapped.live);
        live.map_or(0, |live| self.tables[&live].size())
    }

    /// A request past the end never reaches a device (bio_check_eod in block/blk-core.c).
    fn inside(&self, device: DevNo, sector: u64, bytes: usize) -> Done {
        let end = sector + (bytes / SECTOR) as u64;
        if end > self.size(device) { Err(EIO) } else { Ok(()) }
    }

    /// Reads whole sectors of a device.
    pub fn read(&mut self, device: DevNo, sector: u64, into: &mut [u8]) -> Done {
        let below = self.below(device)?;
        self.inside(device, sector, into.len())?;
        match below {
            Below::Card(part) => Ok(self.cards[part.card].read(part.start + sector, into)?),
            Below::File(file) => {
                self.files[&file].data.read(byte(sector), into);
                Ok(())
            }
            Below::Table(table) => {
                let mut done = Ok(());
                for (piece, row) in self.tables[&table].pieces(sector, into.len()) {
                    let at = sector + (piece.start / SECTOR) as u64;
                    done = done.and(self.read_row(row, at, &mut into[piece]));
                }
                done
            }
        }
    }

    /// Writes whole sectors of a device; with `fua` they are durable then.
    pub fn write(&mut self, device: DevNo, sector: u64, from: &[u8], fua: bool) -> Done {
        let below = self.below(device)?;
        self.inside(device, sector, from.len())?;
        let fua = fua && self.has_cache(device);
        match below {
            Below::Card(part) => Ok(self.cards[part.card].write(part.start + sector, from, fua)?),
            Below::File(file) => self.write_file(file, byte(sector), from),
            Below::Table(table) => {
                let mut done = Ok(());
                // A part that fails keeps none of the others from being written (dm_split_and_process_bio).
                for (piece, row) in self.tables[&table].pieces(sector, from.len()) {
                    let at = sector + (piece.start / SECTOR) as u64;
                    done = done.and(self.write_row(row, at, &from[piece], fua));
                }
                done
            }
        }
    }

    /// Writes a file in RAM from byte `at` on. A tmpfs gives pages until it is full, and memory until that is; the loop device
    /// makes any error EIO (loop_handle_cmd).
    pub fn write_file(&mut self, file: u64, at: u64, from: &[u8]) -> Done {
        let all = self.taken();
        let it = self.files.get_mut(&file).ok_or(Errno::EBADF)?;
        let more = it.data.fresh(at, from.len());
        let full = self.memory.is_some_and(|most| all + more * PER_CHUNK * SECTOR as u64 > most);
        if more > 0 && (it.data.taken() + more > it.room || full) {
            return Err(EIO);
        }
        it.data.write(at, from);
        Ok(())
    }

    /// Makes durable what was written to a device: fsync of it, or an empty request with PREFLUSH.
    pub fn flush(&mut self, device: DevNo) -> Done {
        // A queue without a write cache ends it at once (submit_bio_noacct in block/blk-core.c).
        if !self.has_cache(device) {
            return Ok(());
        }
        match self.below(device)? {
            Below::Card(part) => Ok(self.cards[part.card].flush()?),
            Below::File(_) => Ok(()),
            Below::Table(table) => {
                let mut done = Ok(());
                for row in 0..self.tables[&table].rows.len() {
                    done = done.and(self.flush_row((table, row)));
                }
                done
            }
        }
    }

    /// Whether the kernel sends FLUSHes to it.
    fn has_cache(&self, device: DevNo) -> bool {
        let absent = self.parts.get(&device).is_some_and(|part| self.cards[part.card].no_cache);
        !absent && !self.write_through.contains(&device)
    }

    /// What `queue/write_cache` says.
    pub fn write_cache(&self, device: DevNo) -> &'static str {
        if self.has_cache(device) { "write back" } else { "write through" }
    }

    /// What it is told.
    pub fn set_write_cache(&mut self, device: DevNo, mode: &str) {
        self.write_through.retain(|other| *other != device);
        if mode == "write through" {
            self.write_through.push(device);
        }
    }

    /// The card that a device is, or is a part of.
    pub fn card(&mut self, device: DevNo) -> Option<&mut Card> {
        self.parts.get(&device).and_then(|part| self.cards.get_mut(part.card))
    }

    /// Which card a partition is on, and its first sector.
    pub fn place(&self, device: DevNo) -> Option<(usize, u64)> {
        self.parts.get(&device).map(|part| (part.card, part.start))
    }

    /// The disk that a partition is on: that of the lowest number on the same card.
    pub fn disk_of(&self, device: DevNo) -> Option<DevNo> {
        let card = self.parts.get(&device)?.card;
        self.parts.iter().find(|(_, part)| part.card == card).map(|(number, _)| *number)
    }

    /// The end of a file in RAM.
    pub fn file_size(&self, file: u64) -> u64 {
        self.files.get(&file).map_or(0, |file| file.size)
    }

    /// Reads a file in RAM from byte `at` on.
    pub fn read_file(&self, file: u64, at: u64, into: &mut [u8]) -> Done {
        self.files.get(&file).ok_or(Errno::EBADF)?.data.read(at, into);
        Ok(())
    }

    /// Bytes that files in RAM take.
    pub fn taken(&self) -> u64 {
        self.files.values().map(|file| file.data.taken()).sum::<u64>() * PER_CHUNK * SECTOR as u64
    }

    /// The cards, as they are when the power has gone and come back; nothing else is left. The same seed, the same cut.
    pub fn after_a_cut(&self, cut: card::Cut, seed: u64) -> World {
        let mut after =
            World { parts: self.parts.clone(), cards: self.cards.clone(), ..World::default() };
        let mut chances = Chances::new(seed);
        for card in &mut after.cards {
            card.cut(cut, &mut |most| chances.below(most));
        }
        after
    }
}

/// Chances from a seed (xorshift64*).
#[derive(Default)]
pub struct Chances(u64);

impl Chances {
    /// The same seed, the same chances.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `most`, which is not 0.
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % most
    }

    /// One of these, of which there is one.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    /// Whether something of so many percent comes to pass.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
