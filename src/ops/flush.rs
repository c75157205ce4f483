//! Flush, stop and start: the three things a user asks for.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::log::Log;
use super::prune::Policy;
use super::settle::{self, Hands, Settled, settle};
use super::valve::{self, Rule, Valve};
use super::window::Sealed;
use super::{cowfile, run_dir, seal};
use crate::config::Config;
use crate::cow::format::CHUNK_SECTORS;
use crate::cow::size;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::error::{Doing, Error, Exit, Result};
use crate::report::progress::Meter;
use crate::report::record::Record;
use crate::stack::{Mode, Name, Stack, Trouble, Wish};
use crate::sys::dm::{Control, Message};
use crate::sys::signals::Held;
use crate::sys::{block, lock, memory, mlock, priority, time};
use crate::units::{Bytes, Sectors};

/// A command at work: it holds the lock.
pub struct Session<'a> {
    control: Control,
    /// Where a valve stays that has to hold writers back after this has failed.
    kept: Option<&'a mut Option<Valve>>,
    meter: Meter,
    signals: &'a mut Held,
    /// What a COW may hold.
    limit: Bytes,
    /// What one flush can put into the flush log.
    roof: Bytes,
    config: &'a Config,
    command: &'static str,
    reason: String,
    /// What is sealed was frozen, as far as this process knows.
    frozen: bool,
}

/// How to flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Merge into the card without the flush log.
    pub direct: bool,
    /// Merge the flush log afterwards, however little it holds.
    pub merge: bool,
    /// The COW fills up: don't write out the page cache first.
    pub hurry: bool,
}

/// What a command did.
#[derive(Debug)]
pub enum Outcome {
    /// Data were made durable.
    Flushed {
        /// How much and how long.
        record: Record,
        /// Why not everything that programs wrote could be flushed.
        incomplete: Option<Incomplete>,
    },
    /// There was nothing to do.
    Nothing,
}

impl Outcome {
    /// This and what a later flush of the same command did, as one.
    fn and(self, later: Self) -> Self {
        match (self, later) {
            (
                Outcome::Flushed { record: first, incomplete: why },
                Outcome::Flushed { mut record, incomplete },
            ) => {
                record.bytes.0 = record.bytes.0.saturating_add(first.bytes.0);
                record.took_ms = record.took_ms.saturating_add(first.took_ms);
                record.log_ms = record.log_ms.saturating_add(first.log_ms);
                record.merge_ms = record.merge_ms.saturating_add(first.merge_ms);
                record.logged.0 = record.logged.0.saturating_add(first.logged.0);
                record.merged.0 = record.merged.0.saturating_add(first.merged.0);
                record.stall_us = record.stall_us.max(first.stall_us);
                record.pruned.0 = record.pruned.0.saturating_add(first.pruned.0);
                if record.not_pruned.is_empty() {
                    record.not_pruned = first.not_pruned;
                }
                Outcome::Flushed { record, incomplete: why.or(incomplete) }
            }
            (Outcome::Nothing, done) | (done, Outcome::Nothing) => done,
        }
    }
}

/// What had gone wrong before a flush, so that it could not save everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The COW was full: the filesystem was refused writes.
    Overflow,
    /// The filesystem could not write everything out.
    Sync(Errno),
    /// The filesystem could not be frozen.
    Unfrozen,
}

/// How much a stop accepts to be merged in the COW's own order. More is worth another flush.
const TAIL: Bytes = Bytes(256 << 10);
/// The same with a flush log: a freeze alone changes one chunk, the superblock's. A power cut
/// during that last merge can tear what is in it.
const TAIL_WITH_LOG: Bytes = Bytes(4 << 10);
/// How often a stop flushes to get below [`TAIL`] while writers are at work.
const TAIL_TRIES: u32 = 4;

impl<'a> Session<'a> {
    /// Takes the lock and settles what an earlier command left.
    pub fn begin(
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        wish: Wish,
    ) -> Result<Self> {
        let mut session = Self::open(Control::open()?, command, config, signals, Meter::new())?;
        session.measure()?;
        session.finish(wish)?;
        session.ready()
    }

    /// The same on the way down: a log that can't be written is passed by. `meter` shows progress.
    pub fn begin_last(
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        meter: Meter,
    ) -> Result<Self> {
        let mut session = Self::open(Control::open()?, command, config, signals, meter)?;
        session.measure()?;
        session.finish_anyhow()?;
        session.ready()
    }

    /// The same for the daemon, which tries again and again. Should this fail, or what is done in
    /// the session, with something sealed, then `kept` has a valve that goes on to hold writers
    /// back, and the lock is kept with it: no other command may meet that valve. The next session
    /// begins behind it. `last`: a log that can't be written is passed by.
    pub fn begin_behind(
        kept: &'a mut Option<Valve>,
        control: &Control,
        config: &'a Config,
        signals: &'a mut Held,
        last: bool,
    ) -> Result<Self> {
        let mut session = Self::open(control.clone(), "daemon", config, signals, Meter::new())?;
        session.kept = Some(kept);
        session.measure()?;
        if last {
            session.finish_anyhow()?;
        } else {
            session.finish(Wish::default())?;
        }
        session.ready()
    }

