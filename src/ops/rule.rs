//! What root's COW may hold now, and how full it is: the owner's wishes, the stack and the memory
//! together. Whoever judges a COW, a command, the daemon or a valve, does so by this.

use super::log::Log;
use crate::config::Config;
use crate::cow::size::{Size, fresh, usable};
use crate::daemon::pressure::Level;
use crate::dm::SnapshotStatus;
use crate::stack::Stack;
use crate::sys::attendant::Order;
use crate::sys::block;
use crate::sys::memory::MemInfo;
use crate::units::Bytes;

/// What stays the same until the stack changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    size: Size,
    spill: bool,
    /// What one flush can put into the flush log.
    roof: Bytes,
    /// What a sealed COW holds in RAM. As long as it is there root's has less.
    sealed: Bytes,
    /// At which share of the COW writers are held back, in percent.
    pub full_wait: u64,
}

impl Rule {
    /// The rule for `stack`, whose [`roof`] is known.
    pub fn of(config: &Config, stack: &Stack, roof: Bytes) -> Self {
        let sealed = stack.sealed_in_ram().and_then(|sealed| sealed.usage());
        Self {
            size: config.size,
            spill: config.spill.is_some(),
            roof,
            sealed: sealed.map_or(Bytes(0), |usage| usage.allocated.bytes()),
            full_wait: config.full_wait,
        }
    }

    /// The same for another process.
    pub fn to_words(self) -> Order {
        let (percent, bytes) = match self.size {
            Size::Percent(percent) => (percent, 0),
            Size::Fixed(bytes) => (0, bytes.0),
        };
        [percent, bytes, self.spill.into(), self.roof.0, self.sealed.0, self.full_wait]
    }

    /// What [`Rule::to_words`] made.
    pub fn from_words([percent, bytes, spill, roof, sealed, full_wait]: Order) -> Self {
        let size = if percent > 0 { Size::Percent(percent) } else { Size::Fixed(Bytes(bytes)) };
        Self { size, spill: spill > 0, roof: Bytes(roof), sealed: Bytes(sealed), full_wait }
    }

    /// What root's COW may hold when nothing is sealed. `held`: what COWs hold now; that is not
    /// available to others, but it is to COWs.
    pub fn limit(&self, memory: &MemInfo, held: Bytes) -> Bytes {
        let room = memory.room(self.spill).with(held);
        self.size.limit(memory.total, &room).min(self.roof)
    }

    /// Root's COW may hold as much by this as by `other`, as far as the stack is concerned.
    pub fn allows_as_much_as(&self, other: &Rule) -> bool {
        self.sealed == other.sealed
    }

    /// How full root's COW is. `None` when root defers nothing.
    pub fn level(&self, status: SnapshotStatus, memory: &MemInfo) -> Option<Level> {
        match status {
            SnapshotStatus::Used(usage) => {
                let (used, device) = (usage.allocated.bytes(), usage.total.bytes());
                let held = Bytes(used.0.saturating_add(self.sealed.0));
                let limit = fresh(self.limit(memory, held), self.sealed).min(usable(device));
                Some(Level::new(used, limit, memory.unwritten(), memory.room(self.spill)))
            }
            // The kernel does not count a COW that overflowed.
            SnapshotStatus::Overflow => Some(Level::FULL),
            _ => None,
        }
    }
}

