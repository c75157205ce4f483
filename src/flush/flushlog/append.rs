//! Appends a sealed COW to the log as one segment.
//!
//! The order makes it safe against a power cut: head, table and data are written first; a FLUSH
//! makes them durable; only then is the commit record written, and made durable by a second FLUSH.
//! A reader that finds the commit record may rely on what stands before it.

use super::FlushLog;
use crate::error::{Exit, Result};
use crate::pure::chunks::{CHUNK_BYTES, PIECE};
use crate::pure::cow::exception_store::Exception;
use crate::pure::cow::merge_order;
use crate::pure::crc::crc32c;
use crate::pure::disk::filesystem;
use crate::pure::flushlog::chain::behind_crc;
use crate::pure::flushlog::records::{Commit, Entry, FINGERPRINTS, Fingerprint, Head, sector_crcs};
use crate::pure::flushlog::{fingerprint, segment_layout};
use crate::pure::units::Bytes;
use crate::sys::disk::Disk;
use crate::sys::{random, time};

/// A callback that gets how much is left to be written; its error ends the append.
pub type Watch<'a> = dyn FnMut(Bytes) -> Result<()> + 'a;

/// What to do when the log can't be written to.
pub const APPEND_AGAIN: &str = "Nothing is lost: all data stay in RAM and can be read, and what \
    was flushed before is still there. Look for the card's errors in the kernel log (dmesg), then \
    run `cowflush flush` to try again, or `cowflush flush --direct` to merge into the card without \
    the log.";

impl FlushLog {
    /// Appends what `table` says stands on `cow`; `card` is what it is sealed over. It must fit.
    ///
    /// On success the segment is durable. On an error nothing is lost: the data are in RAM, and
    /// what was in the log before is still there.
    pub fn append(
        &mut self,
        table: &[Exception],
        cow: &mut Disk,
        card: &mut Disk,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        self.try_append(table, cow, card, watch).map_err(|error| {
            if error.exit_code() == Exit::Interrupted {
                return error;
            }
            // A direct write that fails halfway may leave data in the page cache. The sync writes
            // or drops them now; otherwise they would count as dirty for half a minute and make
            // writers wait.
            let _ = self.disk.sync();
            error.advise(APPEND_AGAIN).exit(Exit::Card)
        })
    }

    fn try_append(
        &mut self,
        table: &[Exception],
        cow: &mut Disk,
        card: &mut Disk,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut fingerprints = self.fingerprints(card)?;
        let mut entries = Vec::with_capacity(table.len());
        each_run(table, cow, |run, data| {
            for (exception, chunk) in run.iter().zip(data.chunks_exact(CHUNK_BYTES)) {
                entries.push(Entry { old: exception.old, crc: crc32c(chunk) });
                for fingerprint in fingerprints.iter_mut().filter(|w| w.chunk == exception.old) {
                    fingerprint.after = sector_crcs(chunk);
                }
            }
            Ok(())
        })?;
        self.raise()?;
        let laid = segment_layout::segment(
            &self.chain,
            &entries,
            fingerprints,
            random::random()?,
            time::now(),
        );

        let mut out = Stream::new(self, laid.head.position);
        out.put(&laid.bytes)?;
        let mut left = table.len();
        each_run(table, cow, |run, data| {
            watch(Bytes((left * CHUNK_BYTES) as u64))?;
            left = left.saturating_sub(run.len());
            out.put(data)
        })?;
        out.end()?;
        self.disk.sync()?;

        let commit = self.commit(&laid.head)?;
        self.chain.push(laid.head, entries, &commit);
        Ok(())
    }

    /// Writes the commit record of the last segment again, and makes it durable. All the rest of
    /// the segment is there.
    pub fn commit_again(&mut self) -> Result<()> {
        let Some(mut last) = self.chain.segments.pop() else { return Ok(()) };
        let commit = self.disk.sync().and_then(|()| self.commit(&last.head));
        last.committed |= commit.is_ok();
        self.chain.segments.push(last);
        self.chain.next = commit?.link;
        Ok(())
    }

    /// Writes the commit record of a segment that is durable.
    fn commit(&mut self, head: &Head) -> Result<Commit> {
        let behind = segment_layout::commit(&self.chain, head, 0).link.position;
        let behind = behind_crc(&mut self.disk, &self.chain.ring, behind);
        let commit = segment_layout::commit(&self.chain, head, behind);
        let mut record = [0; CHUNK_BYTES];
        for (to, from) in record.iter_mut().zip(commit.encode()) {
            *to = from;
        }
        self.disk.write_at(self.chain.ring.chunk(head.commit()), &record)?;
        self.disk.sync()?;
        Ok(commit)
    }

    /// The fingerprints of root, on the card and with the log applied.
    fn fingerprints(&self, card: &mut Disk) -> Result<[Fingerprint; FINGERPRINTS]> {
        let head = card.chunk(0)?;
        let kind = filesystem::identify(&head).map(|found| found.kind);
        let mut fingerprints = [Fingerprint::default(); FINGERPRINTS];
        for (slot, place) in fingerprints.iter_mut().zip(fingerprint::places(kind, &head)) {
            let Some(chunk) = place.filter(|chunk| *chunk < card.chunks()) else { continue };
            let before = sector_crcs(&card.chunk(chunk)?);
            let after = fingerprint::inherited(&self.chain.segments, chunk, before);
            *slot = Fingerprint { chunk, before, after };
        }
        Ok(fingerprints)
    }
}

/// The table that a segment of these data would have.
pub fn entries(table: &[Exception], cow: &mut Disk) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(table.len());
    each_run(table, cow, |run, data| {
        let of = run.iter().zip(data.chunks_exact(CHUNK_BYTES));
        entries
            .extend(of.map(|(exception, chunk)| Entry { old: exception.old, crc: crc32c(chunk) }));
        Ok(())
    })?;
    Ok(entries)
}

/// Reads a COW's chunks in the order of `table`, neighbours together.
fn each_run(
    table: &[Exception],
    cow: &mut Disk,
    mut each: impl FnMut(&[Exception], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; PIECE * CHUNK_BYTES];
    let mut rest = table;
    while let Some(first) = rest.first() {
        let (run, next) =
            rest.split_at(merge_order::run_length(rest).clamp(1, PIECE).min(rest.len()));
        rest = next;
        let data = buffer.get_mut(..run.len() * CHUNK_BYTES).unwrap_or_default();
        cow.read_at(first.new, data)?;
        each(run, data)?;
    }
    Ok(())
}

/// Collects consecutive writes into large requests, across the ring's end.
struct Stream<'a> {
    log: &'a mut FlushLog,
    position: u64,
    buffer: Vec<u8>,
}

impl<'a> Stream<'a> {
    fn new(log: &'a mut FlushLog, position: u64) -> Self {
        Self { log, position, buffer: Vec::with_capacity(PIECE * CHUNK_BYTES) }
    }

    /// Adds whole chunks.
    fn put(&mut self, chunks: &[u8]) -> Result<()> {
        for chunk in chunks.chunks_exact(CHUNK_BYTES) {
            self.buffer.extend_from_slice(chunk);
            if self.buffer.len() >= PIECE * CHUNK_BYTES {
                self.end()?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    fn end(&mut self) -> Result<()> {
        let ring = self.log.chain.ring;
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let here = usize::try_from(ring.contiguous(self.position)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(here.saturating_mul(CHUNK_BYTES)));
            self.log.disk.write_at(ring.chunk(self.position), now)?;
            self.position = self.position.saturating_add((now.len() / CHUNK_BYTES) as u64);
            rest = later;
        }
        self.buffer.clear();
        Ok(())
    }
}
