//! How the daemon waits until something happens, or could.

use std::time::Duration;

use super::Daemon;
use crate::flush::flushlog;
use crate::notes::run_dir;
use crate::pure::dm::SnapshotStatus;
use crate::pure::flushlog::boot_count;
use crate::pure::policy::schedule::Sample;
use crate::pure::policy::throttle::{self, Level};
use crate::pure::units::Bytes;
use crate::sys::events::{self, Sources};
use crate::sys::signals::Held;
use crate::sys::time;

/// How often the daemon samples everything when nothing happens; between two samples it polls the
/// COW.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What ends a wait.
#[derive(PartialEq)]
enum Event {
    /// Programs wait for memory.
    Pressure,
    /// A signal, a change under a watched path, or a mount.
    Other,
}

/// How often the daemon looks for flushes by hand, in milliseconds.
const NOTICE_EVERY: u64 = 1000;

impl Daemon<'_> {
    /// Reports to people, and notes things in the log that may wait.
    pub(super) fn report(&mut self, now: &Sample) {
        if now.running >= boot_count::MINUTES * 60_000
            && !std::mem::replace(&mut self.reached, true)
        {
            // An error is ignored: another process at work writes to the log, which says the same.
            let _ = flushlog::count_boots::reached(&self.control);
        }
        let ends = self.schedule.interval_ends(&self.config);
        let changes = self.schedule.changes_due(&self.config);
        for note in self.reporter.report(&self.config, &self.control, now, ends, changes) {
            self.notify.log(&note);
        }
        if self.schedule.is_put_off(&self.config, now)
            && !std::mem::replace(&mut self.told_often, true)
        {
            let kinds = changes.into_iter().zip([&self.urgent, &self.boot]);
            let path = kinds.max_by_key(|(due, _)| *due).map(|(_, watch)| watch.last());
            self.notify.log(&format!(
                "{} changes again and again: flushes for such changes are `urgent-pause` apart from now on, and a power \
                 cut may cost that much of them. Leave it out, if it need not be kept so soon: `!PATH` in `urgent`",
                path.unwrap_or_default()
            ));
        }
    }

    /// Waits until something happens, or could have, so that a whole sample is needed.
    pub(super) fn wait(&mut self, now: &Sample, signals: &Held) {
        let most = match self.throttle.is_armed() {
            // The armed throttle watches the COW.
            true if self.schedule.is_failing() || now.doubt => throttle::SLOW,
            // The next flush is due.
            true => Duration::from_millis(1),
            false => LOOK_EVERY,
        };
        let until =
            now.running + self.schedule.sleep(&self.config, now, most.as_millis() as u64).max(1);
        let mut level = now.level;
        self.pressed = false;
        while let Some(left) = until.checked_sub(time::running()).filter(|left| *left > 0) {
            let happened = self.poll(left.min(self.pause(&level, now)), signals);
            self.pressed = happened == Some(Event::Pressure);
            if happened.is_some() {
                break;
            }
            match self.poll_cow(level) {
                Some(polled) => level = polled,
                None => break,
            }
        }
        // Watching new folders reads root, which may be suspended.
        if self.throttle.is_armed() {
            return;
        }
        // What ended the wait came just now.
        let now = &Sample { running: time::running(), ..*now };
        let mounted = std::mem::take(&mut self.mounted);
        if self.urgent.changed(mounted).is_some() {
            self.schedule.urgent(now);
        }
        if let Some(change) = self.boot.changed(mounted) {
            self.schedule.boot_files(change.on_root, now);
        }
        for complaint in [self.urgent.complaint(), self.boot.complaint()].into_iter().flatten() {
            self.notify.log(&complaint);
        }
        self.notice_others(now);
    }

    /// How long the COW need not be polled, in milliseconds.
    fn pause(&self, level: &Level, now: &Sample) -> u64 {
        if self.throttle.is_armed() || level.size == Bytes(0) {
            return u64::MAX;
        }
        // In doubt about the flush log the throttle is armed from `high` on.
        let mark = if now.held && !now.doubt { self.config.full_wait } else { self.config.high };
        level.pause_until(mark).as_millis() as u64
    }

    /// Polls the COW alone, with one ioctl: the page cache and the memory change it little in the
    /// meantime ([`Daemon::limit_dirty`]). `None`: it has changed so much that a whole sample is
    /// needed.
    fn poll_cow(&mut self, level: Level) -> Option<Level> {
        if self.throttle.is_armed() || level.size == Bytes(0) {
            return Some(level);
        }
        match self.control.root_status(&mut self.message) {
            Ok(SnapshotStatus::Used(usage)) => level.polled(usage.allocated.bytes()),
            _ => None,
        }
    }

    /// Waits for `millis` milliseconds, or until something happens.
    fn poll(&mut self, millis: u64, signals: &Held) -> Option<Event> {
        // What changed under a path can't be looked at while root may be suspended.
        let awake = !self.throttle.is_armed();
        let watches = [&self.urgent, &self.boot];
        let sources = Sources {
            signals,
            watches: if awake { &watches } else { &[] },
            mounts: awake.then_some(&self.mounts),
            pressure: self.pressure.as_ref(),
        };
        let happened = events::wait(&sources, millis);
        self.mounted |= happened.mounted;
        match happened.pressed {
            true => Some(Event::Pressure),
            false => happened.any.then_some(Event::Other),
        }
    }

    /// Counts a flush by hand as one of the schedule's.
    fn notice_others(&mut self, now: &Sample) {
        if now.running < self.noticed.saturating_add(NOTICE_EVERY) {
            return;
        }
        let before = std::mem::replace(&mut self.noticed, now.running);
        self.give_up_swap(now.running);
        if self.reread_last_note() {
            self.reporter.flushed(true);
            let _ = self.refresh();
            // It ended since the last check, and began that much earlier.
            let took = run_dir::last_flush().map_or(0, |record| record.took_ms);
            let since = before.saturating_sub(took);
            self.schedule.flushed_by_hand(!self.log_in_use, since, now);
        }
    }
}
