//! What root's COW may hold now, and how full it is, from the configuration, the stack and the
//! memory together. Commands, the daemon and the throttle all judge a COW by this.

use super::meminfo::MemInfo;
use crate::pure::config::Config;
use crate::pure::dm::SnapshotStatus;
use crate::pure::policy::cow_memory::{Room, Size, fresh, usable};
use crate::pure::policy::throttle::Level;
use crate::pure::stack::Stack;
use crate::pure::units::Bytes;

/// The part of a COW's limits that stays the same until the stack changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CowLimits {
    size: Size,
    spill: bool,
    /// What one flush can put into the flush log.
    log_capacity: Bytes,
    /// What a sealed COW holds in RAM. Root's COW has that much less until the sealed one goes.
    sealed: Bytes,
    /// At which share of the COW writers are held back, in percent.
    pub full_wait: u64,
}

impl CowLimits {
    /// The limits for `stack`, whose log has `log_capacity`.
    pub fn of(config: &Config, stack: &Stack, log_capacity: Bytes) -> Self {
        Self {
            size: config.size,
            spill: config.spill.is_some(),
            log_capacity,
            sealed: stack.sealed_bytes().unwrap_or_default(),
            full_wait: config.full_wait,
        }
    }

    /// How many words [`Self::to_words`] makes.
    pub const WORDS: usize = 6;

    /// These limits as words, for the throttle's worker, which is another process.
    pub fn to_words(self) -> [u64; Self::WORDS] {
        let (percent, bytes) = match self.size {
            Size::Percent(percent) => (percent, 0),
            Size::Fixed(bytes) => (0, bytes.0),
        };
        [percent, bytes, self.spill.into(), self.log_capacity.0, self.sealed.0, self.full_wait]
    }

