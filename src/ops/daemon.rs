//! The daemon: looks at clocks and levels, flushes when the schedule says so.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::flush::{How, Outcome, Session};
use super::report::Reporter;
use super::watch::Watch;
use super::{hold, run_dir, valve};
use crate::config::Config;
use crate::daemon::schedule::{Now, Reason, Schedule};
use crate::dm::SnapshotStatus;
use crate::error::{Error, Exit, Result};
use crate::report::progress::Meter;
use crate::report::record::Record;
use crate::stack::{Name, Wish};
use crate::sys::dm::{Control, Message};
use crate::sys::memory::{self, DirtyLimits};
use crate::sys::signals::Held;
use crate::sys::{priority, time};
use crate::units::Bytes;

/// What the daemon tells as it works.
pub enum News<'a> {
    /// A flush ended.
    Flushed(Reason, &'a Record),
    /// A flush failed.
    Failed(Reason, &'a Error),
    /// Something to know.
    Note(&'a str),
}

/// The last resort comes when this share of the COW is in use and a flush failed, in percent.
const LAST_RESORT: u64 = 95;

/// How often the daemon looks for flushes by hand, in milliseconds.
const NOTICE_EVERY: u64 = 1000;

/// The daemon's state between two looks.
struct Daemon<'a> {
    config: Config,
    schedule: Schedule,
    control: Control,
    message: Box<Message>,
    urgent: Watch,
    boot: Watch,
    last_note: Option<String>,
    noticed: u64,
    reporter: Reporter,
    tell: &'a mut dyn FnMut(News<'_>),
}

/// Runs until SIGTERM or SIGINT. `load` reads the configuration; SIGHUP has it read again.
pub fn run(
    load: impl Fn() -> Config,
    mut signals: Held,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<()> {
    let mut daemon = Daemon::begin(load(), tell)?;
    memory::exempt_from_oom_killer();
    memory::lock()?;
    let before = DirtyLimits::now();
    let ended = daemon.work(load, &mut signals);
    daemon.reporter.end();
    if let Some(before) = before {
        before.set();
    }
    ended
}

impl Daemon<'_> {
    fn work(&mut self, load: impl Fn() -> Config, signals: &mut Held) -> Result<()> {
        loop {
            let now = self.look();
            if let Some(reason) = self.schedule.due(&self.config, &now) {
                priority::realtime(false);
                self.act(reason, &now, signals);
                priority::realtime(true);
                self.refresh()?;
            }
            let now = self.look();
            self.report(&now);
            self.sleep(&now, signals);
            if signals.arrived().is_some() {
                return Ok(());
            }
            while let Some(signal) = signals.other() {
                match signal {
                    Signal::SIGHUP => {
                        self.reload(load())?;
                    }
                    _ => self.schedule.ask(),
                }
            }
        }
    }
}

