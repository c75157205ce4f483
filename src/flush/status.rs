//! Gathers what `cowflush status` shows. Changes nothing.

use std::path::Path;
use std::time::Duration;

use super::flushlog::FlushLog;
use super::{cow_device, view};
use crate::error::{Exit, Result};
use crate::notes::daemon_note::{self, DaemonNote};
use crate::notes::{self, hold, run_dir, spill, swaps};
use crate::pure::cow::exception_store::Exception;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::flushlog::agree::{self, Agreement};
use crate::pure::flushlog::chain::{Bad, ChainEnd};
use crate::pure::flushlog::records::{Life, Link};
use crate::pure::report::history;
use crate::pure::report::record::Record;
use crate::pure::stack::{Mode, Name, Stack};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::block::{self, Written};
use crate::sys::dm::Control;
use crate::sys::time::{Instant, pause};
use crate::sys::users::{self, Beside, OnRoot};
use crate::sys::{lock, memory};

/// Where a flush stands, or what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is going on.
    Idle,
    /// A COW is sealed and not yet being merged.
    Sealed,
    /// The kernel merges.
    Merging,
    /// The card refused a write.
    MergeFailed,
    /// The COW is full.
    Overflow,
    /// A COW was lost.
    Lost,
    /// Root's I/O is held back.
    Suspended,
}

impl Phase {
    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Sealed => "sealed",
            Phase::Merging => "merging",
            Phase::MergeFailed => "merge-failed",
            Phase::Overflow => "overflow",
            Phase::Lost => "lost",
            Phase::Suspended => "suspended",
        }
    }
}

/// Everything that `status` could find out.
#[derive(Debug, Default)]
pub struct Report {
    /// Where root's writes go; `None` when root is not on a stack, or that is unknown.
    pub mode: Option<Mode>,
    /// Why the stack's tables could not be read.
    pub unknown: Option<String>,
    /// Where a flush stands; only root may know.
    pub phase: Option<Phase>,
    /// The card's partition.
    pub card: Option<DevNo>,
    /// Root's COW: memory it holds, metadata included; only root may know.
    pub cow_used: Option<Bytes>,
    /// Root's COW: its size now.
    pub cow_size: Option<Bytes>,
    /// Data in RAM that differ from the card, in root's COW and a sealed one; only root may know.
    /// `None` also where the kernel does not count them.
    pub pending: Option<Bytes>,
    /// Of that, what is sealed and still to be merged.
    pub sealed: Option<Bytes>,
    /// Written by programs, but not yet out of the page cache; all filesystems.
    pub page_cache: Bytes,
    /// Writes to root since boot.
    pub absorbed: Option<Written>,
    /// Writes to the card since boot.
    pub reached: Option<Written>,
    /// The last finished flush.
    pub last_flush: Option<Record>,
    /// The file whose changes brought most of the last flushes, how many, and the sentence for it;
    /// `None` when few did.
    pub restless: Option<(String, usize, String)>,
    /// The process that is at work.
    pub busy: Option<i32>,
    /// The spill area: how much of it is in use, and its size.
    pub spill: Option<(Bytes, Bytes)>,
    /// The card or the flush log is write-protected.
    pub write_protected: bool,
    /// What else is written to the card.
    pub beside: Vec<Beside>,
    /// Swap that ends on root, while its writes stay in RAM.
    pub swap_on_root: Vec<OnRoot>,
    /// The flush log.
    pub log: Option<LogReport>,
    /// Why the boot did not use a flush log that is there.
    pub log_kept: Option<String>,
    /// Since when nothing may reach the card, in seconds since 1970.
    pub held_since: Option<i64>,
    /// That is because the boot could not tell what is in the flush log.
    pub held_for_log: bool,
    /// The daemon that runs.
    pub daemon: Option<DaemonNote>,
    /// What the boot did: mode and reason.
    pub boot: Option<(String, String)>,
}

impl Report {
    /// The word for programs.
    pub const fn mode_word(&self) -> &'static str {
        match (self.mode, &self.unknown) {
            (Some(mode), _) => mode.word(),
            (None, Some(_)) => "unknown",
            (None, None) => "inactive",
        }
    }
}