    /// The limits of which [`Self::to_words`] made these words.
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [percent, bytes, spill, log_capacity, sealed, full_wait] = words;
        let size = if percent > 0 { Size::Percent(percent) } else { Size::Fixed(Bytes(bytes)) };
        Self {
            size,
            spill: spill > 0,
            log_capacity: Bytes(log_capacity),
            sealed: Bytes(sealed),
            full_wait,
        }
    }

    /// What root's COW may hold when nothing is sealed. `held`: what COWs hold now; that is not
    /// available to others, but it is to COWs.
    pub fn limit(&self, memory: &MemInfo, held: Bytes) -> Bytes {
        self.limit_in(&memory.room(self.spill), memory, held)
    }

    /// The same limit, where COWs could have `room`.
    fn limit_in(&self, room: &Room, memory: &MemInfo, held: Bytes) -> Bytes {
        self.size.limit(memory.total, &room.with(held)).min(self.log_capacity)
    }

    /// Whether these limits are still right for `stack`: the same COW is sealed. A merge gives
    /// memory back only at its end, so a sealed COW that shrinks still takes as much; so does one
    /// that the kernel does not count.
    pub fn is_right_for(&self, stack: &Stack) -> bool {
        stack
            .sealed_bytes()
            .is_none_or(|sealed| sealed == self.sealed || Bytes(0) < sealed && sealed < self.sealed)
    }

    /// How full root's COW is. `None` when root defers nothing.
    pub fn level(&self, status: SnapshotStatus, memory: &MemInfo) -> Option<Level> {
        match status {
            SnapshotStatus::Used(usage) => {
                let (used, device) = (usage.allocated.bytes(), usage.total.bytes());
                let held = Bytes(used.0.saturating_add(self.sealed.0));
                let (dirty, room) = (memory.unwritten(), memory.room(self.spill));
                Some(Level::new(used, dirty, room, |room| {
                    fresh(self.limit_in(room, memory, held), self.sealed).min(usable(device))
                }))
            }
            // The kernel does not count a COW that overflowed.
            SnapshotStatus::Overflow => Some(Level::FULL),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::dm::status::Usage;
    use crate::pure::stack::fixtures::*;
    use crate::pure::stack::{Device, Live};
    use crate::pure::units::Sectors;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn cow_limits(sealed: u64, log_capacity: u64) -> CowLimits {
        let size = Size::Fixed(Bytes(16 * MIB));
        let (sealed, log_capacity) = (Bytes(sealed * MIB), Bytes(log_capacity * MIB));
        CowLimits { size, spill: false, log_capacity, sealed, full_wait: 80 }
    }

    fn size(cow_limits: &CowLimits, used: u64, available: u64) -> u64 {
        let memory = MemInfo {
            total: Bytes(256 * MIB),
            available: Bytes(available * MIB),
            ..MemInfo::default()
        };
        let sectors = |mib: u64| Bytes(mib * MIB).sectors();
        let usage = Usage { allocated: sectors(used), total: sectors(24), metadata: sectors(0) };
        cow_limits.level(SnapshotStatus::Used(usage), &memory).unwrap().limit.0 / MIB
    }

    #[test]
    fn a_sealed_cow_leaves_less_to_the_live_one() {
        assert_eq!(size(&cow_limits(0, 64), 1, 200), 16);
        assert_eq!(size(&cow_limits(10, 64), 1, 200), 6);
        assert_eq!(size(&cow_limits(16, 64), 1, 200), 4, "a quarter at least");
    }

    #[test]
    fn limits_go_to_another_process_and_stay_the_same() {
        for size in [Size::Fixed(Bytes(u64::MAX)), Size::Fixed(Bytes(0)), Size::Percent(40)] {
            for spill in [false, true] {
                let cow_limits = CowLimits { size, spill, ..cow_limits(3, 5) };
                assert_eq!(CowLimits::from_words(cow_limits.to_words()), cow_limits);
            }
        }
    }

    #[test]
    fn neither_the_log_nor_the_memory_is_forgotten() {
        assert_eq!(size(&cow_limits(0, 8), 1, 200), 8);
        // (24 + 4 - 16) / 4 * 3
        assert_eq!(size(&cow_limits(0, 64), 4, 24), 9);
        // The same, and the sealed COW holds 4 of it.
        assert_eq!(size(&cow_limits(4, 64), 4, 24), 8);
    }

    #[test]
    fn every_key_that_says_how_large_is_in_the_limits() {
        let memory = MemInfo {
            total: Bytes(200 * MIB),
            available: Bytes(200 * MIB),
            swap_total: Bytes(32 * MIB),
            swap_free: Bytes(32 * MIB),
            ..MemInfo::default()
        };
        let of = |keys: &str, log_capacity: u64| {
            let mut config = Config::default();
            assert_eq!(config.read(keys), [""; 0]);
            CowLimits::of(&config, &Stack::default(), Bytes(log_capacity * MIB))
        };
        let limit = |cow_limits: CowLimits| cow_limits.limit(&memory, Bytes(0)).0 / MIB;
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
    fn a_throttle_is_armed_anew_when_a_cow_was_sealed_or_given_back_and_not_for_what_a_merge_has_moved_so_far()
     {
        let sealed = |target, status| {
            let live = Some(Live::Single { length: LENGTH, target, status });
            Some(Device { number: SEALED, suspended: false, live, inactive: false })
        };
        let of = |target, status| Stack { sealed: sealed(target, status), ..Stack::default() };
        let holds = |mib| used(mib * (MIB >> 9) - 16);
        let (snapshot, merge) = (snapshot(ORIGIN, OLD_COW), merge(ORIGIN, OLD_COW));
        for (stack, right) in [
            (of(snapshot, holds(4)), true),
            (of(snapshot, holds(5)), false),
            (of(merge, holds(4)), true),
            (of(merge, holds(1)), true),
            // The kernel does not count it: it is what it was.
            (of(merge, SnapshotStatus::MergeFailed), true),
            (of(snapshot, SnapshotStatus::Overflow), true),
            (of(linear(CARD), SnapshotStatus::Unknown), false),
            (Stack::default(), false),
        ] {
            assert_eq!(cow_limits(4, 9).is_right_for(&stack), right, "{stack:?}");
        }
        assert!(cow_limits(0, 9).is_right_for(&Stack::default()));
        assert!(!cow_limits(0, 9).is_right_for(&of(snapshot, holds(4))));
    }

    /// RAM of 64 MiB with a spill area as large, as a small router has it.
    fn small(used: u64) -> MemInfo {
        MemInfo {
            total: Bytes(64 * MIB),
            available: Bytes((48 - used) * MIB),
            swap_total: Bytes(64 * MIB),
            swap_free: Bytes(64 * MIB),
            ..MemInfo::default()
        }
    }

    fn holding(mib: u64, device: u64) -> SnapshotStatus {
        let sectors = |mib: u64| Bytes(mib * MIB).sectors();
        let (allocated, total) = (sectors(mib), sectors(device));
        SnapshotStatus::Used(Usage { allocated, total, metadata: sectors(0) })
    }

    #[test]
    fn a_spill_area_as_large_as_what_the_log_or_the_device_takes_leaves_every_mark_in_reach() {
        let with = |log_capacity| CowLimits {
            size: Size::default(),
            spill: true,
            ..cow_limits(0, log_capacity)
        };
        // A log of 24 MiB; and a device that was made before there was a spill area.
        for (cow_limits, device) in [(with(24), 24), (with(999), 24)] {
            let percents: Vec<_> = [0, 8, 12, 16, 20, 23]
                .map(|mib| cow_limits.level(holding(mib, device), &small(mib)).unwrap().percent())
                .into();
            assert_eq!(percents, [0, 50, 75, 100, 100, 100], "{cow_limits:?}");
        }
    }

    proptest! {
        /// For any RAM, log, spill area and configuration: a COW that grows gets fuller, and is
        /// full before its device is.
        #[test]
        fn every_cow_is_full_before_its_device_is(
            size in prop_oneof![(1u64..=90).prop_map(Size::Percent), any::<u32>().prop_map(|b| Size::Fixed(Bytes(b.into())))],
            spill: bool,
            (log_capacity, sealed) in (chunks(), chunks()),
            (total, available, swap_total, swap_free) in (chunks(), chunks(), chunks(), chunks()),
            (device, fill, dirty) in (1u64..1 << 18, 0u64..=1 << 18, 0u64..1 << 10),
        ) {
            let cow_limits = CowLimits { size, spill, log_capacity, sealed, full_wait: 80 };
            let chunk = |chunks: u64| Bytes(chunks * CHUNK);
            let (device, fill) = (chunk(device), chunk(fill.min(device)));
            let at = |used: Bytes| {
                // What it takes it takes of the RAM first, then of the spill area.
                let spilled = used.0.saturating_sub(available.0);
                let memory = MemInfo {
                    total: total.max(chunk(1)),
                    available: Bytes(available.0.saturating_sub(used.0)),
                    swap_total,
                    swap_free: Bytes(swap_free.min(swap_total).0.saturating_sub(spilled)),
                    dirty: chunk(dirty),
                    ..MemInfo::default()
                };
                let usage = Usage { allocated: used.sectors(), total: device.sectors(), metadata: Sectors(0) };
                cow_limits.level(SnapshotStatus::Used(usage), &memory).unwrap()
            };
            let (some, more, full) = (at(fill), at(chunk(fill.0 / CHUNK + 1)), at(device));
            prop_assert!(some.size.0 > 0 && some.size <= some.limit && some.limit <= usable(device), "{some:?}");
            prop_assert!(some.percent() >= some.percent_of_limit(), "{some:?}");
            prop_assert_eq!((full.percent(), full.percent_of_limit()), (100, 100));
            prop_assert!(some.percent() <= more.percent(), "{some:?} {more:?}");
            prop_assert!(some.percent_of_limit() <= more.percent_of_limit(), "{some:?} {more:?}");
        }
    }

    const CHUNK: u64 = 4096;

    /// No memory, some, and more than any machine has.
    fn chunks() -> impl Strategy<Value = Bytes> {
        prop_oneof![Just(0), 0u64..1 << 18, Just(1 << 40)].prop_map(|chunks| Bytes(chunks * CHUNK))
    }

    #[test]
    fn only_a_root_that_defers_has_a_level_and_one_that_overflowed_is_full() {
        let level = |status| cow_limits(0, 64).level(status, &MemInfo::default());
        assert_eq!(level(SnapshotStatus::Overflow).map(|level| level.percent()), Some(100));
        assert_eq!(
            level(SnapshotStatus::Overflow).map(|level| level.percent_of_limit()),
            Some(100)
        );
        for status in
            [SnapshotStatus::Invalid, SnapshotStatus::Unknown, SnapshotStatus::MergeFailed]
        {
            assert_eq!(level(status), None);
        }
    }
}
