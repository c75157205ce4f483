//! How to flush, and what came of it.

use nix::errno::Errno;

use crate::error::Exit;
use crate::report::record::Record;

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

impl How {
    /// Whether a flush that left the log so full, in percent, merges it, where the owner wants that from `mark` on.
    ///
    /// While the COW fills up quickly there is no time for a merge, after which the writers would be let go
    /// with little room left. When the log has no room a flush merges by itself, with the sealed COW
    /// still held.
    pub(super) fn merges(self, log_used: u64, mark: u64) -> bool {
        self.merge || (log_used >= mark && !self.hurry)
    }
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
    /// Why not everything could be flushed.
    pub fn incomplete(&self) -> Option<Incomplete> {
        match self {
            Outcome::Flushed { incomplete, .. } => *incomplete,
            Outcome::Nothing => None,
        }
    }

    /// What a command that did this tells its caller.
    pub fn exit(&self) -> Exit {
        if self.incomplete().is_none() { Exit::Done } else { Exit::Failed }
    }

    /// This and what a later flush of the same command did, as one.
    pub(super) fn and(self, later: Self) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    fn flushed(by: u64, incomplete: Option<Incomplete>) -> Outcome {
        let record = Record {
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
        };
        Outcome::Flushed { record, incomplete }
    }

    const REASONS: [Incomplete; 3] =
        [Incomplete::Overflow, Incomplete::Sync(Errno::EIO), Incomplete::Unfrozen];

    #[test]
    fn only_what_is_complete_ends_with_0() {
        assert_eq!(Outcome::Nothing.exit(), Exit::Done);
        assert_eq!(flushed(1, None).exit(), Exit::Done);
        for incomplete in REASONS {
            assert_eq!(flushed(1, Some(incomplete)).exit(), Exit::Failed, "{incomplete:?}");
            assert_eq!(flushed(1, Some(incomplete)).incomplete(), Some(incomplete));
        }
    }

    #[test]
    fn what_one_flush_of_a_command_lacked_a_later_one_does_not_make_good() {
        let outcomes = || {
            let some = REASONS.map(|incomplete| flushed(1, Some(incomplete)));
            some.into_iter().chain([flushed(2, None), Outcome::Nothing])
        };
        for first in outcomes() {
            for second in outcomes() {
                let lacked = first.incomplete().or(second.incomplete());
                let (text, any) = (format!("{first:?} and {second:?}"), lacked.is_some());
                let both = Outcome::and(
                    outcomes().find(|one| format!("{one:?}") == format!("{first:?}")).unwrap(),
                    second,
                );
                assert_eq!(both.incomplete(), lacked, "{text}");
                assert_eq!(both.exit() == Exit::Failed, any, "{text}");
            }
        }
    }

    #[test]
    fn the_parts_of_a_command_add_up_and_its_longest_stall_counts() {
        let Outcome::Flushed { record, .. } = flushed(1, None).and(flushed(2, None)) else {
            panic!()
        };
        let Outcome::Flushed { record: wanted, .. } = flushed(3, None) else { panic!() };
        assert_eq!(record, Record { when: 2, stall_us: 9, ..wanted.clone() });
        let Outcome::Flushed { record, .. } = flushed(2, None).and(flushed(1, None)) else {
            panic!()
        };
        assert_eq!(record.stall_us, 9);
        let Outcome::Flushed { record: alone, .. } = Outcome::Nothing.and(flushed(3, None)) else {
            panic!()
        };
        assert_eq!(alone, wanted);
        assert!(matches!(Outcome::Nothing.and(Outcome::Nothing), Outcome::Nothing));
    }

    #[test]
    fn why_nothing_was_pruned_is_kept_of_either_part() {
        let because = |why: &str| Outcome::Flushed {
            record: Record { not_pruned: why.to_owned(), ..Record::default() },
            incomplete: None,
        };
        for (first, second, wanted) in [("a", "", "a"), ("", "b", "b"), ("a", "b", "b")] {
            let Outcome::Flushed { record, .. } = because(first).and(because(second)) else {
                panic!()
            };
            assert_eq!(record.not_pruned, wanted);
        }
    }

    #[test]
    fn the_log_is_merged_from_its_mark_on_but_not_in_a_hurry_unless_that_is_asked_for() {
        let how = |merge, hurry| How { merge, hurry, ..How::default() };
        for mark in [50, 75] {
            assert!(how(false, false).merges(mark, mark) && how(false, false).merges(100, mark));
            assert!(!how(false, false).merges(mark - 1, mark));
            assert!(!how(false, true).merges(100, mark), "no time");
            assert!(how(true, false).merges(0, mark) && how(true, true).merges(0, mark));
        }
    }
}