/// The flush log in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Its partition.
    pub partition: DevNo,
    /// Flushes in it; `None` when it can't be read, or by this user.
    pub segments: Option<u64>,
    /// How much of it is in use, in percent.
    pub used_percent: Option<u64>,
    /// How it is: the word for its end, `ahead` or `behind` of what root reads; `None` for other
    /// users, and while another process writes to it.
    pub state: Option<&'static str>,
    /// Figures since it was made.
    pub life: Option<Life>,
}

/// Gathers everything that this user may know.
pub fn gather() -> Report {
    let mut report = match Control::open() {
        Ok(control) => privileged(&control, |partition| log_report(&control, partition)),
        Err(_) => unprivileged(),
    };
    report.reached = reached(&report, block::written);
    let log = report.log.map(|log| log.partition);
    report.write_protected = report.card.into_iter().chain(log).any(block::is_write_protected);
    report.beside = report.card.map(|card| users::beside(card, log)).unwrap_or_default();
    let hold = hold::read();
    report.held_since = hold.map(|hold| hold.since);
    report.held_for_log = hold.is_some_and(|hold| hold.for_log);
    report.spill = spill::usage();
    if let (Some(Mode::Deferring), Some(root)) = (report.mode, device_named(Name::Root)) {
        report.swap_on_root = swaps::all_swap_on(root);
    }
    report.daemon = daemon_note::running();
    report.page_cache = memory::info().unwrap_or_default().dirty;
    report.last_flush = run_dir::last_flush();
    report.restless = restless();
    report.boot = run_dir::read(run_dir::BOOT).map(|text| {
        let value = |key| notes::value(&text, key).to_owned();
        // One that was made since, or over it, is in use now.
        let kept = report.log.is_none().then(|| value("log_kept"));
        report.log_kept = kept.filter(|why| !why.is_empty());
        (value("mode"), value("reason"))
    });
    report
}

/// Which file's changes most of the last flushes came for, how many did, and how that is said.
pub fn restless() -> Option<(String, usize, String)> {
    let history = run_dir::history();
    let found = history::restless(&history)?;
    Some((found.path.to_owned(), found.flushes, found.to_string()))
}

/// What the card was asked to write: its own partition counts, whatever root was asked for.
fn reached(report: &Report, written: impl FnOnce(DevNo) -> Option<Written>) -> Option<Written> {
    report.card.and_then(written)
}

/// A look at the flush log without the lock.
pub struct LogCheck {
    /// The log, or why it can't be read.
    pub log: Result<FlushLog>,
    /// Its chunks that are damaged or can't be read, if all were read.
    pub bad: Vec<Bad>,
    /// What root reads of it.
    seen: Option<Vec<Exception>>,
    /// No process wrote to it meanwhile, so what was read is the log's state.
    undisturbed: bool,
}

impl LogCheck {
    /// Checks a log that is not in use.
    pub fn plain(path: &Path, verify: bool) -> Self {
        let mut log = FlushLog::open_read_only(path);
        let bad = log.as_mut().ok().filter(|_| verify).map(FlushLog::verify_all);
        Self { log, bad: bad.unwrap_or_default(), seen: None, undisturbed: true }
    }

    /// The word for the log's state, in itself and compared with what root reads through it.
    /// `None`: a flush or a merge was writing to it, which looks like damage.
    pub fn state(&self) -> Option<&'static str> {
        let word = match &self.log {
            Err(error) => match error.exit_code() {
                Exit::Card => "unreadable",
                Exit::Newer => "newer",
                _ => "damaged",
            },
            Ok(log) => match self.seen.as_ref().map(|seen| agree::compare(&log.chain, seen)) {
                Some(Agreement::More(_)) => "ahead",
                Some(Agreement::Less) => "behind",
                _ => log.chain.end.word(),
            },
        };
        // A clean end was read before anything was written: half of a flush does not end cleanly.
        (self.undisturbed || (word == ChainEnd::Clean.word() && self.bad.is_empty()))
            .then_some(word)
    }

    /// The short report.
    fn report(&self, partition: DevNo) -> LogReport {
        let state = self.state();
        let log = self.log.as_ref().ok().filter(|_| state.is_some());
        LogReport {
            partition,
            segments: log.map(|log| log.flushes().count() as u64),
            used_percent: log.map(FlushLog::used_percent),
            life: log.map(FlushLog::life),
            state,
        }
    }
}

