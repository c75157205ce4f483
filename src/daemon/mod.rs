//! The daemon: watches the clocks, root's COW and the memory, and flushes when the schedule says
//! so.
//!
//! sample    what it sees of the clocks, root's COW and the memory
//! flush     flushes, and what becomes of a flush that fails
//! wait      waits until something happens, or could
//! swaps     swap on root is given up
//! report    tells people where things are: note, led, the file for Prometheus
//! notify    what it logs, and what it defers while root is suspended
//! watchdog  the machine's watchdog

mod flush;
mod led;
mod notify;
mod report;
mod sample;
mod swaps;
mod wait;
mod watchdog;

use nix::sys::signal::Signal;

use self::notify::Notify;
use self::report::Reporter;
use self::swaps::Swaps;
use self::watchdog::Watchdog;
use crate::error::Result;
use crate::flush::{errors, flushlog, session};
use crate::notes::{run_dir, settings, spill};
use crate::pure::config::Config;
use crate::pure::dm::SnapshotStatus;
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::policy::schedule::{SHUTDOWN, Sample, Schedule};
use crate::pure::report::record::Record;
use crate::pure::stack::{Name, PlanError};
use crate::pure::units::Bytes;
use crate::sys::dm::{Control, Message};
use crate::sys::psi::Pressure;
use crate::sys::signals::Held;
use crate::sys::watch::{Mounts, Watch};
use crate::throttle::Throttle;

/// The daemon's state between two samples.
struct Daemon<'a> {
    config: Config,
    schedule: Schedule,
    control: Control,
    message: Box<Message>,
    /// The status of root's COW at the last sample.
    status: SnapshotStatus,
    /// Whether it was logged that root's COW was lost.
    told_lost: bool,
    /// The limits by which root's COW is judged, and how much one flush can put into the flush log;
    /// both as of the last [`Daemon::refresh`].
    cow_limits: CowLimits,
    log_capacity: Bytes,
    urgent: Watch,
    boot: Watch,
    mounts: Mounts,
    /// A mount came or went since the last wait.
    mounted: bool,
    /// Whether it was logged that changes come too often.
    told_often: bool,
    /// The flush log holds something that the card does not, as of the last [`Daemon::refresh`].
    log_in_use: bool,
    /// What a flush that did not end has left sealed in RAM.
    sealed: Bytes,
    pressure: Option<Pressure>,
    /// The kernel has reported memory pressure since the last sample.
    pressed: bool,
    /// Holds writers back during a flush, and after a failed one until the next try. While it is
    /// armed the daemon must do nothing that could wait for root.
    throttle: Throttle,
    /// Whether this system's boot was noted in the log as a success.
    reached: bool,
    /// Whether it was logged that programs wait for the owner's decision.
    waits_for_word: bool,
    /// A reboot that drops what is held has begun.
    rebooting: bool,
    last_note: Option<String>,
    /// What the card takes in the time that a shutdown has, by the speed of a flush that was large
    /// enough to tell.
    in_time: Option<Bytes>,
    /// Whether it was logged that more is held than a shutdown could put on the card.
    told_beyond: bool,
    noticed: u64,
    reporter: Reporter,
    watchdog: Watchdog,
    swaps: Swaps,
    notify: Notify<'a>,
}

/// Reads the configuration. Returns it with what was not understood, which the daemon logs.
type Load = fn() -> (Config, Vec<String>);

/// Runs until SIGTERM or SIGINT. `load` reads the configuration; SIGHUP has it read again.
pub fn run(load: Load, mut signals: Held, log: &mut dyn FnMut(&str)) -> Result<()> {
    // For all its sessions, and for the throttle's worker. Real-time priority except in the long
    // parts of a flush: no busy program may delay a poll of the COW.
    let (config, complaints) = load();
    complaints.iter().for_each(|complaint| log(complaint));
    session::prepare_process()?;
    let _settings = Settings;
    let mut daemon = Daemon::begin(config, Notify::new(log))?;
    let ended = daemon.work(load, &mut signals);
    daemon.end();
    ended
}

/// Puts the page cache's limits back when the daemon ends. After a kill the next daemon does so.
struct Settings;

impl Drop for Settings {
    fn drop(&mut self) {
        settings::restore(&settings::dirty());
    }
}

