//! The daemon: looks at clocks and levels, flushes when the schedule says so.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::feeder::Feeder;
use super::flush::{How, Outcome, Session};
use super::report::Reporter;
use super::valve::{Rule, Valve};
use super::voice::Voice;
use super::watch::Watch;
use super::{hold, run_dir, spill, valve};
use crate::config::{Config, HoldFull, OnOverflow};
use crate::daemon::pressure::{self, Level};
use crate::daemon::schedule::{self, Now, Reason, Schedule};
use crate::dm::SnapshotStatus;
use crate::error::{Exit, Result};
use crate::report::record::Record;
use crate::stack::Name;
use crate::sys::dirty::DirtyLimits;
use crate::sys::dm::{Control, Message};
use crate::sys::psi::Pressure;
use crate::sys::signals::Held;
use crate::sys::{lock, memory, mlock, priority, time};
use crate::units::Bytes;

/// A reboot is not waited for when this share of the COW is in use, in percent.
const BRIM: u64 = 95;

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
    pressure: Option<Pressure>,
    /// The kernel has told of memory pressure since the last look.
    pressed: bool,
    /// Holds writers back between a flush that failed and the next try. While it is there nothing
    /// may be done that could wait for root.
    valve: Option<Valve>,
    /// A reboot that drops what is held has begun.
    rebooting: bool,
    last_note: Option<String>,
    noticed: u64,
    reporter: Reporter,
    feeder: Feeder,
    voice: Voice<'a>,
}

/// Runs until SIGTERM or SIGINT. `load` reads the configuration; SIGHUP has it read again.
pub fn run(load: impl Fn() -> Config, mut signals: Held, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let mut daemon = Daemon::begin(load(), Voice::new(tell))?;
    priority::exempt_from_oom_killer();
    mlock::all()?;
    let before = DirtyLimits::now();
    let ended = daemon.work(load, &mut signals);
    // Writers go on before anything is told: whoever listens may be one of them.
    daemon.valve = None;
    if let Some(note) = daemon.feeder.end() {
        daemon.voice.tell(&note);
    }
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
                // While the COW fills up no busy program may come between, until the flush has a valve.
                priority::realtime(matches!(reason, Reason::High | Reason::Memory));
                self.act(reason, &now, signals);
                priority::realtime(true);
                self.refresh()?;
            }
            let now = self.look();
            self.feeder.feed(&now, self.valve.is_some());
            self.guard(&now.level, self.schedule.is_failing());
            if self.valve.is_none() {
                self.report(&now);
            }
            self.sleep(&now, signals);
            if signals.arrived().is_some() {
                return Ok(());
            }
            // The configuration is on root.
            while self.valve.is_none()
                && let Some(signal) = signals.other()
            {
                match signal {
                    Signal::SIGHUP => self.reload(load())?,
                    _ => self.schedule.ask(),
                }
            }
        }
    }
}

impl<'a> Daemon<'a> {
    fn begin(config: Config, voice: Voice<'a>) -> Result<Self> {
        let control = Control::open()?;
        let (urgent, boot) = (Watch::new(&config.urgent)?, Watch::new(&config.merge_on)?);
        let mut daemon = Self {
            config,
            schedule: Schedule::default(),
            control,
            message: Message::about(Name::Root),
            urgent,
            boot,
            pressure: Pressure::watch(),
            pressed: false,
            valve: None,
            rebooting: false,
            last_note: run_dir::read(run_dir::LAST_FLUSH),
            noticed: 0,
            reporter: Reporter::default(),
            feeder: Feeder::default(),
            voice,
        };
        daemon.refresh()?;
        daemon.take_up();
        daemon.schedule = Schedule::new(&daemon.look());
        daemon.schedule.log_in_use(daemon.control.stack()?.logged.is_some());
        Ok(daemon)
    }

    fn reload(&mut self, config: Config) -> Result<()> {
        self.urgent = Watch::new(&config.urgent)?;
        self.boot = Watch::new(&config.merge_on)?;
        self.config = config;
        self.voice.tell("the configuration was read again");
        self.take_up();
        Ok(())
    }

    /// Begins to use what the configuration names: a spill area, a watchdog. What can't be had is
    /// told, and costs no flush.
    fn take_up(&mut self) {
        let spill = self.config.spill.as_ref().map(spill::begin);
        let watchdog = self.feeder.follow(self.config.watchdog.as_deref());
        for error in [spill.and_then(Result::err), watchdog.err()].into_iter().flatten() {
            self.voice.tell(&error.to_string());
        }
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
        let rule = Rule::of(&self.config);
        let level = valve::level(&self.control, &mut self.message, &rule);
        let Some(level) = level else { return };
        let most = (level.size.0 / 8).max(1 << 20);
        let limits = DirtyLimits { background: most / 2, most, ratios: (0, 0) };
        if DirtyLimits::now().is_some_and(|now| (now.background, now.most) != (most / 2, most)) {
            limits.set();
        }
    }

