//! Applies a log to root without device-mapper: for a boot with `cowflush=off`, and offline.
//!
//! The order: everything is copied, in the order of root and in two parts (see [`parts`]), each of
//! which a FLUSH makes durable; only then may the caller start a new generation in the log. If it
//! is cut short at any moment it can be repeated.

use super::FlushLog;
use crate::error::{Error, Exit, Result};
use crate::flush::parts;
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, PIECE, rows};
use crate::pure::crc::crc32c;
use crate::pure::flushlog::chain::Live;
use crate::pure::flushlog::fingerprint;
use crate::pure::flushlog::ownership::Fit;
use crate::pure::flushlog::records::sector_crcs;
use crate::pure::units::Bytes;
use crate::sys::disk::Disk;

impl FlushLog {
    /// Whether root is still what the segments were written for.
    pub fn fits(&self, root: &mut Disk) -> Result<bool> {
        self.fit(root, false).map(|fit| fit == Fit::Fits)
    }

    /// Whether the log fits root, and if not, why.
    ///
    /// Where root is `torn`, so that no filesystem is recognised, a fingerprinted chunk that the
    /// log holds may have any content: a card that loses its power while it writes that chunk
    /// leaves garbage there. A root that another system mounted would show a filesystem.
    pub fn fit(&self, root: &mut Disk, torn: bool) -> Result<Fit> {
        let segments = &self.chain.segments;
        let last = segments.iter().filter_map(|segment| segment.table.last()).map(|last| last.old);
        if last.max().is_some_and(|last| last >= root.size().0.div_ceil(CHUNK_BYTES as u64)) {
            return Ok(Fit::Changed);
        }
        for chunk in fingerprint::watched(segments) {
            let replaced = torn && self.place_of(chunk).is_some();
            match root.chunk(chunk).map(|now| sector_crcs(&now)) {
                Ok(now) if fingerprint::recognised(segments, chunk, &now) => {}
                _ if replaced => {}
                Ok(_) => return Ok(Fit::Changed),
                Err(error) => return Err(error),
            }
        }
        Ok(Fit::Fits)
    }

    /// Where the youngest data of a chunk of root stand in the log, and their checksum.
    fn place_of(&self, chunk: u64) -> Option<(u64, u32)> {
        self.chain.segments.iter().rev().find_map(|segment| {
            let index = segment.table.binary_search_by_key(&chunk, |entry| entry.old).ok()?;
            let position = segment.head.data().saturating_add(index as u64);
            let entry = segment.table.get(index)?;
            Some((self.chain.ring.chunk(position), entry.crc))
        })
    }

    /// Root's first `bytes` (whole chunks) as it is read through the log. A chunk that can't be
    /// read is zero.
    pub fn head_of(&mut self, root: &mut Disk, bytes: usize) -> Vec<u8> {
        let mut head = vec![0; bytes];
        for (chunk, into) in (0..).zip(head.chunks_exact_mut(CHUNK_BYTES)) {
            let read = match self.place_of(chunk) {
                Some((place, crc)) => self.disk.read_at(place, into).is_ok() && crc32c(into) == crc,
                None => root.read_at(chunk, into).is_ok(),
            };
            if !read {
                into.fill(0);
            }
        }
        head
    }

    /// Copies `live`, what [`Self::verify`] returned, into root and makes it durable.
    pub fn apply(&mut self, live: &[Live], root: &mut Disk, meter: &mut Meter) -> Result<()> {
        let size = |count: usize| Bytes((count * CHUNK_BYTES) as u64);
        meter.begin("merging", size(live.len()));
        let mut left = live.len();
        let mut buffer = vec![0; PIECE * CHUNK_BYTES];
        let free = parts::free(root, &mut live.iter().map(|live| live.old));
        for first in [true, false] {
            let part = live.iter().zip(&free).filter(|(_, free)| **free == first);
            let part: Vec<_> = part.map(|(live, _)| *live).collect();
            for row in rows(&part, |live| live.old) {
                let Some(first) = row.first() else { continue };
                meter.show(size(left));
                left = left.saturating_sub(row.len());
                let bytes = buffer.get_mut(..row.len() * CHUNK_BYTES).unwrap_or_default();
                self.gather(row, bytes)?;
                root.write_at(first.old, bytes)?;
            }
            root.sync()?;
        }
        meter.clear();
        Ok(())
    }

    /// Reads a row of chunks from the log, neighbours in it together.
    fn gather(&mut self, row: &[Live], mut into: &mut [u8]) -> Result<()> {
        for run in rows(row, |live| live.place) {
            let Some(first) = run.first() else { continue };
            let (now, later) = into.split_at_mut((run.len() * CHUNK_BYTES).min(into.len()));
            self.disk.read_at(first.place, now)?;
            for (chunk, live) in now.chunks_exact(CHUNK_BYTES).zip(run) {
                if crc32c(chunk) != live.crc {
                    return Err(Error::new(
                        format!("read chunk {} of {}", live.place, self.path().display()),
                        "its checksum was right before and is wrong now",
                    )
                    .advise("Is the card dying? Nothing was lost yet: try again.")
                    .exit(Exit::Card));
                }
            }
            into = later;
        }
        Ok(())
    }
}