/// What one flush can put into the flush log of `stack`. Without one, or when it can't be read, no limit:
/// it says so itself when it is needed.
pub fn roof(stack: &Stack) -> Bytes {
    let capacity = stack.log_partition().map(|log| Log::capacity_at(&block::path(log)));
    capacity.and_then(Result::ok).unwrap_or(Bytes::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::status::Usage;

    const MIB: u64 = 1 << 20;

    fn rule(sealed: u64, roof: u64) -> Rule {
        let size = Size::Fixed(Bytes(16 * MIB));
        let (sealed, roof) = (Bytes(sealed * MIB), Bytes(roof * MIB));
        Rule { size, spill: false, roof, sealed, full_wait: 80 }
    }

    fn size(rule: &Rule, used: u64, available: u64) -> u64 {
        let memory = MemInfo {
            total: Bytes(256 * MIB),
            available: Bytes(available * MIB),
            ..MemInfo::default()
        };
        let sectors = |mib: u64| Bytes(mib * MIB).sectors();
        let usage = Usage { allocated: sectors(used), total: sectors(24), metadata: sectors(0) };
        rule.level(SnapshotStatus::Used(usage), &memory).unwrap().brim.0 / MIB
    }

    #[test]
    fn a_sealed_cow_leaves_less_to_the_live_one() {
        assert_eq!(size(&rule(0, 64), 1, 200), 16);
        assert_eq!(size(&rule(10, 64), 1, 200), 6);
        assert_eq!(size(&rule(16, 64), 1, 200), 4, "a quarter at least");
    }

    #[test]
    fn a_rule_goes_to_another_process_and_stays_the_same() {
        for size in [Size::Fixed(Bytes(u64::MAX)), Size::Fixed(Bytes(0)), Size::Percent(40)] {
            for spill in [false, true] {
                let rule = Rule { size, spill, ..rule(3, 5) };
                assert_eq!(Rule::from_words(rule.to_words()), rule);
            }
        }
    }

    #[test]
    fn neither_the_log_nor_the_memory_is_forgotten() {
        assert_eq!(size(&rule(0, 8), 1, 200), 8);
        // (24 + 4 - 16) / 4 * 3
        assert_eq!(size(&rule(0, 64), 4, 24), 9);
        // The same, of which the sealed one holds 4.
        assert_eq!(size(&rule(4, 64), 4, 24), 8);
    }

    #[test]
    fn every_key_that_says_how_large_is_in_the_rule() {
        let memory = MemInfo {
            total: Bytes(200 * MIB),
            available: Bytes(200 * MIB),
            swap_total: Bytes(32 * MIB),
            swap_free: Bytes(32 * MIB),
            ..MemInfo::default()
        };
        let of = |keys: &str, roof: u64| {
            let mut config = Config::default();
            assert_eq!(config.read(keys), [""; 0]);
            Rule::of(&config, &Stack::default(), Bytes(roof * MIB))
        };
        let limit = |rule: Rule| rule.limit(&memory, Bytes(0)).0 / MIB;
        assert_eq!(limit(of("", 999)), 80, "40 %");
        assert_eq!(limit(of("size=8M", 999)), 8);
        assert_eq!(limit(of("size=10%", 999)), 20);
        assert_eq!(limit(of("size=8M\nspill=/dev/sda3", 999)), 40);
        assert_eq!(limit(of("size=32M", 9)), 9, "what the log takes in one flush");
        // What a COW holds is there for COWs.
        assert_eq!(of("size=90%", 999).limit(&memory, Bytes(40 * MIB)).0 / MIB, 168);
        assert_eq!(limit(of("size=90%", 999)), 138);
        assert_eq!((of("", 9).full_wait, of("full-wait=55%", 9).full_wait), (80, 55));
    }

    #[test]
    fn a_valve_is_as_good_as_another_only_over_what_is_sealed_now() {
        assert!(rule(3, 5).allows_as_much_as(&rule(3, 9)));
        assert!(!rule(3, 5).allows_as_much_as(&rule(4, 5)));
    }

    #[test]
    fn only_a_root_that_defers_has_a_level_and_one_that_overflowed_is_full() {
        let level = |status| rule(0, 64).level(status, &MemInfo::default());
        assert_eq!(level(SnapshotStatus::Overflow).map(|level| level.percent()), Some(100));
        assert_eq!(level(SnapshotStatus::Overflow).map(|level| level.percent_of_brim()), Some(100));
        for status in
            [SnapshotStatus::Invalid, SnapshotStatus::Unknown, SnapshotStatus::MergeFailed]
        {
            assert_eq!(level(status), None);
        }
    }
}
