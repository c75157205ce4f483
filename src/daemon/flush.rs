//! Flushes when something is due, and handles a flush that fails.

use super::Daemon;
use crate::error::{Exit, Result};
use crate::flush::session::{FlushOptions, Outcome, Session};
use crate::notes::hold;
use crate::pure::config::{HoldFull, OnOverflow};
use crate::pure::policy::schedule::{self, Done, Reason, Sample};
use crate::pure::policy::throttle::Level;
use crate::pure::stack::Goal;
use crate::sys::process::Program;
use crate::sys::signals::Held;
use crate::sys::{lock, priority};

/// The daemon no longer waits for a reboot when this share of the COW is in use, in percent.
const ALMOST_FULL: u64 = 95;

/// What the daemon did about what was due.
enum Did {
    /// Nothing: another command is at work.
    Nothing,
    /// What was due was done; if it was a flush, with its outcome.
    Flushed(Option<Outcome>),
}

impl Daemon<'_> {
    /// Does what is due. Returns a sample taken afterwards.
    pub(super) fn act(
        &mut self,
        reason: Reason,
        now: &Sample,
        signals: &mut Held,
    ) -> Result<Sample> {
        if hold::since().is_some() != now.held {
            // A hold began or ended since the sample.
            return Ok(self.sample());
        }
        if now.held && self.config.hold_full == HoldFull::Discard {
            self.discard(now);
            return Ok(self.sample());
        }
        if hold::end() {
            let kept = "the hold was ended, since the COW is full: what was held is flushed now";
            self.notify.log(kept);
        }
        self.reporter.flushing();
        let flushed = self.flush(reason, signals);
        // A flush that a signal ended, or that did not begin, leaves as little room as one that
        // failed.
        let failed = !matches!(flushed, Ok(Did::Flushed(_)));
        // A flush that failed may have left something sealed, which leaves less room.
        self.refresh()?;
        let now = self.sample();
        self.keep_room(&now.level, failed);
        match flushed {
            Ok(Did::Nothing) => self.schedule.busy(&now),
            Ok(Did::Flushed(outcome)) => {
                let complaints = outcome.as_ref().map(Outcome::complaints).unwrap_or_default();
                match outcome.as_ref().and_then(Outcome::record) {
                    Some(record) => {
                        self.notify.log(&format!("flushed ({reason}): {record}{complaints}"))
                    }
                    None if complaints.is_empty() => {}
                    None => self.notify.log(complaints.trim_start()),
                }
                self.reporter.flushed(complaints.is_empty());
                self.reread_last_note();
                self.schedule.spend(reason, &self.config, &now);
                let done = match reason {
                    Reason::Idle => Done::Merge,
                    _ => Done::Flush { on_card: !self.log_in_use },
                };
                self.schedule.done(done, &now);
            }
            // A signal told the daemon to end: nothing has failed, and what is not flushed yet is
            // not lost either.
            Err(error) if error.exit_code() == Exit::Interrupted => {}
            Err(error) => {
                self.notify.log(&format!("flush ({reason}) failed: {error}"));
                self.schedule.failed(&now);
                // The program that froze root also keeps writers away from the COW.
                if error.exit_code() == Exit::Busy {
                    return Ok(now);
                }
                self.reporter.flushed(false);
                if schedule::is_pressing(&self.config, &now) {
                    self.resort(signals);
                    self.refresh()?;
                    return Ok(self.sample());
                }
            }
        }
        Ok(now)
    }

    fn flush(&mut self, reason: Reason, signals: &mut Held) -> Result<Did> {
        let path = match reason {
            Reason::Urgent => self.urgent.last(),
            Reason::Boot { .. } => self.boot.last(),
            _ => String::new(),
        };
        let Self { throttle, control, config, .. } = self;
        let session = match Session::behind(throttle, control.clone(), config, signals) {
            // Another process flushes: what it does not cover, the next sample finds.
            Err(error) if error.exit_code() == Exit::Busy => return Ok(Did::Nothing),
            session => session?,
        };
        let mut session = session.because(reason, path).settled(Goal::default())?;
        if reason == Reason::Idle {
            session.merge()?;
            return Ok(Did::Flushed(None));
        }
        let outcome = session.flush(options(reason))?;
        if reason == (Reason::Boot { merge: true }) {
            // Merges what an earlier flush left in the log as well: a flush with nothing to do
            // merges nothing.
            session.merge()?;
        }
        Ok(Did::Flushed(Some(outcome)))
    }

    /// Drops what is on trial by a reboot. If the COW fills up before the reboot ends, it reboots
    /// at once: nothing on root would be kept anyway.
    fn discard(&mut self, now: &Sample) {
        if !self.rebooting {
            self.rebooting = true;
            self.notify.log("the hold has filled the COW: rebooting, what was held is dropped");
            priority::realtime(false);
            // The daemon does not wait for it: it may wait for root.
            if Program::start(c"reboot", c"reboot").is_ok() {
                return;
            }
        } else if now.level.percent_of_limit() < ALMOST_FULL {
            return;
        }
        if let Err(error) = hold::discard(true) {
            self.notify.log(&error.to_string());
        }
    }

    /// Keeps the throttle armed after a flush while the COW is so full that the next flush is due,
    /// so that no writer fills it up in between; after a failed flush it arms it for such a COW.
    /// With much room it releases the throttle, so that messages need not be deferred. While the
    /// throttle is armed this process has the lock.
    pub(super) fn keep_room(&mut self, level: &Level, failing: bool) {
        if level.percent_of_limit() < self.config.high {
            if self.throttle.is_armed() {
                self.throttle.release();
                lock::release(&self.control);
            }
        } else if failing
            && !self.throttle.is_armed()
            && lock::take(&self.control).is_ok()
            && self.throttle.arm(self.cow_limits).is_err()
        {
            lock::release(&self.control);
        }
        self.notify.defer(self.throttle.is_armed());
    }

    /// Arms the throttle for a full COW while the boot is in doubt about the flush log, when
    /// nothing may be flushed, and logs when writers begin to wait.
    pub(super) fn wait_for_word(&mut self, now: &Sample) {
        let waits = now.doubt && schedule::is_full(&self.config, now);
        if waits && !self.waits_for_word {
            self.notify.log(
                "THE COW IS FULL, and nothing may be flushed before you have decided about the flush log: programs wait. \
                 `cowflush status` says why, `cowflush release` goes on without the log's flushes, a reboot drops what is in RAM",
            );
        }
        self.waits_for_word = waits;
    }

    /// Does what the owner configured for a card or memory that fails while the COW is so full that
    /// writers wait.
    fn resort(&mut self, signals: &mut Held) {
        match self.config.on_overflow {
            OnOverflow::Wait => self
                .notify
                .log("THE COW IS FULL and can't be flushed: programs wait until it can be"),
            OnOverflow::WriteThrough => self.write_through(signals),
        }
    }

    fn write_through(&mut self, signals: &mut Held) {
        let Self { throttle, control, config, .. } = self;
        let through = Session::behind(throttle, control.clone(), config, signals)
            .and_then(Session::settled_anyhow)
            .and_then(|mut session| session.give_up_deferring());
        self.notify.defer(self.throttle.is_armed());
        match through {
            Ok(()) => self.notify.log(
                "THE COW IS FULL and can't be flushed: writes go straight to the card from now on",
            ),
            Err(error) => self.notify.log(&format!("the last resort failed: {error}")),
        }
    }
}

/// How to flush for this reason: a boot loader reads the plain card; a COW that fills up, or memory
/// that is short, leaves no time.
fn options(reason: Reason) -> FlushOptions {
    FlushOptions {
        merge: reason == (Reason::Boot { merge: true }),
        hurry: matches!(reason, Reason::High | Reason::Memory),
        ..FlushOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_boot_files_are_merged_and_only_want_of_room_is_a_hurry() {
        let plain = FlushOptions::default();
        for (reason, wanted) in [
            (Reason::Interval, plain),
            (Reason::At(0), plain),
            (Reason::Urgent, plain),
            (Reason::Asked, plain),
            (Reason::Idle, plain),
            (Reason::Boot { merge: true }, FlushOptions { merge: true, ..plain }),
            (Reason::Boot { merge: false }, plain),
            (Reason::High, FlushOptions { hurry: true, ..plain }),
            (Reason::Memory, FlushOptions { hurry: true, ..plain }),
        ] {
            assert_eq!(options(reason), wanted, "{reason}");
        }
        // The daemon never flushes past the log: a power cut could tear root.
        assert!(!plain.direct);
    }
}
