//! Stop makes root's writes go straight through to the card; start defers them again.

use std::time::Duration;

use super::flush::{flush_card, remember, sync_root};
use super::outcome::Seen;
use super::{FlushOptions, Outcome, Session};
use crate::error::{Exit, Result};
use crate::flush::context::Context;
use crate::flush::errors::explain;
use crate::flush::figures::Settled;
use crate::flush::prune::Pruned;
use crate::flush::{cow_device, last_step, merge, seal};
use crate::notes::run_dir;
use crate::pure::chunks::CHUNK_SECTORS;
use crate::pure::cow::threshold;
use crate::pure::dm::{Line, SnapshotStatus, Target};
use crate::pure::stack::{Goal, Live, Mode, Name, PlanError, Stack};
use crate::pure::units::Bytes;
use crate::sys::dm::Control;
use crate::sys::syncing::Synced;
use crate::sys::{cow_threshold, signals};

/// How much a stop accepts for its last step. For more it flushes again: all programs wait during
/// that step. Without a log the kernel merges in the COW's own order, and a power cut meanwhile can
/// tear root.
const TAIL: Bytes = Bytes(256 << 10);
/// How often a stop flushes to get below [`TAIL`] while writers are at work.
const TAIL_TRIES: u32 = 4;

/// A last step that was done.
struct Last {
    stall: Duration,
    /// Set if it went past the log: whether what was sealed was frozen.
    past_log: Option<bool>,
}

