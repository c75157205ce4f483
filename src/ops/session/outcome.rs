//! How to flush, and what came of it.

use nix::errno::Errno;

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
