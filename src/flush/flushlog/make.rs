//! Makes a log, and starts a new generation in one.

use std::path::Path;

use super::FlushLog;
use crate::error::{Error, Result};
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::flushlog::chain::{Chain, ChainEnd, behind_crc};
use crate::pure::flushlog::ownership::Owner;
use crate::pure::flushlog::records::{FORMAT, Format, Header, Life, Link};
use crate::pure::flushlog::ring::{Ring, SMALLEST};
use crate::pure::flushlog::segment_layout;
use crate::pure::units::Bytes;
use crate::sys::disk::Disk;
use crate::sys::{random, time};

/// The options for a new log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// The root that it will belong to.
    pub root: Owner,
    /// Segments begin at a multiple of this many bytes; 0 for none.
    pub erase_block: Bytes,
    /// Merges fill the gaps in erase blocks of this size; 0: they don't.
    pub fill: Bytes,
    /// A label.
    pub label: [u8; 16],
}

impl FlushLog {
    /// Makes an empty log of a partition. What was there is gone.
    pub fn make(path: &Path, options: &LogOptions) -> Result<Self> {
        let mut disk = Disk::open_writable(path)?;
        let chunks = |bytes: Bytes| u32::try_from(bytes.0 / CHUNK_BYTES as u64).unwrap_or(u32::MAX);
        let align = chunks(options.erase_block).max(1);
        let ring = Ring::new(disk.chunks(), align).ok_or_else(|| {
            let least = Bytes((SMALLEST + u64::from(align) + 1) * CHUNK_BYTES as u64);
            Error::new(
                format!("make a flush log of {}", path.display()),
                format!("it has {}, and a log with this erase block takes {least}", disk.size()),
            )
            .advise("Choose a larger partition; 64 MiB suit a router.")
        })?;
        let behind = behind_crc(&mut disk, &ring, 0);
        let (high, low) = (random::random()?.to_le_bytes(), random::random()?.to_le_bytes());
        let mut uuid = [0; 16];
        for (to, from) in uuid.iter_mut().zip(high.into_iter().chain(low)) {
            *to = from;
        }
        // Version 4, variant 1 of RFC 9562.
        for (at, keep, set) in [(6, 0x0f, 0x40), (8, 0x3f, 0x80)] {
            if let Some(byte) = uuid.get_mut(at) {
                *byte = *byte & keep | set;
            }
        }
        let header = Header {
            format: Format::default(),
            uuid,
            label: options.label,
            chunks: disk.chunks(),
            align,
            fill: chunks(options.fill),
            number: 1,
            root_uuid: options.root.uuid,
            root_sectors: options.root.size.0,
            start: Link { id: random::random()?, sequence: 0, position: 0, behind },
            life: Life { made: time::now(), ..Life::default() },
            root_start: options.root.start.0,
        };
        let segments = Vec::new();
        let next = header.start;
        let chain = Chain { header, ring, segments, end: ChainEnd::Clean, next, part: None };
        let mut log = Self { disk, chain, whole: true };
        log.write_header(header)?;
        Ok(log)
    }

    /// Starts a new generation: nothing that is in the log counts from here on. It begins where
    /// the last one ended, so that the ring is worn evenly.
    ///
    /// Call it when everything in the log is durable on root, `merged` chunks of it; or before root
    /// is written to directly, to make sure that nothing in the log is ever applied.
    pub fn reset(&mut self, merged: u64) -> Result<()> {
        let life = self.life();
        let life = Life {
            merges: life.merges.saturating_add(u64::from(merged > 0)),
            merged: life.merged.saturating_add(merged),
            ..life
        };
        self.renew(Header { life, ..self.chain.header })
    }

    /// Notes root's present place and UUID in the header. The segments stay: both headers lead to
    /// the same ones, so a power cut between the two writes changes nothing. Root must not be
    /// smaller than what the segments hold.
    pub fn rebind(&mut self, root: Owner) -> Result<()> {
        let header = self.chain.header;
        let header = Header {
            root_uuid: root.uuid,
            root_sectors: root.size.0,
            root_start: root.start.0,
            number: header.number.saturating_add(1),
            ..header
        };
        self.write_header(header)?;
        self.chain.header = header;
        Ok(())
    }

    /// Raises the format in the header before the first segment of this program's format, so that
    /// an older program leaves the log alone.
    pub(super) fn raise(&mut self) -> Result<()> {
        let header = self.chain.header;
        if FORMAT == Format::default().0 || header.format.0 >= FORMAT {
            return Ok(());
        }
        let number = header.number.saturating_add(1);
        let header = Header { format: Format(FORMAT), number, ..header };
        self.write_header(header)?;
        self.chain.header = header;
        Ok(())
    }

    fn renew(&mut self, header: Header) -> Result<()> {
        if matches!(self.chain.end, ChainEnd::Unreadable { .. }) {
            // Segments that can't be read now must not look younger than the next one if they
            // become readable.
            self.chain.skip_unseen();
        }
        let (ring, next) = (self.chain.ring, self.chain.next);
        let behind = behind_crc(&mut self.disk, &ring, next.position);
        let id = segment_layout::unique(random::random()?, next.sequence);
        let start = Link { id, behind, ..next };
        let number = header.number.saturating_add(1);
        // The log is empty, so any version may use it.
        let header = Header { format: Format::default(), start, number, ..header };
        self.write_header(header)?;
        let (segments, next) = (Vec::new(), header.start);
        self.chain = Chain { header, ring, segments, end: ChainEnd::Clean, next, part: None };
        Ok(())
    }

    /// Writes both copies, one after the other: a power cut leaves one of them intact, the older or
    /// the younger. If one can't be written, the log works with the other.
    fn write_header(&mut self, header: Header) -> Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        for (to, from) in chunk.iter_mut().zip(header.encode()) {
            *to = from;
        }
        let places = [header.chunks.saturating_sub(1), 0];
        let written =
            places.map(|place| self.disk.write_at(place, &chunk).and_then(|()| self.disk.sync()));
        self.whole = written.iter().all(Result::is_ok);
        match written {
            [Err(error), Err(_)] => Err(error),
            _ => Ok(()),
        }
    }
}