impl Session<'_> {
    /// A flush for a stop. If the log can't be written, it goes past the log, so that what is in
    /// RAM is not lost.
    fn last_flush(&mut self) -> Result<Outcome> {
        self.flush(FlushOptions::default()).or_else(|error| {
            self.pass_by_log(error)?;
            self.flush(FlushOptions { direct: true, ..FlushOptions::default() })
        })
    }

    /// Merges the log, and counts that as part of the flush before it.
    fn merge_after(&mut self, flushed: &mut Outcome) -> Result<()> {
        self.merge()?;
        if let Some(record) = flushed.record_mut() {
            let done = std::mem::take(&mut self.done);
            record.merged.0 = record.merged.0.saturating_add(done.merged.0);
            record.merge_ms = record.merge_ms.saturating_add(done.merging.as_millis() as u64);
        }
        Ok(())
    }

    /// Flushes and lets root write straight through to the card.
    pub fn stop(&mut self) -> Result<Outcome> {
        let mut outcome = self.last_flush()?;
        self.merge_after(&mut outcome)?;
        for _ in 0..TAIL_TRIES {
            let stack = self.context.observe()?;
            let overflowed =
                stack.root.is_some_and(|root| root.status() == SnapshotStatus::Overflow);
            if !overflowed && stack.pending().is_some_and(|pending| pending.bytes() <= TAIL) {
                break;
            }
            outcome = outcome.and(self.last_flush()?);
            self.merge_after(&mut outcome)?;
        }
        let stack = self.context.observe()?;
        if stack.mode() == Some(Mode::Deferring) {
            let Last { stall, past_log } = self.last_step()?;
            let record = self.note(stall);
            let last = match past_log {
                Some(frozen) => Outcome::flushed(
                    record,
                    Seen { overflowed: run_dir::has_overflowed(), synced: Synced::Unknown, frozen },
                ),
                None => Outcome::remainder(Some(record)),
            };
            outcome = outcome.and(last.after(self.refused.take()));
            if let Some(record) = outcome.record() {
                remember(record);
            }
        }
        let stack = self.context.observe()?;
        renew_limits(&self.context.control, &stack);
        flush_card(&stack)?;
        Ok(outcome)
    }

    /// Writes what is left in RAM to the card, and lets root write through from then on. It goes by
    /// way of the log if there is one that can be written, so that a power cut does no harm.
    fn last_step(&mut self) -> Result<Last> {
        let not_emptied = match self.last_step_by_log() {
            Ok(Some(last)) => return Ok(last),
            Ok(None) => false,
            Err(error) => self.pass_by_log(error)?.0.not_emptied,
        };
        self.last_step_past_log(not_emptied)
    }

    /// The last step by way of the log, with root suspended. `None`: there is no log, or root's COW
    /// overflowed, and may be large.
    fn last_step_by_log(&mut self) -> Result<Option<Last>> {
        let stack = self.context.observe()?;
        let sound = matches!(stack.root.map(|root| root.status()), Some(SnapshotStatus::Used(_)));
        if stack.log.is_none() || stack.logged.is_some() || !sound {
            return Ok(None);
        }
        let context = &mut self.context;
        // A terminal's Ctrl-Z must not stop this process now.
        let done: Result<_> = signals::undisturbed(|| {
            let held = seal::hold(context, &stack)?;
            let Some(settled) = last_step::into_card(context)? else { return Ok(None) };
            Ok(Some((held.write_through()?, settled)))
        });
        let Some((stall, settled)) = done.or_else(|error| {
            // Root goes on over what is sealed, as after any seal; if it did not wake up, the plan
            // wakes it. An error of the card is left to the caller, and a signal means that the
            // user does not want to wait.
            match error.exit_code() {
                Exit::Card | Exit::Interrupted => Err(error),
                _ => self.settle(Goal::default()).and(Err(error)),
            }
        })?
        else {
            self.settle(Goal { direct: true, ..Goal::default() })?;
            return Ok(None);
        };
        cow_threshold::set(threshold::FREE);
        self.settle(Goal::default())?;
        // The last step never prunes, so it has no reason to report.
        self.done.add(&Settled { pruned: Pruned::default(), ..settled });
        Ok(Some(Last { stall, past_log: None }))
    }

    /// The last step without the log: the kernel merges in the COW's own order, and a power cut
    /// meanwhile can tear root. `not_emptied`: root has all that the log holds, and the log could
    /// not be emptied.
    fn last_step_past_log(&mut self, not_emptied: bool) -> Result<Last> {
        // From here on root is written to directly, past the log.
        merge::retire_log(&self.context.observe()?, not_emptied)?;
        let stack = self.context.observe()?;
        let (sealed, _) = self.seal(&stack, seal::After::WriteThrough, Goal::default())?;
        Ok(Last { stall: sealed.stall, past_log: Some(sealed.frozen) })
    }

    /// Defers root's writes again. Returns whether there was anything to do.
    pub fn start(&mut self) -> Result<bool> {
        let stack = self.context.observe()?;
        if stack.mode() == Some(Mode::Deferring) {
            return Ok(false);
        }
        // What can't be written out now would not be on the card afterwards either.
        sync_root()?;
        let (Some(origin), Some(length)) =
            (stack.roots_origin(), stack.root.and_then(|root| root.length()))
        else {
            return Err(explain(PlanError::Foreign(Name::Root)));
        };
        let Context { control, limit, log_capacity, .. } = &self.context;
        let cow = cow_device::create(control, *limit, Bytes(0), *log_capacity)?;
        let target = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
        // One request suspends root, swaps the table and resumes it, so the process can't die in
        // between.
        control.load(Name::Root, &[Line::whole(length, target)])?;
        cow_threshold::set(threshold::of(*limit));
        control.swap(Name::Root)?;
        // Not earlier: the kernel drops a table that it can't swap in.
        drop(cow);
        Ok(true)
    }

    /// The last resort when the COW fills up and no flush makes room: root's writes go to the card
    /// from now on. What is in RAM goes first, by way of the log if that can be written by now,
    /// else past it.
    pub fn give_up_deferring(&mut self) -> Result<()> {
        // Root reads through what the log holds until that is merged; if that fails, this is no way
        // out. A log that can't be emptied afterwards is ignored.
        let settled = self.settle(Goal { merge: true, direct: true })?;
        let last = match self.context.observe()?.log.map(|_| self.flush_in_a_hurry()) {
            Some(Ok(())) => self.last_step(),
            Some(Err(error)) if error.exit_code() == Exit::Interrupted => return Err(error),
            Some(Err(_)) => {
                let again = self.settle(Goal { merge: true, direct: true })?;
                self.last_step_past_log(settled.not_emptied || again.not_emptied)
            }
            None => self.last_step_past_log(false),
        };
        let stall = last?.stall;
        let stack = self.context.observe()?;
        renew_limits(&self.context.control, &stack);
        self.note(stall);
        Ok(())
    }

    fn flush_in_a_hurry(&mut self) -> Result<()> {
        self.flush(FlushOptions { hurry: true, ..FlushOptions::default() })?;
        self.merge().map(drop)
    }
}

/// Makes the kernel compute root's limits again from the card, such as whether root can discard
/// free blocks.
///
/// The kernel computes the limits of a mapped device when a table is swapped in
/// (`dm_calculate_queue_limits` in drivers/md/dm-table.c), and never again. Past the log root gets
/// its table while the sealed device below it still merges, and so can't discard; and the limits
/// stay when the card takes that device's place. So root gets the same table once more. If that
/// fails the stop does not: root goes on with the table that it has.
fn renew_limits(control: &Control, stack: &Stack) {
    let root = stack.root.filter(|root| stack.sealed.is_none() && !root.inactive);
    if let Some(Live::Single { length, target: target @ Target::Linear { .. }, .. }) =
        root.and_then(|root| root.live)
        && control.load(Name::Root, &[Line::whole(length, target)]).is_ok()
    {
        // A swap that fails leaves root suspended; the second request wakes it up.
        let _ = control.swap_root().or_else(|_| control.swap_root());
    }
}
