//! Samples the clocks, root's COW and the memory.

use super::Daemon;
use crate::error::Result;
use crate::flush::{errors, flushlog};
use crate::notes::{hold, settings};
use crate::pure::dm::SnapshotStatus;
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::policy::schedule::Sample;
use crate::pure::stack::PlanError;
use crate::pure::units::Bytes;
use crate::sys::{memory, time};

impl Daemon<'_> {
    /// Takes a whole sample.
    pub(super) fn sample(&mut self) -> Sample {
        let status = self.status();
        let memory = memory::info().unwrap_or_default();
        let level = self.cow_limits.level(status, &memory);
        let (day, minute) = time::local();
        let hold = hold::read();
        let pending = match status {
            SnapshotStatus::Used(usage) => {
                let written = usage.data().bytes().0.saturating_add(memory.dirty.0);
                Bytes(written.saturating_add(self.sealed.0))
            }
            // Without a COW nothing is pending, whatever is in the page cache.
            SnapshotStatus::Unknown => Bytes(0),
            _ => Bytes::MAX,
        };
        Sample {
            running: time::running(),
            minute,
            day,
            level: level.unwrap_or_default(),
            pending,
            in_time: self.in_time,
            ram: memory.total,
            available_percent: memory.available.percent_of(memory.total),
            pressed: self.pressed,
            held: hold.is_some(),
            lost: status == SnapshotStatus::Invalid,
            doubt: hold.is_some_and(|hold| hold.for_log),
        }
    }

    /// The status of root's COW. If the kernel does not answer, for lack of memory, it is what it
    /// was before; so too during the handover of another process's seal, when root's old table is
    /// Invalid.
    pub(super) fn status(&mut self) -> SnapshotStatus {
        let looked = self.control.root_status(&mut self.message);
        let asleep = self.message.is_suspended();
        self.status = seen(self.status, looked.ok(), asleep);
        self.status
    }

    /// Learns what the log holds and what is sealed, and whether root is still on a stack.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let stack = self.control.stack()?;
        if stack.root.is_none() {
            return Err(errors::explain(PlanError::NotActive));
        }
        // While writers wait, a failing card is not read for more than the next flush needs.
        if !self.throttle.is_armed() {
            self.log_capacity = flushlog::log_capacity(&stack);
        }
        self.cow_limits = CowLimits::of(&self.config, &stack, self.log_capacity);
        self.log_in_use = stack.logged.is_some();
        // A sealed COW of which the kernel does not tell holds something.
        self.sealed = stack.sealed_bytes().unwrap_or(Bytes::MAX);
        self.swaps.root = stack.root.map(|root| root.number);
        self.schedule.log_in_use(self.log_in_use);
        self.limit_dirty();
        Ok(())
    }

    /// Written data wait in the page cache, by default up to a fifth of the memory, and all of them
    /// can reach the COW at once: more than it holds. So the daemon has the kernel keep at most an
    /// eighth of the COW's size. Writing them to the COW costs no more than copying memory.
    fn limit_dirty(&mut self) {
        let level = self.sample().level;
        if level.size == Bytes(0) {
            return;
        }
        settings::limit_dirty((level.size.0 / 8).max(1 << 20));
    }
}

/// The status of a COW after a poll that may have failed.
pub(super) fn seen(
    before: SnapshotStatus,
    now: Option<SnapshotStatus>,
    asleep: bool,
) -> SnapshotStatus {
    now.filter(|now| !(asleep && *now == SnapshotStatus::Invalid)).unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_fails_changes_nothing() {
        use SnapshotStatus::{Invalid, Overflow, Unknown};
        for before in [Unknown, Overflow, Invalid] {
            for asleep in [false, true] {
                assert_eq!(seen(before, None, asleep), before);
                assert_eq!(seen(before, Some(Overflow), asleep), Overflow);
                assert_eq!(seen(before, Some(Unknown), asleep), Unknown, "it writes through");
            }
            assert_eq!(seen(before, Some(Invalid), false), Invalid);
            assert_eq!(seen(before, Some(Invalid), true), before, "during a handover");
        }
    }
}
