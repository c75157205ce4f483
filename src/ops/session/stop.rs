//! Stop: root's writes go straight through to the card. Start: they are deferred again.

use std::time::Instant;

use super::flush::{flush_card, remember, sync_root};
use super::{How, Incomplete, Outcome, Session};
use crate::cow::format::CHUNK_SECTORS;
use crate::cow::pace;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::error::Result;
use crate::ops::{cowfile, seal, settle};
use crate::stack::{Mode, Name, Trouble, Wish};
use crate::sys::cow_threshold;
use crate::units::Bytes;

/// How much a stop accepts to be merged in the COW's own order. More is worth another flush.
const TAIL: Bytes = Bytes(256 << 10);
/// The same with a flush log: a freeze alone changes one chunk, the superblock's. A power cut
/// during that last merge can tear what is in it.
const TAIL_WITH_LOG: Bytes = Bytes(4 << 10);
/// How often a stop flushes to get below [`TAIL`] while writers are at work.
const TAIL_TRIES: u32 = 4;

impl Session<'_> {
    /// A flush on the way down: a log that can't be written is no reason to lose what is in RAM.
    fn last_flush(&mut self) -> Result<Outcome> {
        self.flush(How::default()).or_else(|error| {
            self.pass_by_log(error)?;
            self.flush(How { direct: true, ..How::default() })
        })
    }

    /// Flushes and lets root write straight through to the card.
    pub fn stop(&mut self) -> Result<Outcome> {
        let mut outcome = self.last_flush()?;
        for _ in 0..TAIL_TRIES {
            let stack = self.control.stack()?;
            let overflowed =
                stack.root.is_some_and(|root| root.status() == SnapshotStatus::Overflow);
            let tail = if stack.log.is_some() { TAIL_WITH_LOG } else { TAIL };
            if !overflowed && stack.pending().bytes() <= tail {
                break;
            }
            outcome = outcome.and(self.last_flush()?);
        }
        let merged = self.merge()?;
        if let (Some(merged), Outcome::Flushed { record, .. }) = (merged, &mut outcome) {
            record.merged.0 = record.merged.0.saturating_add(merged.merged.0);
            record.merge_ms = record.merge_ms.saturating_add(merged.merging.as_millis() as u64);
        }
        let stack = self.control.stack()?;
        if stack.mode() == Some(Mode::Deferring) {
            let begin = Instant::now();
            // From here on root is written to directly, past the log.
            settle::retire_log(&stack)?;
            let (sealed, settled) =
                self.seal(&stack, seal::After::WriteThrough, Wish::default())?;
            let record = self.note(begin, sealed.stall, settled);
            let incomplete = (!sealed.frozen).then_some(Incomplete::Unfrozen);
            outcome = outcome.and(Outcome::Flushed { record, incomplete });
            if let Outcome::Flushed { record, .. } = &outcome {
                remember(record);
            }
        }
        flush_card(&self.control.stack()?)?;
        Ok(outcome)
    }

    /// Defers root's writes again. Returns whether there was anything to do.
    pub fn start(&mut self) -> Result<bool> {
        let stack = self.control.stack()?;
        if stack.mode() == Some(Mode::Deferring) {
            return Ok(false);
        }
        // What can't be written out now would not be on the card either.
        sync_root()?;
        let (Some(origin), Some(length)) =
            (stack.seat(), stack.root.and_then(|root| root.length()))
        else {
            return Err(settle::explain(Trouble::Foreign(Name::Root)));
        };
        let cow = cowfile::create(&self.control, self.limit, Bytes(0), self.roof)?;
        let target = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
        // One request suspends root, swaps the table and resumes it: nothing can die between.
        self.control.load(Name::Root, &[Line::whole(length, target)])?;
        drop(cow);
        cow_threshold::set(pace::threshold(self.limit));
        self.control.resume(Name::Root)?;
        Ok(true)
    }

    /// The last resort when the COW fills up and no flush makes room: root's writes go to the card
    /// from now on, past the log. What is in RAM follows.
    pub fn give_up_deferring(&mut self) -> Result<()> {
        // Root reads through what the log holds until that is merged; if it can't be, this is no way out. A log
        // that can't be emptied after that is passed by.
        self.settle(Wish { merge: true, direct: true })?;
        let stack = self.control.stack()?;
        settle::retire_log(&stack)?;
        self.seal(&stack, seal::After::WriteThrough, Wish::default()).map(drop)
    }
}