impl<'a> Daemon<'a> {
    fn begin(config: Config, tell: &'a mut dyn FnMut(News<'_>)) -> Result<Self> {
        let control = Control::open()?;
        let (urgent, boot) = (Watch::new(&config.urgent)?, Watch::new(&config.merge_on)?);
        let mut daemon = Self {
            config,
            schedule: Schedule::default(),
            control,
            message: Message::about(Name::Root),
            urgent,
            boot,
            last_note: run_dir::read(run_dir::LAST_FLUSH),
            noticed: 0,
            reporter: Reporter::default(),
            tell,
        };
        daemon.refresh()?;
        daemon.schedule = Schedule::new(&daemon.look());
        daemon.schedule.log_in_use(daemon.control.stack()?.logged.is_some());
        Ok(daemon)
    }

    fn reload(&mut self, config: Config) -> Result<()> {
        self.urgent = Watch::new(&config.urgent)?;
        self.boot = Watch::new(&config.merge_on)?;
        self.config = config;
        (self.tell)(News::Note("the configuration was read again"));
        Ok(())
    }

    /// Learns what the log holds, and whether root is still on a stack.
    fn refresh(&mut self) -> Result<()> {
        let stack = self.control.stack()?;
        if stack.root.is_none() {
            return Err(super::settle::explain(crate::stack::Trouble::NotActive));
        }
        self.schedule.log_in_use(stack.logged.is_some());
        self.limit_dirty();
        Ok(())
    }

    /// Written data wait in the page cache, by default up to a fifth of the memory, and all of them
    /// can reach the COW at once: more than it holds. So the kernel is told to keep an eighth of the
    /// COW's size at most. To write them there costs no more than copying memory.
    fn limit_dirty(&mut self) {
        let Some(level) = valve::level(&self.control, &mut self.message) else { return };
        let most = (level.size.0 / 8).max(1 << 20);
        let limits = DirtyLimits { background: most / 2, most, ratios: (0, 0) };
        if DirtyLimits::now().is_some_and(|now| (now.background, now.most) != (most / 2, most)) {
            limits.set();
        }
    }

    fn look(&mut self) -> Now {
        let status = self.control.look(&mut self.message).unwrap_or(SnapshotStatus::Unknown);
        let memory = memory::info().unwrap_or_default();
        let level = valve::level_of(status, &memory);
        let (day, minute) = time::local();
        // Without a COW nothing is pending, whatever is in the page cache.
        let pending = match (level, status) {
            (None, _) => Bytes(0),
            (_, SnapshotStatus::Used(usage)) => {
                Bytes(usage.data().bytes().0.saturating_add(memory.dirty.0))
            }
            (_, _) => Bytes(u64::MAX),
        };
        Now {
            running: time::running(),
            minute,
            day,
            level: level.unwrap_or_default(),
            pending,
            available_percent: memory.available.percent_of(memory.total),
            held: hold::since().is_some(),
        }
    }

    fn report(&mut self, now: &Now) {
        let ends = self.schedule.interval_ends(&self.config);
        for note in self.reporter.report(&self.config, &self.control, now, ends) {
            (self.tell)(News::Note(&note));
        }
    }

    fn act(&mut self, reason: Reason, now: &Now, signals: &mut Held) {
        if hold::end() {
            (self.tell)(News::Note(
                "the hold was ended, since the COW is full: what was held is flushed now",
            ));
        }
        self.reporter.flushing();
        match self.flush(reason, signals) {
            Ok(record) => {
                if let Some(record) = record {
                    (self.tell)(News::Flushed(reason, &record));
                }
                self.reporter.flushed(true);
                self.last_note = run_dir::read(run_dir::LAST_FLUSH);
                let now = self.look_at_clocks(now);
                self.schedule.done(&now);
            }
            Err(error) => {
                // Somebody else flushes: what they do not take, the next look finds.
                if error.exit_code() != Exit::Busy {
                    (self.tell)(News::Failed(reason, &error));
                    self.reporter.flushed(false);
                }
                let now = self.look();
                self.schedule.failed(&self.config, &now);
                self.resort(&now, signals);
            }
        }
    }

    fn look_at_clocks(&self, now: &Now) -> Now {
        Now { running: time::running(), ..*now }
    }

    fn flush(&self, reason: Reason, signals: &mut Held) -> Result<Option<Record>> {
        let mut session =
            Session::begin("daemon", &self.config, signals, Wish::default())?.because(reason);
        if reason == Reason::Idle {
            return session.merge().map(|_| None);
        }
        let how = How {
            merge: reason == Reason::Boot,
            hurry: matches!(reason, Reason::High | Reason::Memory),
            ..How::default()
        };
        Ok(match session.flush(how)? {
            Outcome::Flushed { record, .. } => Some(record),
            Outcome::Nothing => None,
        })
    }

    /// The card or the memory fails, and the COW gets full: the last resort.
    fn resort(&mut self, now: &Now, signals: &mut Held) {
        if now.level.percent() < LAST_RESORT {
            return;
        }
        // A log that can't be written is passed by.
        let through = Session::begin_last("daemon", &self.config, signals, Meter::new())
            .and_then(|mut session| session.give_up_deferring());
        match through {
            Ok(()) => (self.tell)(News::Note(
                "THE COW IS FULL and can't be flushed: writes go straight to the card from now on",
            )),
            Err(error) => (self.tell)(News::Failed(Reason::High, &error)),
        }
    }

    /// Waits until something happens, or could.
    fn sleep(&mut self, now: &Now, signals: &Held) {
        let mark = if now.held { self.config.full_wait } else { self.config.high };
        let deferring = now.level.size > Bytes(0);
        let pause = if deferring { now.level.pause_until(mark) } else { Duration::from_secs(1) };
        let most = pause.as_millis() as u64;
        let wait = self.schedule.sleep(&self.config, now, most).max(1);
        let mut descriptors = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.urgent.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.boot.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(wait as i32).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut descriptors, timeout);
        if self.urgent.changed() {
            self.schedule.urgent(now);
        }
        if self.boot.changed() {
            self.schedule.boot_files(now);
        }
        self.notice_others(now);
    }

    /// A flush by hand counts as one.
    fn notice_others(&mut self, now: &Now) {
        if now.running < self.noticed.saturating_add(NOTICE_EVERY) {
            return;
        }
        self.noticed = now.running;
        let note = run_dir::read(run_dir::LAST_FLUSH);
        if note != self.last_note {
            self.last_note = note;
            self.reporter.flushed(true);
            self.schedule.flushed_by_hand(now);
            let _ = self.refresh();
        }
    }
}
