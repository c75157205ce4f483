//! Applying a log to root without device-mapper: for a boot with `cowflush=off`, and offline.
//!
//! The order: everything is copied, in the order of root; a FLUSH makes it durable; only then may
//! the caller start a new generation in the log. Cut short at any moment it can be begun again.

use super::Log;
use crate::cow::format::{CHUNK_BYTES, PIECE};
use crate::error::{Error, Exit, Result};
use crate::log::chain::Live;
use crate::log::crc::crc32c;
use crate::log::format::sector_crcs;
use crate::log::witness;
use crate::report::progress::Meter;
use crate::sys::direct::Direct;
use crate::units::Bytes;

impl Log {
    /// Whether root is still what the segments were written for.
    pub fn fits(&self, root: &mut Direct) -> Result<bool> {
        let segments = &self.chain.segments;
        for chunk in witness::watched(segments) {
            if chunk >= root.chunks()
                || !witness::recognised(segments, chunk, &sector_crcs(&root.chunk(chunk)?))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies `live`, what [`Self::verify`] returned, into root and makes it durable.
    pub fn apply(&mut self, live: &[Live], root: &mut Direct, meter: &mut Meter) -> Result<()> {
        meter.begin("merging", Bytes((live.len() * CHUNK_BYTES) as u64));
        let mut rest = live;
        let mut buffer = vec![0; PIECE * CHUNK_BYTES];
        while let Some(first) = rest.first() {
            meter.show(Bytes((rest.len() * CHUNK_BYTES) as u64));
            let row = (first.old..).zip(rest).take(PIECE).take_while(|(at, live)| *at == live.old);
            let (row, next) = rest.split_at(row.count().max(1).min(rest.len()));
            rest = next;
            let bytes = buffer.get_mut(..row.len() * CHUNK_BYTES).unwrap_or_default();
            self.gather(row, bytes)?;
            root.write_at(first.old, bytes)?;
        }
        meter.clear();
        root.sync()
    }

    /// Reads a row of chunks from the log, neighbours in it together.
    fn gather(&mut self, row: &[Live], into: &mut [u8]) -> Result<()> {
        let (mut rest, mut bytes) = (row, into);
        while let Some(first) = rest.first() {
            let near = (first.place..).zip(rest).take_while(|(at, live)| *at == live.place).count();
            let (run, next) = rest.split_at(near.max(1).min(rest.len()));
            let (now, later) = bytes.split_at_mut((run.len() * CHUNK_BYTES).min(bytes.len()));
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
            (rest, bytes) = (next, later);
        }
        Ok(())
    }
}
