//! What settling a stack took.

use std::time::Duration;

use super::append::Append;
use super::prune::Pruned;
use crate::pure::stack::Name;
use crate::pure::units::Bytes;

/// What settling took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// The sealed COW was appended to the flush log.
    pub appended: bool,
    /// Bytes appended to the flush log.
    pub logged: Bytes,
    /// How long that took, until they were durable.
    pub logging: Duration,
    /// How much of the log is in use afterwards, in percent.
    pub log_used: u64,
    /// Bytes merged into the card.
    pub merged: Bytes,
    /// How long that took, from the check of the log's checksums until they were durable.
    pub merging: Duration,
    /// Bytes that were in RAM only and became durable: appended to the log, or merged without it.
    pub durable: Bytes,
    /// What was pruned of the sealed COW.
    pub pruned: Pruned,
    /// What was pruned of the flush log.
    pub log_pruned: Pruned,
    /// Root has all of the flush log, and the log could not be emptied.
    pub not_emptied: bool,
}

impl Settled {
    /// This, without what was merged past the log; `None` if nothing of the flush log was merged.
    pub fn of_log(self) -> Option<Self> {
        let direct = self.durable.0.saturating_sub(self.logged.0);
        let merged = Bytes(self.merged.0.saturating_sub(direct));
        (merged.0 > 0 || self.log_pruned.bytes.0 > 0).then_some(Self { merged, ..self })
    }

    /// Adds what was done later, except for the state of the log.
    pub fn add(&mut self, later: &Self) {
        self.logged.0 += later.logged.0;
        self.logging += later.logging;
        self.merged.0 += later.merged.0;
        self.merging += later.merging;
        self.durable.0 += later.durable.0;
        self.pruned.bytes.0 += later.pruned.bytes.0;
        self.pruned.refused = later.pruned.refused.or(self.pruned.refused);
    }

    /// Adds a durable append of what is sealed.
    pub(super) fn append(&mut self, done: &Append) {
        self.appended = true;
        self.pruned = done.pruned;
        self.logged = done.bytes;
        self.durable.0 += done.bytes.0;
        self.logging = done.took;
        self.log_used = done.log_used;
    }

    /// Adds `bytes` of a layer that is being merged. What is sealed was in RAM only.
    pub(super) fn merge(&mut self, layer: Name, bytes: Bytes) {
        self.merged.0 += bytes.0;
        if layer == Name::Sealed {
            self.durable.0 += bytes.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_without_the_log_is_no_merge_of_the_log() {
        let mut settled = Settled::default();
        settled.merge(Name::Sealed, Bytes(4096));
        assert_eq!((settled.durable, settled.of_log().is_none()), (Bytes(4096), true));
        settled.merge(Name::Logged, Bytes(8192));
        assert_eq!((settled.durable, settled.merged), (Bytes(4096), Bytes(12_288)));
        assert_eq!(settled.of_log().unwrap().merged, Bytes(8192));
    }

    #[test]
    fn what_a_command_found_and_what_it_did_add_up() {
        let appended = |bytes| Settled {
            logged: Bytes(bytes),
            durable: Bytes(bytes),
            logging: Duration::from_millis(bytes),
            ..Settled::default()
        };
        let mut both = appended(3);
        both.add(&appended(4));
        assert_eq!((both.logged, both.durable), (Bytes(7), Bytes(7)));
        assert_eq!(both.logging, Duration::from_millis(7));
        both.merge(Name::Sealed, Bytes(5));
        assert_eq!((both.durable, both.merged), (Bytes(12), Bytes(5)));
    }
}
