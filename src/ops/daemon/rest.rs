//! How the daemon waits until something happens, or could.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Daemon;
use crate::daemon::pressure;
use crate::daemon::schedule::Now;
use crate::ops::run_dir;
use crate::sys::psi::Pressure;
use crate::sys::signals::Held;
use crate::units::Bytes;

/// How often the daemon looks for flushes by hand, in milliseconds.
const NOTICE_EVERY: u64 = 1000;

impl Daemon<'_> {
    /// Tells people what is to be told by the way.
    pub(super) fn report(&mut self, now: &Now) {
        let ends = self.schedule.interval_ends(&self.config);
        for note in self.reporter.report(&self.config, &self.control, now, ends) {
            self.voice.tell(&note);
        }
    }

    /// Waits until something happens, or could.
    pub(super) fn rest(&mut self, now: &Now, signals: &Held) {
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
