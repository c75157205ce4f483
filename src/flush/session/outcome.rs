//! The options of a flush, and its outcome.
//!
//! A command reports its success only from an [`Outcome`], which only this file makes, from what
//! was seen during the flush.

use std::fmt;

use nix::errno::Errno;

use crate::error::Exit;
use crate::pure::report::record::Record;
use crate::pure::units::Bytes;
use crate::sys::syncing::{Synced, WrittenOut};

/// The options of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushOptions {
    /// Merge into the card without the flush log.
    pub direct: bool,
    /// Merge the flush log afterwards, however little it holds.
    pub merge: bool,
    /// The COW fills up: don't write out the page cache first.
    pub hurry: bool,
}

impl FlushOptions {
    /// Whether a flush merges the log that it left `log_used` percent full, where the configuration
    /// says to merge from `mark` on.
    ///
    /// While the COW fills up quickly there is no time for a merge, after which the writers would
    /// be let go with little room left. When the log has no room a flush merges by itself, with the
    /// sealed COW still held.
    pub(super) fn merges(self, log_used: u64, mark: u64) -> bool {
        self.merge || (log_used >= mark && !self.hurry)
    }
}

/// What a command did, and whether all that programs had written when it began is durable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    record: Option<Record>,
    incomplete: Option<Incomplete>,
    refused: Option<String>,
}

/// What was seen while a filesystem was flushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Its COW has overflowed, now or earlier in this boot, so that it was refused writes.
    pub overflowed: bool,
    /// It was written out.
    pub synced: Synced,
    /// It was frozen, which writes it out as well.
    pub frozen: bool,
}

impl Seen {
    fn incomplete(self) -> Option<Incomplete> {
        match self {
            Self { overflowed: true, .. } => Some(Incomplete::Overflow),
            Self { synced: Synced::Failed(errno), .. } => Some(Incomplete::Sync(errno)),
            Self { synced: Synced::Done(WrittenOut { .. }), .. } | Self { frozen: true, .. } => {
                None
            }
            Self { .. } => Some(Incomplete::Unfrozen),
        }
    }
}

impl Outcome {
    /// The outcome of a flush that made data durable.
    pub(super) fn flushed(record: Record, seen: Seen) -> Self {
        // Writes during the write-out are whole only if the filesystem was frozen.
        let unfrozen = (!seen.frozen).then_some(Incomplete::Unfrozen);
        Self { record: Some(record), incomplete: seen.incomplete().or(unfrozen), refused: None }
    }

    /// The outcome of a flush that found nothing in the COW; what programs wrote may still be in
    /// the page cache.
    pub(super) fn nothing(seen: Seen) -> Self {
        Self { record: None, incomplete: seen.incomplete(), refused: None }
    }

    /// The outcome for what an earlier command had sealed, or for what programs wrote after this
    /// command had written everything out.
    pub(super) fn remainder(record: Option<Record>) -> Self {
        Self { record, incomplete: None, refused: None }
    }

    /// How much was made durable, and how long that took; `None` when there was nothing to do.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// As [`Self::record`], to be added to.
    pub(super) fn record_mut(&mut self) -> Option<&mut Record> {
        self.record.as_mut()
    }

    /// Why not everything could be flushed.
    pub fn incomplete(&self) -> Option<Incomplete> {
        self.incomplete
    }

    /// The card's first error, where the command then succeeded in another way.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Adds the card's error.
    pub(super) fn after(self, refused: Option<String>) -> Self {
        Self { refused: self.refused.or(refused), ..self }
    }

    /// The command's exit code.
    pub fn exit(&self) -> Exit {
        match (self.incomplete, &self.refused) {
            (Some(_), _) => Exit::Failed,
            (None, Some(_)) => Exit::Card,
            (None, None) => Exit::Done,
        }
    }

    /// What went wrong, a line each, for the owner; empty when nothing did.
    pub fn complaints(&self) -> String {
        let mut text = String::new();
        if let Some(incomplete) = self.incomplete {
            text.push_str(&format!("\n{incomplete}"));
        }
        if let Some(refused) = &self.refused {
            text.push_str(&format!("\nThe card had failed before: {refused}"));
        }
        text
    }

    /// The last line of a stop before the machine goes down.
    pub fn last_word(&self) -> String {
        let saved = if self.incomplete.is_none() { "all data are on the card." } else { "" };
        format!("{saved}{}", self.complaints()).trim_start().to_owned()
    }