/// Checks the stack's log, again and again for at most `patience`, until no process wrote to it
/// meanwhile or it is in order. `verify`: reads all of its data, too.
pub fn check_log(control: &Control, log: DevNo, patience: Duration, verify: bool) -> LogCheck {
    let (path, begin) = (block::path(log), Instant::now());
    loop {
        let (idle, before) = (lock::holder(control).is_none(), block::written(log));
        let mut check = LogCheck::plain(&path, verify);
        if idle {
            check.seen = control.stack().and_then(|stack| view::seen(&stack)).ok();
            if check.state() == Some("ahead")
                && let Ok(log) = &mut check.log
            {
                // Root does not have all of it, perhaps since some data can't be read.
                log.verify();
            }
        }
        check.undisturbed =
            idle && lock::holder(control).is_none() && block::written(log) == before;
        if check.state().is_some() || begin.elapsed() >= patience {
            return check;
        }
        pause(PAUSE);
    }
}

const PAUSE: Duration = Duration::from_millis(50);

/// Reads the flush log, and reports what it holds.
pub fn log_report(control: &Control, partition: DevNo) -> LogReport {
    check_log(control, partition, Duration::ZERO, false).report(partition)
}

/// Follows the flush log's state without the lock.
#[derive(Default)]
pub struct LogWatch(Option<Seen>);

/// What the log held.
struct Seen {
    /// The device's write counters then.
    written: Option<Written>,
    report: LogReport,
    /// Its generation and where that ended, if it ended cleanly.
    ends: Option<(Link, Link)>,
}

impl LogWatch {
    /// What the log holds. It is read only after something was written to it, to spare the card,
    /// and then only what was appended, so that the cost does not grow with the log. While another
    /// process is at work, this returns the previous report.
    pub fn report(&mut self, control: &Control, partition: DevNo) -> LogReport {
        let path = block::path(partition);
        let moment = || (lock::holder(control).is_some(), block::written(partition));
        let (busy, written) = moment();
        if let Some(seen) = self.0.take().filter(|seen| seen.report.partition == partition) {
            if busy || seen.written == written {
                return self.0.insert(seen).report;
            }
            if let Some(ends) = seen.ends
                && let Some(log) = FlushLog::since(&path, ends)
            {
                // If a process has begun to write meanwhile, the next call reads again.
                let grown = (moment() == (busy, written)).then(|| Seen {
                    written,
                    report: seen.report.and(&log),
                    ends: Some((ends.0, log.chain.next)),
                });
                return self.0.insert(grown.unwrap_or(seen)).report;
            }
        }
        let check = check_log(control, partition, Duration::ZERO, false);
        let report = check.report(partition);
        // A log that was being written to is read again next time.
        if report.state.is_some() {
            let log = check.log.ok().filter(|log| log.chain.end == ChainEnd::Clean);
            let ends = log.map(|log| (log.header().start, log.chain.next));
            self.0 = Some(Seen { written, report, ends });
        }
        report
    }
}

impl LogReport {
    /// The report once the segments of `added` were appended.
    fn and(self, added: &FlushLog) -> Self {
        let (more, was) = (added.life(), added.header().life);
        let life = self.life.map(|life| Life {
            segments: life.segments.saturating_add(more.segments.saturating_sub(was.segments)),
            chunks: life.chunks.saturating_add(more.chunks.saturating_sub(was.chunks)),
            ..life
        });
        let segments = self.segments.map(|n| n.saturating_add(added.flushes().count() as u64));
        Self { segments, used_percent: Some(added.used_percent()), life, ..self }
    }
}

