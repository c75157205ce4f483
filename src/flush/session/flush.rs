//! Flush: everything that was written until now becomes durable.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::outcome::Seen;
use super::{FlushOptions, Outcome, Session};
use crate::error::{Doing, Exit, Result};
use crate::flush::context::Context;
use crate::flush::figures::Settled;
use crate::flush::handover::{Freeze, Sealed};
use crate::flush::seal;
use crate::notes::run_dir;
use crate::pure::dm::SnapshotStatus;
use crate::pure::policy::cow_memory;
use crate::pure::policy::throttle::SLOW;
use crate::pure::report::record::Record;
use crate::pure::stack::{Goal, Mode, Name, Stack};
use crate::pure::units::{Bytes, Sectors};
use crate::sys::dm::Message;
use crate::sys::node::Node;
use crate::sys::syncing::{Synced, Syncing, write_out};
use crate::sys::time::Instant;
use crate::sys::{block, memory, time};
use crate::throttle;

/// How long root's new tables take to load at worst, while memory is short. Nothing holds writers
/// back meanwhile unless their filesystem is frozen. A COW with room for less is sealed with a
/// longer handover.
const PREPARING: Duration = Duration::from_millis(100);

impl Session<'_> {
    /// Makes everything that was written until now durable: in the flush log if there is one, else
    /// in root itself.
    pub fn flush(&mut self, options: FlushOptions) -> Result<Outcome> {
        let mut stack = self.context.observe()?;
        // A filesystem with errors can't write everything out; what it could write is still
        // flushed.
        let mut synced = Synced::Unknown;
        if !options.hurry {
            synced = remembered(self.sync(&stack)?);
            stack = self.context.observe()?;
        }
        let status = stack.root.map_or(SnapshotStatus::Unknown, |root| root.status());
        let overflowed = status == SnapshotStatus::Overflow || run_dir::has_overflowed();
        let mut seen = Seen { overflowed, synced, frozen: false };
        match (stack.mode(), status) {
            (Some(Mode::WriteThrough), _) => {
                flush_card(&stack)?;
                if synced == Synced::Unknown {
                    seen.synced = Synced::Failed(Errno::EINTR);
                }
                return Ok(self.nothing(seen));
            }
            // If it is unknown what is in the page cache, a freeze writes it out.
            (_, SnapshotStatus::Used(usage))
                if usage.data().0 == 0 && synced != Synced::Unknown =>
            {
                return Ok(self.nothing(seen));
            }
            _ => {}
        }
        let goal = Goal { direct: options.direct, ..Goal::default() };
        let Context { limit, log_capacity, .. } = self.context;
        let (sealed, settled) =
            self.seal(&stack, seal::After::Defer { limit, log_capacity }, goal)?;
        if settled.appended && options.merges(settled.log_used, self.context.config.merge) {
            self.merge()?;
        }
        let record = self.note(sealed.stall);
        seen.frozen = sealed.frozen;
        Ok(Outcome::flushed(record, seen).after(self.refused.take()))
    }

    /// The outcome of a flush that found nothing to make durable.
    fn nothing(&mut self, seen: Seen) -> Outcome {
        let found = (self.done.durable > Bytes(0)).then(|| self.note(Duration::ZERO));
        Outcome::remainder(found).and(Outcome::nothing(seen)).after(self.refused.take())
    }

    /// Merges what is in the flush log into the card. Returns what was merged and how long that
    /// took, `None` when the log is empty or there is none.
    pub fn merge(&mut self) -> Result<Option<Settled>> {
        let settled = self.settle(Goal { merge: true, ..Goal::default() })?;
        Ok(settled.of_log())
    }

    /// Seals `stack`, which was observed just now, and settles it, also when the seal failed
    /// halfway.
    pub(super) fn seal(
        &mut self,
        stack: &Stack,
        after: seal::After,
        goal: Goal,
    ) -> Result<(Sealed, Settled)> {
        // Before the seal, which takes away what shows it: a flush that fails or is killed after it
        // is followed by one that finds a fresh COW.
        if stack.root.is_some_and(|root| root.status() == SnapshotStatus::Overflow) {
            run_dir::note_overflow();
        }
        let freeze = self.freeze(stack);
        let sealed = seal::run(&mut self.context, stack, after, freeze);
        // A failed seal may have left root suspended. The plan repairs that; an armed throttle
        // would hide it.
        self.context.throttle.release();
        self.context.frozen = sealed.as_ref().is_ok_and(|(sealed, _)| sealed.frozen);
        // This arms the throttle for the fresh COW before writers go on.
        let found = self.context.observe();
        match sealed {
            Ok((sealed, frozen_root)) => {
                let found = found?;
                let stall = frozen_root.thaw().unwrap_or(sealed.stall);
                let (settled, _) = self.settle_from(found, goal)?;
                Ok((Sealed { stall, ..sealed }, settled))
            }
            Err(error) => {
                self.foreign |= error.exit_code() == Exit::Busy;
                // Repairs what the seal left, as far as possible; the error is the seal's.
                let _ = found.and_then(|found| self.settle_from(found, goal));
                Err(error)
            }
        }
    }

    /// When to freeze root's filesystem.
    fn freeze(&self, stack: &Stack) -> Freeze {
        let memory = memory::info().unwrap_or_default();
        let status = stack.root.map_or(SnapshotStatus::Unknown, |root| root.status());
        let can = match status {
            SnapshotStatus::Overflow => false,
            SnapshotStatus::Used(usage) => {
                let (device, used) = (usage.total.bytes(), usage.allocated.bytes());
                cow_memory::can_freeze(device, used, memory.unwritten())
            }
            _ => true,
        };
        let level = self.context.cow_limits(stack).level(status, &memory);
        let hurries = level.is_some_and(|level| !level.lasts(PREPARING));
        // A filesystem that was refused writes has most likely shut down, until the next boot.
        let can = can && !run_dir::has_overflowed() && !self.foreign;
        match (can, hurries) {
            (false, _) => Freeze::Never,
            (true, true) => Freeze::Before,
            (true, false) => Freeze::Within,
        }
    }

    /// Writes the page cache out while writers go on, so that little is left for the seal, which
    /// stops them. It gives up once the COW is so full that writers would have to wait. From there
    /// on the throttle holds writers back, and the write-out waits for it as well; only the seal
    /// makes room, and its freeze writes the page cache out, too.
    fn sync(&self, stack: &Stack) -> Result<Synced> {
        let cow_limits = self.context.cow_limits(stack);
        let mut message = Message::about(Name::Root);
        let mut syncing = Syncing::begin(&open_root()?)?;
        loop {
            let level = throttle::level(&self.context.control, &mut message, &cow_limits);
            let pause = level.map_or(SLOW, |level| level.pause_until(cow_limits.full_wait));
            if level.is_some_and(|level| level.percent_of_limit() >= cow_limits.full_wait) {
                return Ok(Synced::Unknown);
            }
            if let Some(synced) = syncing.wait(pause) {
                return Ok(synced);
            }
        }
    }

    /// Notes what was done since the last note, or since the command began, as a flush of its own.
    pub(super) fn note(&mut self, stall: Duration) -> Record {
        let begin = std::mem::replace(&mut self.since, Instant::now());
        let done = std::mem::take(&mut self.done);
        let record = Record {
            when: time::now(),
            command: self.command.to_owned(),
            reason: self.reason.clone(),
            path: self.path.clone(),
            bytes: done.durable,
            logged: done.logged,
            merged: done.merged,
            took_ms: begin.elapsed().as_millis() as u64,
            log_ms: done.logging.as_millis() as u64,
            merge_ms: done.merging.as_millis() as u64,
            stall_us: stall.as_micros() as u64,
            pruned: done.pruned.bytes,
            not_pruned: done.pruned.refused.unwrap_or_default().to_owned(),
        };
        // Each part of a stop is a flush of its own here.
        let _ = run_dir::note_flush(&record);
        remember(&record);
        record
    }
}

/// Remembers until the next boot that the kernel could not write something out. The kernel reports
/// that only once, and later writes don't make up for what it dropped.
fn remembered(synced: Synced) -> Synced {
    match synced {
        Synced::Failed(Errno::EIO | Errno::EROFS) => run_dir::note_unwritten(),
        Synced::Done(_) if run_dir::has_unwritten() => return Synced::Failed(Errno::EIO),
        _ => {}
    }
    synced
}

fn open_root() -> Result<Node> {
    Node::open(Path::new("/"), false, 0).doing(|| "open /")
}

/// Writes the page cache out, however long that takes.
pub(super) fn sync_root() -> Result<()> {
    write_out(&open_root()?).map(drop).doing(|| "sync the root filesystem")
}

/// Writes the note of a flush. It is for people, so a missing /run is not an error.
pub(super) fn remember(record: &Record) {
    let _ = run_dir::write(run_dir::LAST_FLUSH, &record.to_text());
}

/// Sends the card a FLUSH: everything merged or written through becomes durable.
pub(super) fn flush_card(stack: &Stack) -> Result<()> {
    match stack.card() {
        Some((card, Sectors(_))) => block::flush(card),
        None => Ok(()),
    }
}