    /// Adds the outcome of a later part of the same command.
    pub fn and(self, later: Self) -> Self {
        let record = match (self.record, later.record) {
            (Some(first), Some(mut record)) => {
                record.bytes.0 += first.bytes.0;
                record.took_ms += first.took_ms;
                record.log_ms += first.log_ms;
                record.merge_ms += first.merge_ms;
                record.logged.0 += first.logged.0;
                record.merged.0 += first.merged.0;
                record.stall_us = record.stall_us.max(first.stall_us);
                record.pruned.0 += first.pruned.0;
                if record.not_pruned.is_empty() {
                    record.not_pruned = first.not_pruned;
                }
                Some(record)
            }
            (first, record) => first.or(record),
        };
        let incomplete = self.incomplete.or(later.incomplete);
        Self { record, incomplete, refused: self.refused.or(later.refused) }
    }
}

/// Why a flush could not save everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The COW was full: the filesystem was refused writes.
    Overflow,
    /// The filesystem could not write everything out.
    Sync(Errno),
    /// The filesystem could not be frozen.
    Unfrozen,
}

impl fmt::Display for Incomplete {
    /// Writes what it means for the owner.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overflow => {
                f.write_str("The COW had overflowed: the filesystem was refused writes.")?
            }
            Self::Unfrozen => f.write_str(
                "The filesystem could not be frozen: it has errors, another program froze it, or RAM \
                 had no room for what it would have written out.",
            )?,
            Self::Sync(errno) => {
                write!(f, "The filesystem could not write everything out: {}.", errno.desc())?
            }
        }
        f.write_str(
            " What it had written before is on the card now. Reboot and let the filesystem be \
             checked; raise cowflush.size or flush more often.",
        )
    }
}