/// The report for root, from the kernel's tables. `read_log` reports what the flush log holds.
pub fn privileged(control: &Control, read_log: impl FnOnce(DevNo) -> LogReport) -> Report {
    // Asked before and after: what is sealed may belong to a flush that has just ended.
    let busy = lock::holder(control);
    let stack = match control.stack() {
        Ok(stack) => stack,
        Err(error) => return Report { unknown: Some(error.to_string()), ..Report::default() },
    };
    let busy = lock::holder(control).or(busy);
    let cow_size = cow_of(&stack).and_then(|cow| block::size(cow).ok()).map(Sectors::bytes);
    // The kernel does not count a COW that overflowed; it is full.
    let status = stack.root.map_or(SnapshotStatus::Unknown, |root| root.status());
    let overflow = cow_size.filter(|_| status == SnapshotStatus::Overflow);
    let usage = stack.root.and_then(|root| root.usage());
    let sealed = sealed_left(&stack);
    let in_root = match stack.mode() {
        Some(Mode::WriteThrough) => Some(Bytes(0)),
        _ => usage.map(|usage| usage.data().bytes()).or(overflow),
    };
    let log = stack.log_partition().map(read_log);
    // A lost COW does not count as empty.
    let pending = in_root.zip(sealed.unwrap_or(Some(Bytes(0))));
    Report {
        mode: stack.mode(),
        phase: stack.root.map(|_| phase(&stack)),
        card: stack.card().map(|(card, _)| card),
        cow_used: usage.map(|usage| usage.allocated.bytes()).or(overflow),
        cow_size,
        pending: pending.map(|(root, sealed)| Bytes(root.0.saturating_add(sealed.0))),
        sealed: sealed.flatten(),
        absorbed: stack.root.and_then(|root| block::written(root.number)),
        busy,
        log,
        ..Report::default()
    }
}

/// How much is sealed and neither in the log nor on the card yet. The kernel has no count for a
/// failed merge, and a wrong one for a view until its first run is merged, so this counts a merge's
/// table.
///
/// `None`: nothing is sealed; `Some(None)`: the amount is unknown.
fn sealed_left(stack: &Stack) -> Option<Option<Bytes>> {
    let sealed = stack.sealed_in_ram()?;
    Some(match sealed.target() {
        Some(Target::SnapshotMerge { cow, .. }) => view::left(cow).ok(),
        Some(Target::Linear { .. }) => Some(Bytes(0)),
        _ => sealed.usage().map(|usage| usage.data().bytes()),
    })
}

fn cow_of(stack: &Stack) -> Option<DevNo> {
    match stack.root?.target()? {
        Target::Snapshot { cow, .. } => Some(cow),
        _ => None,
    }
}

fn phase(stack: &Stack) -> Phase {
    let status = |name| stack.device(name).map(|device| device.status());
    let merging = [stack.sealed, stack.logged].into_iter().flatten().any(|layer| {
        matches!(layer.target(), Some(Target::SnapshotMerge { .. } | Target::Linear { .. }))
    });
    let states = [status(Name::Root), status(Name::Sealed), status(Name::Logged)];
    // Between the handover and the swap the kernel calls root's old table Invalid.
    if stack.root.is_some_and(|root| root.suspended) {
        Phase::Suspended
    } else if states.contains(&Some(SnapshotStatus::Invalid)) {
        Phase::Lost
    } else if states.contains(&Some(SnapshotStatus::MergeFailed)) {
        Phase::MergeFailed
    } else if merging {
        Phase::Merging
    } else if status(Name::Root) == Some(SnapshotStatus::Overflow) {
        Phase::Overflow
    } else if stack.sealed.is_some() {
        Phase::Sealed
    } else {
        Phase::Idle
    }
}

/// The report for other users, from sysfs: the devices and how they stand on each other.
fn unprivileged() -> Report {
    let Some(root) = device_named(Name::Root) else { return Report::default() };
    let under = block::below(root);
    let is_cow = |device: &DevNo| {
        block::name(*device).starts_with("loop") || cow_device::is_nobodys(*device)
    };
    let cow = under.iter().copied().find(is_cow);
    let sealed = device_named(Name::Sealed);
    let lowest = device_named(Name::Origin).or(sealed);
    let card = lowest.and_then(|device| block::below(device).first().copied());
    let log = device_named(Name::Log).and_then(|log| block::below(log).first().copied());
    Report {
        mode: Some(if cow.is_some() { Mode::Deferring } else { Mode::WriteThrough }),
        card,
        cow_size: cow.and_then(|cow| block::size(cow).ok()).map(Sectors::bytes),
        absorbed: block::written(root),
        log: log.map(|partition| LogReport {
            partition,
            segments: None,
            used_percent: None,
            life: None,
            state: None,
        }),
        ..Report::default()
    }
}