    fn open(
        control: Control,
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        meter: Meter,
    ) -> Result<Self> {
        lock::take(&control)?;
        priority::exempt_from_oom_killer();
        // Root will be suspended for moments, and this program may lie on it.
        mlock::all()?;
        priority::io_flusher();
        let (limit, reason) = (Bytes(0), String::new());
        let (kept, frozen) = (None, false);
        let roof = Bytes(u64::MAX);
        Ok(Self { control, kept, meter, signals, limit, roof, config, command, reason, frozen })
    }

    /// Finishes what an earlier command left. Writers may be at work, with little room while a COW
    /// is sealed. A root that was left suspended has to be mended first.
    fn finish(&mut self, wish: Wish) -> Result<Settled> {
        let stack = self.control.stack()?;
        let awake = stack.root.is_some_and(|root| !root.suspended && !root.inactive);
        let behind = self.kept.as_ref().is_some_and(|kept| kept.is_some());
        if (awake || behind) && stack.sealed.is_some() {
            return self.settle_with_valve(wish);
        }
        // Nothing that a valve could wait for.
        if let Some(kept) = &mut self.kept {
            **kept = None;
        }
        self.settle(wish)
    }

    fn finish_anyhow(&mut self) -> Result<Settled> {
        self.finish(Wish::default()).or_else(|error| self.pass_by_log(error))
    }

    /// After the card has refused a write to the log: what is sealed goes to root without it. What is
    /// in RAM is lost with the power; a cut while it is merged can only tear root.
    fn pass_by_log(&mut self, error: Error) -> Result<Settled> {
        match error.exit_code() {
            Exit::Card => self.finish(Wish { direct: true, ..Wish::default() }),
            _ => Err(error),
        }
    }

    /// Everything is settled: what that gave back may be used.
    fn ready(mut self) -> Result<Self> {
        self.measure()?;
        // A flush that was killed may have left the COW small.
        self.grow()?;
        Ok(self)
    }

    /// Learns how large the COW may be.
    fn measure(&mut self) -> Result<()> {
        let (memory, stack) = (memory::info()?, self.stack()?);
        // What COWs hold is not available to others, but it is to COWs.
        let room = memory.room(self.config.spill.is_some()).with(held_in_ram(&stack)?);
        self.limit = self.config.size.limit(memory.total, &room);
        // What a flush seals must fit into the log. A log that can't be read says so when it is
        // needed.
        let capacity = stack.log_partition().map(|log| Log::capacity_at(&block::path(log)));
        if let Some(Ok(capacity)) = capacity {
            self.roof = capacity;
            self.limit = self.limit.min(capacity);
        }
        Ok(())
    }

    /// Says why, for the record.
    pub fn because(mut self, reason: impl std::fmt::Display) -> Self {
        self.reason = reason.to_string();
        self
    }

    fn settle(&mut self, wish: Wish) -> Result<Settled> {
        let policy = self.policy();
        let Self { control, meter, signals, .. } = self;
        settle(&mut Hands { control, meter, signals, valve: None, policy }, wish)
    }

    /// The COW's limit.
    pub fn limit(&self) -> Bytes {
        self.limit
    }