/// What a power cut would cost after a failed stop. `flushed`: the stop had made everything durable
/// before it failed. `pending`: how much is in RAM only, where that is known. `logged`: the log
/// holds something.
pub fn at_risk(flushed: bool, pending: Option<Bytes>, logged: bool) -> String {
    match (pending, flushed && logged) {
        (Some(Bytes(0)), true) => {
            "all data are safe in the flush log; the next boot goes on with it.".to_owned()
        }
        (Some(Bytes(0)) | None, _) => {
            "NOT CERTAIN TO BE ON THE CARD: what was written since the last flush.".to_owned()
        }
        (Some(pending), _) => {
            format!("NOT ON THE CARD: {pending} that were written since the last flush.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::units::Bytes;

    const DONE: Synced = Synced::Done(WrittenOut::FOR_TESTS);
    const EIO: Synced = Synced::Failed(Errno::EIO);

    const WELL: Seen = Seen { overflowed: false, synced: DONE, frozen: true };

    fn record(by: u64) -> Record {
        Record {
            when: by as i64,
            bytes: Bytes(by),
            logged: Bytes(10 * by),
            merged: Bytes(100 * by),
            took_ms: 1000 * by,
            log_ms: 10_000 * by,
            merge_ms: 100_000 * by,
            stall_us: 7 + by,
            pruned: Bytes(1_000_000 * by),
            ..Record::default()
        }
    }

    fn every() -> Vec<Seen> {
        let mut all = Vec::new();
        for overflowed in [false, true] {
            for synced in [DONE, EIO, Synced::Unknown] {
                all.extend([false, true].map(|frozen| Seen { overflowed, synced, frozen }));
            }
        }
        all
    }

    #[test]
    fn a_flush_is_complete_only_if_the_filesystem_was_frozen_and_nothing_was_refused() {
        for seen in every() {
            let flushed = Outcome::flushed(record(1), seen);
            let well = seen.frozen && seen.synced != EIO && !seen.overflowed;
            assert_eq!(flushed.incomplete().is_none(), well, "{seen:?}");
            assert_eq!(flushed.exit(), if well { Exit::Done } else { Exit::Failed }, "{seen:?}");
            assert_eq!(flushed.complaints().is_empty(), well, "{seen:?}");
        }
    }

    #[test]
    fn nothing_is_up_to_date_that_was_not_written_out() {
        for seen in every() {
            let nothing = Outcome::nothing(Seen { frozen: false, ..seen });
            let well = seen.synced == DONE && !seen.overflowed;
            assert_eq!(nothing.incomplete().is_none(), well, "{seen:?}");
            assert_eq!(nothing.last_word() == "all data are on the card.", well, "{seen:?}");
            assert_eq!(nothing.exit(), if well { Exit::Done } else { Exit::Failed }, "{seen:?}");
        }
    }

    #[test]
    fn what_one_part_of_a_command_lacked_a_later_one_does_not_make_good() {
        let outcomes = || {
            let of = |seen: Seen| [Outcome::flushed(record(1), seen), Outcome::nothing(seen)];
            every().into_iter().flat_map(of).chain([Outcome::remainder(None)])
        };
        for first in outcomes() {
            for second in outcomes() {
                let lacked = first.incomplete().or(second.incomplete());
                let both = first.clone().and(second);
                assert_eq!(both.incomplete(), lacked);
                assert_eq!(both.exit() == Exit::Failed, lacked.is_some());
                assert_eq!(both.last_word().contains("all data"), lacked.is_none());
            }
        }
    }

    #[test]
    fn a_refusal_of_the_card_is_told_though_all_is_saved_another_way() {
        let refused = || Some("cannot write sectors 1 to 8 of /dev/sda2: I/O error.".to_owned());
        let well = Outcome::flushed(record(1), WELL);
        for outcome in [
            well.clone().after(refused()),
            well.clone().after(refused()).and(well.clone()),
            well.clone().and(well.clone().after(refused())),
        ] {
            assert_eq!((outcome.exit(), outcome.incomplete()), (Exit::Card, None));
            let said = outcome.last_word();
            assert!(said.starts_with("all data are on the card.\n"), "{said}");
            assert!(said.contains("The card had failed before: cannot write sectors 1"), "{said}");
        }
        let worse = Outcome::nothing(Seen { synced: EIO, ..WELL }).after(refused());
        assert_eq!((worse.exit(), worse.complaints().lines().count()), (Exit::Failed, 3));
        assert_eq!(well.clone().after(None), well);
    }

    #[test]
    fn the_parts_of_a_command_add_up_and_its_longest_stall_counts() {
        let flushed = |by| Outcome::flushed(record(by), WELL);
        let both = flushed(1).and(flushed(2));
        assert_eq!(both.record(), Some(&Record { when: 2, stall_us: 9, ..record(3) }));
        assert_eq!(flushed(2).and(flushed(1)).record().unwrap().stall_us, 9);
        let nothing = Outcome::nothing(WELL);
        assert_eq!(nothing.clone().and(flushed(3)).record(), Some(&record(3)));
        assert_eq!(flushed(3).and(nothing.clone()).record(), Some(&record(3)));
        assert_eq!(nothing.clone().and(nothing.clone()), nothing);
    }

    #[test]
    fn why_nothing_was_pruned_is_kept_of_either_part() {
        let because = |why: &str| {
            let record = Record { not_pruned: why.to_owned(), ..Record::default() };
            Outcome::remainder(Some(record))
        };
        for (first, second, wanted) in [("a", "", "a"), ("", "b", "b"), ("a", "b", "b")] {
            let both = because(first).and(because(second));
            assert_eq!(both.record().unwrap().not_pruned, wanted);
        }
    }

    #[test]
    fn a_stop_that_failed_calls_nothing_safe_that_may_be_in_ram_only() {
        for flushed in [false, true] {
            for logged in [false, true] {
                let some = at_risk(flushed, Some(Bytes(4096)), logged);
                assert!(some.starts_with("NOT ON THE CARD: 4.0 KiB"), "{some}");
                assert!(at_risk(flushed, None, logged).starts_with("NOT "), "it was lost, say");
                // The page cache may hold something, unless it was written out before.
                let none = at_risk(flushed, Some(Bytes(0)), logged);
                assert_eq!(none.contains("in the flush log"), flushed && logged, "{none}");
                assert!(!none.contains("all data are on the card"), "its FLUSH may have failed");
            }
        }
    }

    #[test]
    fn the_log_is_merged_from_its_mark_on_but_not_in_a_hurry_unless_that_is_asked_for() {
        let options = |merge, hurry| FlushOptions { merge, hurry, ..FlushOptions::default() };
        for mark in [50, 75] {
            assert!(
                options(false, false).merges(mark, mark) && options(false, false).merges(100, mark)
            );
            assert!(!options(false, false).merges(mark - 1, mark));
            assert!(!options(false, true).merges(100, mark), "no time");
            assert!(options(true, false).merges(0, mark) && options(true, true).merges(0, mark));
        }
    }
}
