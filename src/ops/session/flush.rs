//! Flush: everything that was written until now becomes durable.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{How, Incomplete, Outcome, Session};
use crate::cow::size;
use crate::daemon::pressure::SLOW;
use crate::dm::SnapshotStatus;
use crate::error::{Doing, Result};
use crate::ops::settle::{self, Settled};
use crate::ops::window::{Freeze, Sealed};
use crate::ops::{run_dir, seal, valve};
use crate::report::record::Record;
use crate::stack::{Mode, Name, Stack, Trouble, Wish};
use crate::sys::dm::Message;
use crate::sys::syncing::Syncing;
use crate::sys::{block, memory, time};
use crate::units::Sectors;

/// How long root's new tables may take to load while memory is short, at worst: nothing holds writers
/// back meanwhile unless their filesystem is frozen. A COW with room for less is sealed with a longer
/// window.
const PREPARING: Duration = Duration::from_millis(100);

impl Session<'_> {
    /// Makes everything that was written until now durable: in the flush log if there is one, else
    /// in root itself.
    pub fn flush(&mut self, how: How) -> Result<Outcome> {
        let begin = Instant::now();
        self.hold_back()?;
        // A filesystem in trouble can't write everything out; what it could is still flushed.
        let synced = if how.hurry { Ok(()) } else { self.sync()? };
        let stack = self.control.stack()?;
        let status = stack.root.map_or(SnapshotStatus::Unknown, |root| root.status());
        match (stack.mode(), status) {
            (Some(Mode::WriteThrough), _) => {
                flush_card(&stack)?;
                return Ok(Outcome::Nothing);
            }
            (_, SnapshotStatus::Invalid) => {
                return Err(settle::explain(Trouble::Lost(Name::Root)));
            }
            (_, SnapshotStatus::Used(usage)) if usage.data().0 == 0 => return Ok(Outcome::Nothing),
            _ => {}
        }
        let wish = Wish { direct: how.direct, ..Wish::default() };
        let (sealed, mut settled) =
            self.seal(&stack, seal::After::Defer { limit: self.limit, roof: self.roof }, wish)?;
        if settled.appended && how.merges(settled.log_used, self.config.merge) {
            let merged = self.settle(Wish { merge: true, ..Wish::default() })?;
            settled.merged.0 = settled.merged.0.saturating_add(merged.merged.0);
            settled.merging += merged.merging;
        }
        let record = self.note(begin, sealed.stall, settled);
        if status == SnapshotStatus::Overflow {
            run_dir::note_overflow();
        }
        let incomplete = match (status, synced) {
            (SnapshotStatus::Overflow, _) => Some(Incomplete::Overflow),
            (_, Err(errno)) => Some(Incomplete::Sync(errno)),
            _ if !sealed.frozen => Some(Incomplete::Unfrozen),
            _ => None,
        };
        Ok(Outcome::Flushed { record, incomplete })
    }

    /// Merges what is in the flush log into the card. Returns what was merged and how long that
    /// took, `None` when the log is empty or there is none.
    pub fn merge(&mut self) -> Result<Option<Settled>> {
        let settled = self.settle(Wish { merge: true, ..Wish::default() })?;
        Ok(settled.of_log())
    }

    /// Seals and brings the stack to rest again, also when the seal failed halfway.
    pub(super) fn seal(
        &mut self,
        stack: &Stack,
        after: seal::After,
        wish: Wish,
    ) -> Result<(Sealed, Settled)> {
        self.hold_back()?;
        let freeze = self.freeze()?;
        let sealed = seal::run(&self.control, stack, after, self.valve.valve(), freeze);
        // A seal that failed may have left root suspended, which the plan mends, but not a valve.
        self.valve.valve().rest();
        self.frozen = sealed.as_ref().is_ok_and(|(sealed, _)| sealed.frozen);
        let sealed = match sealed {
            Ok((sealed, tight)) => {
                self.hold_back()?;
                Ok(Sealed { stall: tight.thaw().unwrap_or(sealed.stall), ..sealed })
            }
            Err(error) => Err(error),
        };
        let settled = self.settle(wish);
        Ok((sealed?, settled?))
    }

    /// When to freeze root's filesystem.
    fn freeze(&self) -> Result<Freeze> {
        let stack = self.control.stack()?;
        let memory = memory::info().unwrap_or_default();
        let status = stack.root.map_or(SnapshotStatus::Unknown, |root| root.status());
        let can = match status {
            SnapshotStatus::Overflow => false,
            SnapshotStatus::Used(usage) => {
                let (device, used) = (usage.total.bytes(), usage.allocated.bytes());
                size::can_freeze(device, used, memory.unwritten())
            }
            _ => true,
        };
        let tight = self.rule(&stack).level(status, &memory);
        let tight = tight.is_some_and(|level| !level.lasts(PREPARING));
        // One that was refused writes has shut down, most likely, and stays so until the next boot.
        let can = can && !run_dir::has_overflowed();
        Ok(match (can, tight) {
            (false, _) => Freeze::Never,
            (true, true) => Freeze::Before,
            (true, false) => Freeze::Within,
        })
    }

    /// Writes the page cache out while writers are free, so that little is left for the seal, which
    /// stops them. It is given up once the COW is so full that they would have to wait: the seal's
    /// freeze does the same, and nothing but the seal makes room: at that mark the valve closes, and what is
    /// written out waits for it as well.
    fn sync(&mut self) -> Result<std::result::Result<(), Errno>> {
        let rule = self.rule(&self.control.stack()?);
        let mut message = Message::about(Name::Root);
        let mut syncing = Syncing::begin(&open_root()?)?;
        loop {
            let level = valve::level(&self.control, &mut message, &rule);
            let pause = level.map_or(SLOW, |level| level.pause_until(rule.full_wait));
            if level.is_some_and(|level| level.percent_of_brim() >= rule.full_wait) {
                return Ok(Ok(()));
            }
            if let Some(synced) = syncing.wait(pause) {
                return Ok(synced);
            }
        }
    }

    pub(super) fn note(&self, begin: Instant, stall: Duration, settled: Settled) -> Record {
        let record = Record {
            when: time::now(),
            command: self.command.to_owned(),
            reason: self.reason.clone(),
            bytes: if settled.appended { settled.logged } else { settled.merged },
            logged: settled.logged,
            merged: settled.merged,
            took_ms: begin.elapsed().as_millis() as u64,
            log_ms: settled.logging.as_millis() as u64,
            merge_ms: settled.merging.as_millis() as u64,
            stall_us: stall.as_micros() as u64,
            pruned: settled.pruned.bytes,
            not_pruned: settled.pruned.refused.unwrap_or_default().to_owned(),
        };
        // Each part of a stop is a flush of its own here.
        let _ = run_dir::note_flush(&record);
        remember(&record);
        record
    }
}

fn open_root() -> Result<File> {
    File::open("/").doing(|| "open /")
}

/// Writes the page cache out, however long that takes.
pub(super) fn sync_root() -> Result<()> {
    block::sync_filesystem(&open_root()?).doing(|| "sync the root filesystem")
}

/// The note is for people; a /run that is gone is no error.
pub(super) fn remember(record: &Record) {
    let _ = run_dir::write(run_dir::LAST_FLUSH, &record.to_text());
}

/// The last word to the card: everything merged or written through becomes durable.
pub(super) fn flush_card(stack: &Stack) -> Result<()> {
    match stack.card() {
        Some((card, Sectors(_))) => block::flush(card),
        None => Ok(()),
    }
}