    fn look(&mut self) -> Now {
        let status = self.control.look(&mut self.message).unwrap_or(SnapshotStatus::Unknown);
        let memory = memory::info().unwrap_or_default();
        let level = valve::level_of(status, &memory, &Rule::of(&self.config));
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
            ram: memory.total,
            available_percent: memory.available.percent_of(memory.total),
            pressed: self.pressed,
            held: hold::since().is_some(),
            waiting: self.valve.as_mut().is_some_and(Valve::is_closed),
        }
    }

    fn report(&mut self, now: &Now) {
        let ends = self.schedule.interval_ends(&self.config);
        for note in self.reporter.report(&self.config, &self.control, now, ends) {
            self.voice.tell(&note);
        }
    }

    fn act(&mut self, reason: Reason, now: &Now, signals: &mut Held) {
        if now.held && self.config.hold_full == HoldFull::Discard {
            return self.discard(now);
        }
        if hold::end() {
            let kept = "the hold was ended, since the COW is full: what was held is flushed now";
            self.voice.tell(kept);
        }
        self.reporter.flushing();
        let flushed = self.flush(reason, signals);
        let level = self.look().level;
        self.guard(&level, flushed.is_err());
        match flushed {
            Ok(record) => {
                if let Some(record) = record {
                    self.voice.tell(&format!("flushed ({reason}): {record}"));
                }
                self.reporter.flushed(true);
                self.last_note = run_dir::read(run_dir::LAST_FLUSH);
                let now = self.look_at_clocks(now);
                self.schedule.done(&now);
            }
            // Somebody else flushes: what they do not take, the next look finds.
            Err(error) if error.exit_code() == Exit::Busy => self.schedule.failed(now),
            Err(error) => {
                self.voice.tell(&format!("flush ({reason}) failed: {error}"));
                self.reporter.flushed(false);
                let now = self.look();
                self.schedule.failed(&now);
                self.resort(&now, signals);
            }
        }
    }

    /// Drops what is on trial. A reboot that is under way and does not come to its end before the
    /// COW is full is cut short: nothing on root would be kept anyway.
    fn discard(&mut self, now: &Now) {
        if !self.rebooting {
            self.rebooting = true;
            self.voice.tell("the hold has filled the COW: rebooting, what was held is dropped");
            priority::realtime(false);
            // Not waited for: it may wait for root.
            if Command::new("reboot").spawn().is_ok() {
                return;
            }
        } else if now.level.percent_of_brim() < BRIM {
            return;
        }
        if let Err(error) = hold::discard(true) {
            self.voice.tell(&error.to_string());
        }
    }

    fn look_at_clocks(&self, now: &Now) -> Now {
        Now { running: time::running(), ..*now }
    }

    fn flush(&mut self, reason: Reason, signals: &mut Held) -> Result<Option<Record>> {
        let Self { valve, control, config, .. } = self;
        let mut session = Session::begin_behind(valve, control, config, signals, false)?;
        session = session.because(reason);
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

    /// Between a flush that failed and the next try a COW that fills up needs a valve; one with much
    /// room does without, so that everything can be told at once. With a valve the lock is this
    /// process's.
    fn guard(&mut self, level: &Level, failing: bool) {
        let needed = failing && level.percent_of_brim() >= self.config.high;
        if !needed {
            if self.valve.take().is_some() {
                lock::release(&self.control);
            }
        } else if self.valve.is_none() && lock::take(&self.control).is_ok() {
            self.valve = Valve::tended(&self.control, Rule::of(&self.config)).ok();
            if self.valve.is_none() {
                lock::release(&self.control);
            }
        }
        self.voice.hush(self.valve.is_some());
    }

    /// The card or the memory fails, and the COW is so full that writers wait: what the owner wants
    /// then.
    fn resort(&mut self, now: &Now, signals: &mut Held) {
        if !schedule::is_pressing(&self.config, now) {
            return;
        }
        match self.config.on_overflow {
            OnOverflow::Wait => self
                .voice
                .tell("THE COW IS FULL and can't be flushed: programs wait until it can be"),
            OnOverflow::WriteThrough => self.write_through(signals),
        }
    }

    fn write_through(&mut self, signals: &mut Held) {
        let Self { valve, control, config, .. } = self;
        let through = Session::begin_behind(valve, control, config, signals, true)
            .and_then(|mut session| session.give_up_deferring());
        self.voice.hush(self.valve.is_some());
        match through {
            Ok(()) => self.voice.tell(
                "THE COW IS FULL and can't be flushed: writes go straight to the card from now on",
            ),
            Err(error) => self.voice.tell(&format!("the last resort failed: {error}")),
        }
    }

    /// Waits until something happens, or could.
    fn sleep(&mut self, now: &Now, signals: &Held) {
        let mark = if now.held { self.config.full_wait } else { self.config.high };
        let deferring = now.level.size > Bytes(0);
        let pause = match &self.valve {
            // That looks after the COW.
            Some(_) => pressure::SLOW,
            None if deferring => now.level.pause_until(mark),
            None => Duration::from_secs(1),
        };
        let most = pause.as_millis() as u64;
        let wait = self.schedule.sleep(&self.config, now, most).max(1);
        self.pressed = self.wait(wait, signals);
        // To watch new folders is to read root.
        if self.valve.is_some() {
            return;
        }
        if self.urgent.changed() {
            self.schedule.urgent(now);
        }
        if self.boot.changed() {
            self.schedule.boot_files(now);
        }
        self.notice_others(now);
    }

    /// Waits for so many milliseconds, or until something happens. Returns whether the kernel told of
    /// memory pressure.
    fn wait(&self, millis: u64, signals: &Held) -> bool {
        let mut descriptors = heapless::Vec::<PollFd<'_>, 4>::new();
        let mut add = |fd, event| drop(descriptors.push(PollFd::new(fd, event)));
        add(signals.as_fd(), PollFlags::POLLIN);
        if self.valve.is_none() {
            add(self.urgent.as_fd(), PollFlags::POLLIN);
            add(self.boot.as_fd(), PollFlags::POLLIN);
        }
        if let Some(pressure) = &self.pressure {
            add(pressure.as_fd(), Pressure::EVENT);
        }
        let timeout = PollTimeout::try_from(millis as i32).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut descriptors, timeout);
        let mut events = descriptors.iter().filter_map(PollFd::revents);
        events.any(|events| events.contains(Pressure::EVENT))
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