    /// Makes everything that was written until now durable: in the flush log if there is one, else
    /// in root itself.
    pub fn flush(&mut self, how: How) -> Result<Outcome> {
        let begin = Instant::now();
        // A filesystem in trouble can't write everything out; what it could is still flushed.
        let synced = if how.hurry || self.is_full() { Ok(()) } else { sync_root()? };
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
        // While the COW fills up quickly there is no time for a merge, after which the writers would
        // be let go with little room left. When the log has no room a flush merges by itself, with
        // the sealed COW still held.
        let nearly_full = settled.log_used >= self.config.merge && !how.hurry;
        if settled.appended && (how.merge || nearly_full) {
            let merged = self.settle_with_valve(Wish { merge: true, ..Wish::default() })?;
            settled.merged.0 = settled.merged.0.saturating_add(merged.merged.0);
            settled.merging += merged.merging;
        }
        let record = self.note(begin, sealed.stall, settled);
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
        let settled = self.settle_with_valve(Wish { merge: true, ..Wish::default() })?;
        let any = settled.merged.0 > 0 || settled.log_pruned.bytes.0 > 0;
        Ok(any.then_some(settled))
    }

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
            settle::retire_log(&stack);
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
        sync_root()?.doing(|| "sync the root filesystem")?;
        let (Some(origin), Some(length)) =
            (stack.seat(), stack.root.and_then(|root| root.length()))
        else {
            return Err(Error::new("defer writes", "root's table is none that cowflush makes"));
        };
        let cow = cowfile::create(self.limit, self.limit)?;
        let target = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
        // One request suspends root, swaps the table and resumes it: nothing can die between.
        self.control.load(Name::Root, &[Line::whole(length, target)])?;
        drop(cow);
        self.control.resume(Name::Root)?;
        Ok(true)
    }

    /// Seals and brings the stack to rest again, also when the seal failed halfway.
    fn seal(&mut self, stack: &Stack, after: seal::After, wish: Wish) -> Result<(Sealed, Settled)> {
        // A writer at memory speed could fill the fresh COW before it has a valve.
        priority::realtime(true);
        let sealed = seal::run(&self.control, stack, after);
        self.frozen = sealed.as_ref().is_ok_and(|sealed| sealed.frozen);
        // A seal that failed may have left root suspended, which the plan mends, but not a valve.
        let settled = if sealed.is_ok() { self.settle_with_valve(wish) } else { self.settle(wish) };
        Ok((sealed?, settled?))
    }

    /// Settles while writers are at work, who have less room than usual meanwhile. Root is awake.
    fn settle_with_valve(&mut self, wish: Wish) -> Result<Settled> {
        let stack = self.control.stack()?;
        let target = stack.root.and_then(|root| root.target());
        let Some(Target::Snapshot { cow, .. }) = target else { return self.settle(wish) };
        let policy = self.policy();
        let waiting = self.kept.as_mut().and_then(|kept| kept.take());
        let mut valve = match waiting {
            Some(valve) => valve,
            None => Valve::tended(&self.control, self.rule(&stack))?,
        };
        priority::realtime(false);
        let mut hands = Hands {
            control: &self.control,
            meter: &mut self.meter,
            signals: self.signals,
            valve: Some(&mut valve),
            policy,
        };
        let settled = settle(&mut hands, wish);
        // In this order: what waits at the valve needs the room. Nothing was freed by a failure.
        let grown = if settled.is_ok() { cowfile::grow(cow, self.limit) } else { Ok(()) };
        // Nor may it run ahead of whoever looks after the COW from here on.
        priority::realtime(true);
        match &mut self.kept {
            Some(kept) if settled.is_err() => **kept = Some(valve),
            _ => drop(valve),
        }
        settled.and_then(|settled| grown.map(|()| settled))
    }

    /// What root's COW may hold until everything is settled.
    fn rule(&self, stack: &Stack) -> Rule {
        let sealed = stack.sealed_in_ram().and_then(|sealed| sealed.usage());
        let sealed = sealed.map_or(Bytes(0), |usage| usage.allocated.bytes());
        Rule::of(self.config).at_most(size::fresh(self.limit, sealed))
    }

    fn policy(&self) -> Policy {
        Policy { on: self.config.prune, frozen: self.frozen }
    }

    /// What is on its way to the COW may not fit any more.
    fn is_full(&self) -> bool {
        let mut message = Message::about(Name::Root);
        let level = valve::level(&self.control, &mut message, &Rule::of(self.config));
        level.is_some_and(|level| level.percent_of_brim() >= self.config.full_wait)
    }

    /// During a flush the fresh COW had to share the memory with the sealed one.
    fn grow(&self) -> Result<()> {
        match self.control.stack()?.root.and_then(|root| root.target()) {
            Some(Target::Snapshot { cow, .. }) => cowfile::grow(cow, self.limit),
            _ => Ok(()),
        }
    }

    fn note(&self, begin: Instant, stall: Duration, settled: Settled) -> Record {
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

    /// The last resort when the COW fills up and no flush makes room: root's writes go to the card
    /// from now on, past the log. What is in RAM follows.
    pub fn give_up_deferring(&mut self) -> Result<()> {
        let stack = self.control.stack()?;
        settle::retire_log(&stack);
        self.seal(&stack, seal::After::WriteThrough, Wish::default()).map(drop)
    }

    /// The stack as it is now.
    pub fn stack(&self) -> Result<Stack> {
        self.control.stack()
    }
}

impl Drop for Session<'_> {
    /// A command's lock goes with its process; the daemon's has to be given back, but not while its
    /// valve holds writers back: no other command may meet that.
    fn drop(&mut self) {
        if self.kept.as_ref().is_some_and(|kept| kept.is_none()) {
            lock::release(&self.control);
        }
    }
}

/// What the COWs hold; the kernel does not count one that overflowed, which is full.
fn held_in_ram(stack: &Stack) -> Result<Bytes> {
    let full = stack.root.filter(|root| root.status() == SnapshotStatus::Overflow);
    let full = match full.and_then(|root| root.target()) {
        Some(Target::Snapshot { cow, .. }) => block::size(cow)?.bytes(),
        _ => Bytes(0),
    };
    Ok(Bytes(stack.held_in_ram().0.saturating_add(full.0)))
}

/// Writes the page cache out, while writers are free: what is left for the seal is little.
fn sync_root() -> Result<std::result::Result<(), Errno>> {
    let root = File::open("/").doing(|| "open /")?;
    Ok(block::sync_filesystem(&root))
}

/// The note is for people; a /run that is gone is no error.
fn remember(record: &Record) {
    let _ = run_dir::write(run_dir::LAST_FLUSH, &record.to_text());
}

/// The last word to the card: everything merged or written through becomes durable.
fn flush_card(stack: &Stack) -> Result<()> {
    match stack.card() {
        Some((card, Sectors(_))) => block::flush(card),
        None => Ok(()),
    }
}