fn device_named(name: Name) -> Option<DevNo> {
    block::mapped(name.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::pure::dm::status::Usage;
    use crate::pure::stack::{Device, Live};

    const CARD: DevNo = DevNo { major: 8, minor: 1 };

    fn device(minor: u32, target: Target, status: SnapshotStatus) -> Option<Device> {
        let live = Some(Live::Single { length: Sectors(1 << 18), target, status });
        let number = DevNo { major: 253, minor };
        Some(Device { number, suspended: false, live, inactive: false })
    }

    fn used(data: u64) -> SnapshotStatus {
        let (total, metadata) = (Sectors(1 << 15), Sectors(16));
        SnapshotStatus::Used(Usage { allocated: Sectors(16 + data), total, metadata })
    }

    fn over(minor: u32) -> Target {
        let (origin, cow) = (DevNo { major: 253, minor }, DevNo { major: 7, minor });
        Target::Snapshot { origin, cow, chunk: 8 }
    }

    fn merging(minor: u32) -> Target {
        let (origin, cow) = (DevNo { major: 253, minor }, DevNo { major: 7, minor });
        Target::SnapshotMerge { origin, cow, chunk: 8 }
    }

    fn stack() -> Stack {
        let card = Target::Linear { device: CARD, offset: Sectors(0) };
        Stack {
            root: device(1, over(0), used(80)),
            origin: device(0, card, SnapshotStatus::Unknown),
            ..Stack::default()
        }
    }

    #[test]
    fn what_reached_the_card_is_counted_at_the_card_not_at_root() {
        let counters =
            |device: DevNo| (device == CARD).then_some(Written { requests: 3, sectors: 24 });
        let absorbed = Some(Written { requests: 9, sectors: 900 });
        let report = Report { card: Some(CARD), absorbed, ..Report::default() };
        assert_eq!(reached(&report, counters), counters(CARD));
        assert_eq!(reached(&Report { card: None, ..report }, counters), None);
    }

    #[test]
    fn the_phase_says_what_is_worst() {
        let idle = stack();
        assert_eq!(phase(&idle), Phase::Idle);
        let sealed = Stack { sealed: device(2, over(0), used(8)), ..idle };
        assert_eq!(phase(&sealed), Phase::Sealed);
        let at_work = Stack { sealed: device(2, merging(0), used(8)), ..idle };
        assert_eq!(phase(&at_work), Phase::Merging);
        let log = Stack { logged: device(5, merging(0), used(8)), ..idle };
        assert_eq!(phase(&log), Phase::Merging);
        let full = Stack { root: device(1, over(0), SnapshotStatus::Overflow), ..idle };
        assert_eq!(phase(&full), Phase::Overflow);
        let failed = Stack { sealed: device(2, merging(0), SnapshotStatus::MergeFailed), ..full };
        assert_eq!(phase(&failed), Phase::MergeFailed);
        for lost in [
            Stack { root: device(1, over(0), SnapshotStatus::Invalid), ..failed },
            Stack { logged: device(5, over(0), SnapshotStatus::Invalid), ..failed },
            Stack { sealed: device(2, over(0), SnapshotStatus::Invalid), ..idle },
        ] {
            assert_eq!(phase(&lost), Phase::Lost);
            let mut asleep = lost;
            asleep.root.as_mut().unwrap().suspended = true;
            assert_eq!(phase(&asleep), Phase::Suspended);
        }
    }

    #[test]
    fn what_looks_damaged_while_somebody_writes_is_not_said() {
        for (exit, word) in
            [(Exit::Lost, "damaged"), (Exit::Card, "unreadable"), (Exit::Newer, "newer")]
        {
            let check = |undisturbed| {
                let log = Err(Error::new("x", "y").exit(exit));
                LogCheck { log, bad: Vec::new(), seen: None, undisturbed }
            };
            assert_eq!((check(true).state(), check(false).state()), (Some(word), None));
        }
    }
}