impl<'a> Daemon<'a> {
    fn begin(config: Config, notify: Notify<'a>) -> Result<Self> {
        let control = Control::open()?;
        // The worker's process is started now, while there is memory for it.
        let throttle = Throttle::ready(&control)?;
        let stack = control.stack()?;
        // Before the watches: a mount from now on makes the daemon look for them again.
        let mounts = Mounts::watch()?;
        let root = stack.root.map(|root| root.number);
        let (urgent, boot) = (Watch::new(&config.urgent, root), Watch::new(&config.merge_on, root));
        let log_capacity = flushlog::log_capacity(&stack);
        let mut daemon = Self {
            cow_limits: CowLimits::of(&config, &stack, log_capacity),
            log_capacity,
            config,
            schedule: Schedule::default(),
            control,
            message: Message::about(Name::Root),
            status: stack.root.map_or(SnapshotStatus::Unknown, |root| {
                sample::seen(SnapshotStatus::Unknown, Some(root.status()), root.suspended)
            }),
            told_lost: false,
            urgent,
            boot,
            mounts,
            mounted: false,
            told_often: false,
            log_in_use: stack.logged.is_some(),
            sealed: Bytes(0),
            pressure: Pressure::watch(),
            pressed: false,
            throttle,
            reached: false,
            waits_for_word: false,
            rebooting: false,
            last_note: None,
            in_time: None,
            told_beyond: false,
            noticed: 0,
            reporter: Reporter::default(),
            watchdog: Watchdog::default(),
            swaps: Swaps::default(),
            notify,
        };
        daemon.reread_last_note();
        daemon.refresh()?;
        daemon.take_up();
        daemon.schedule = Schedule::new(&daemon.sample());
        daemon.schedule.log_in_use(daemon.log_in_use);
        // A flush whose processes were all killed leaves root asleep or frozen: the next one wakes
        // it up. If another process is at work instead, this flush comes after it, with little to
        // do.
        if stack.devices().any(|device| device.suspended) || run_dir::has_frozen() {
            daemon.schedule.ask();
        }
        Ok(daemon)
    }

    fn work(&mut self, load: Load, signals: &mut Held) -> Result<()> {
        while self.step(load, signals)? {}
        Ok(())
    }

    /// Samples, does what is due, reports, and waits. Returns whether the daemon goes on: no signal
    /// told it to end.
    fn step(&mut self, load: Load, signals: &mut Held) -> Result<bool> {
        let mut now = self.sample();
        if now.lost && !std::mem::replace(&mut self.told_lost, true) {
            self.notify.log(&errors::explain(PlanError::Lost(Name::Root)).to_string());
            self.reporter.flushed(false);
        }
        self.tell_beyond(&now);
        if let Some(reason) = self.schedule.due(&self.config, &now) {
            now = self.act(reason, &now, signals)?;
        } else {
            self.keep_room(&now.level, self.schedule.is_failing() || now.doubt);
            self.wait_for_word(&now);
        }
        self.watchdog.feed(&now, self.throttle.is_armed());
        if !self.throttle.is_armed() {
            self.report(&now);
        }
        // Before the wait: a signal that came during a flush has ended the flush.
        if signals.has_ended() {
            return Ok(false);
        }
        self.wait(&now, signals);
        if signals.has_ended() {
            return Ok(false);
        }
        // The configuration is on root, which may be suspended while the throttle is armed.
        while !self.throttle.is_armed()
            && let Some(signal) = signals.other()
        {
            match signal {
                Signal::SIGHUP => self.reload(load())?,
                _ => self.schedule.ask(),
            }
        }
        Ok(true)
    }

    fn end(&mut self) {
        // Writers go on before anything is logged: the reader of the log may be one of them.
        self.throttle.release();
        if let Some(note) = self.watchdog.end() {
            self.notify.log(&note);
        }
        self.reporter.end();
    }

    /// A hold keeps everything in RAM, however slow the card is.
    fn tell_beyond(&mut self, now: &Sample) {
        let beyond = now.held && !now.doubt && now.is_beyond_shutdown();
        if beyond && !std::mem::replace(&mut self.told_beyond, beyond) {
            self.notify.log(&format!(
                "{} are held, more than the card takes in the time that a shutdown has: `cowflush release`, and wait for \
                 the flush, before you switch off",
                now.level.used
            ));
        }
        self.told_beyond = beyond;
    }

    /// Reads the note of the last flush again. Returns whether it is another one.
    fn reread_last_note(&mut self) -> bool {
        let note = run_dir::read(run_dir::LAST_FLUSH);
        let changed = note != self.last_note;
        if let Some(text) = note.as_ref().filter(|_| changed) {
            self.in_time = Record::parse(text).card_takes(SHUTDOWN).or(self.in_time);
        }
        self.last_note = note;
        changed
    }

    fn reload(&mut self, (config, complaints): (Config, Vec<String>)) -> Result<()> {
        complaints.iter().for_each(|complaint| self.notify.log(complaint));
        let root = self.control.stack()?.root.map(|root| root.number);
        self.urgent = Watch::new(&config.urgent, root);
        self.boot = Watch::new(&config.merge_on, root);
        (self.config, self.told_often) = (config, false);
        self.notify.log("the configuration was read again");
        self.take_up();
        self.refresh()
    }

    /// Begins to use what the configuration names: a spill area, a watchdog. If one can't be used,
    /// it logs that and goes on.
    fn take_up(&mut self) {
        let spill = self.config.spill.as_ref().map(spill::begin);
        let watchdog = self.watchdog.follow(self.config.watchdog.as_deref());
        for error in [spill.and_then(Result::err), watchdog.err()].into_iter().flatten() {
            self.notify.log(&error.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
