//! How full the COW is, including what is about to be written to it, and when writers must wait.
//!
//! Written data wait in the page cache (*dirty*) before they reach the COW; a freeze or the
//! kernel's writeback puts all of them there at once. So they count as used.

use std::time::Duration;

use crate::pure::policy::cow_memory::Room;
use crate::pure::units::Bytes;

/// How full root's COW and the page cache are at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// What the COW holds, metadata included.
    pub used: Bytes,
    /// What it may hold in RAM now: its limit, or less while memory is short.
    pub size: Bytes,
    /// What it may hold in RAM and in the spill area together.
    pub limit: Bytes,
    /// Data in the page cache on their way to it; those of other filesystems are counted, too.
    pub dirty: Bytes,
}

/// The fastest that a COW in RAM is expected to fill up, in bytes a second.
const FASTEST: u64 = 256 << 20;
const SHORTEST: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_millis(500);

impl Level {
    /// A COW that holds `used`, while `room` could be had for more. `limit` computes what it may
    /// hold for a given room, and is called for RAM alone and for RAM with the spill area. What one
    /// flush takes and the COW's device limit both, so neither result follows from the other.
    pub fn new(used: Bytes, dirty: Bytes, room: Room, limit: impl Fn(&Room) -> Bytes) -> Self {
        let may_hold = |room: Room| limit(&room).min(room.with(used).most());
        Self { used, size: may_hold(room.in_ram()), limit: may_hold(room), dirty }
    }

    /// A COW that is full, for which the kernel gives no figures.
    pub const FULL: Self =
        Self { used: Bytes(1), size: Bytes(1), limit: Bytes(1), dirty: Bytes(0) };

    /// Used and on its way, as a share of what the RAM can hold, in percent.
    pub fn percent(&self) -> u64 {
        self.share(self.size)
    }

    /// Used and on its way, as a share of what RAM and spill area can hold, in percent.
    pub fn percent_of_limit(&self) -> u64 {
        self.share(self.limit)
    }

    /// A level of all zeros is that of a root that defers nothing: it has no COW that could be
    /// full.
    fn share(&self, whole: Bytes) -> u64 {
        if self.size.max(self.limit) == Bytes(0) { 0 } else { self.taken().percent_of(whole) }
    }

    fn taken(&self) -> Bytes {
        Bytes(self.used.0.saturating_add(self.dirty.0))
    }

    /// Whether a writer at full memory speed needs at least that long to reach the limit.
    pub fn lasts(&self, time: Duration) -> bool {
        let room = self.limit.0.saturating_sub(self.taken().0);
        room / (FASTEST / 1000) >= time.as_millis() as u64
    }

    /// The level after a poll of the COW alone, which holds `used` now. `None` when that changed by
    /// more than a 64th of what it may hold, so that a whole sample is needed.
    pub fn polled(self, used: Bytes) -> Option<Self> {
        let changed = used.0.abs_diff(self.used.0);
        (changed <= self.size.0 / 64).then_some(Self { used, ..self })
    }

    /// How long it is safe not to look at the COW: a writer at full memory speed reaches `percent`
    /// of the limit no sooner. Never longer than half a second.
    pub fn pause_until(&self, percent: u64) -> Duration {
        let mark = (self.limit.0 / 100).saturating_mul(percent);
        let room = mark.saturating_sub(self.taken().0);
        Duration::from_millis(room / (FASTEST / 1000)).clamp(SHORTEST, LONGEST)
    }
}

/// Whether writers are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Writers go on.
    Running,
    /// Writers wait, for this long by now.
    Held(Duration),
}

/// The pause between two polls while writers are held back, or when there is no COW.
pub const SLOW: Duration = Duration::from_millis(50);
/// Readers wait as well while writers are held back; after this time all processes may run for a
/// moment.
const STEP: Duration = Duration::from_millis(200);
/// A moment ends well before this share of the COW can be in use, in percent.
const ALMOST_FULL: u64 = 95;

/// Below this share of the COW writers are no longer held back, in percent. It is well below
/// `full-wait`, else every write would be held back and let go.
pub fn let_go(full_wait: u64) -> u64 {
    full_wait.saturating_sub(10)
}

/// Whether the throttle holds writers back now, and how long until it looks again.
///
/// They are held back in steps. After each, all go on for a moment, so that programs that only read
/// go on as well, and those that write only slow down; unless so little room is left that a writer
/// at full speed could fill the COW in that moment.
pub fn decide(level: &Level, full_wait: u64, writers: Writers) -> (bool, Duration) {
    let percent = level.percent_of_limit();
    match writers {
        Writers::Running if percent >= full_wait => (true, SLOW),
        Writers::Running => (false, level.pause_until(full_wait)),
        Writers::Held(_) if percent < let_go(full_wait) => (false, level.pause_until(full_wait)),
        Writers::Held(since) => {
            let moment = level.pause_until(ALMOST_FULL) / 4;
            let bearable = since >= STEP && moment >= SHORTEST;
            (!bearable, if bearable { moment } else { SLOW })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::policy::cow_memory::SMALLEST;
    use proptest::prelude::*;

    fn level(used: u64, dirty: u64) -> Level {
        let mib = |n: u64| Bytes(n << 20);
        Level { used: mib(used), size: mib(16), limit: mib(16), dirty: mib(dirty) }
    }

    #[test]
    fn the_emptier_the_longer_the_pause() {
        assert_eq!(level(0, 0).percent(), 0);
        assert_eq!(level(4, 4).percent(), 50);
        assert_eq!(level(0, 0).pause_until(50), Duration::from_millis(31));
        assert_eq!(level(7, 1).pause_until(50), SHORTEST);
        let large = Level { limit: Bytes(1 << 30), ..Level::default() };
        assert_eq!(large.pause_until(80), LONGEST);
    }

    #[test]
    fn a_cow_never_counts_on_memory_that_is_not_there() {
        let mib = |n: u64| Bytes(n << 20);
        let of = |available| {
            let room = Room { available: mib(available), ..Room::default() };
            let level = Level::new(mib(4), Bytes(0), room, |_| mib(16));
            assert_eq!(level.size, level.limit);
            level.size
        };
        assert_eq!(of(200), mib(16));
        // (24 + 4 - 16) / 4 * 3
        assert_eq!(of(24), mib(9));
        assert_eq!(of(0), SMALLEST);
    }

    #[test]
    fn a_spill_area_starts_no_flush_later_but_lets_writers_go_on() {
        let mib = |n: u64| Bytes(n << 20);
        let room = Room { available: mib(200), spill_free: mib(64), spill: mib(64) };
        let limit = |room: &Room| Bytes(mib(16).0 + room.spill.0);
        let level = Level::new(mib(8), Bytes(0), room, limit);
        assert_eq!((level.percent(), level.percent_of_limit()), (50, 10));
    }

    #[test]
    fn writers_are_let_go_well_below_the_mark() {
        let closed = Writers::Held(Duration::ZERO);
        assert_eq!(decide(&level(12, 0), 80, Writers::Running), (false, SHORTEST));
        assert_eq!(decide(&level(13, 0), 80, Writers::Running), (true, SLOW));
        assert_eq!(decide(&level(12, 0), 80, closed), (true, SLOW));
        assert!(!decide(&level(11, 0), 80, closed).0);
    }

    #[test]
    fn who_waits_gets_a_moment_now_and_then_while_there_is_room() {
        let mib = |n: u64| Bytes(n << 20);
        let large = |percent| Level { used: mib(percent), limit: mib(100), ..Level::default() };
        let long = Writers::Held(STEP);
        // 10 MiB to the limit take 40 ms at full speed.
        assert_eq!(decide(&large(85), 80, long), (false, large(85).pause_until(ALMOST_FULL) / 4));
        assert!(decide(&large(85), 80, Writers::Held(STEP / 2)).0);
        assert!(decide(&large(94), 80, long).0, "no room for a moment");
    }

    #[test]
    fn room_is_a_matter_of_time() {
        assert!(level(8, 0).lasts(Duration::from_millis(31)));
        assert!(!level(8, 1).lasts(Duration::from_millis(31)));
        assert!(!Level::FULL.lasts(Duration::from_millis(1)));
    }

    #[test]
    fn no_cow_is_not_full() {
        let none = Level { dirty: Bytes(1 << 20), ..Level::default() };
        assert_eq!((none.percent(), none.percent_of_limit()), (0, 0));
        assert_eq!((Level::FULL.percent(), Level::FULL.percent_of_limit()), (100, 100));
    }

    #[test]
    fn a_poll_of_the_cow_is_enough_while_little_happens() {
        let before = level(4, 1);
        let used = |kib: u64| Bytes((4 << 20) + (kib << 10));
        let after = before.polled(used(200));
        assert_eq!(after, Some(Level { used: used(200), ..before }));
        assert_eq!(before.polled(used(300)), None);
        assert_eq!(before.polled(Bytes(0)), None, "another COW");
    }

    proptest! {
        #[test]
        fn any_level_is_judged(used: u64, dirty: u64, limit: u64, percent in 0u64..200) {
            let (used_bytes, dirty, limit) = (Bytes(used), Bytes(dirty), Bytes(limit));
            let level = Level { used: used_bytes, size: limit, limit, dirty };
            prop_assert!((SHORTEST..=LONGEST).contains(&level.pause_until(percent)));
            let writers = if used % 2 == 0 { Writers::Running } else { Writers::Held(STEP) };
            let (hold, wait) = decide(&level, percent, writers);
            prop_assert!((SHORTEST..=LONGEST).contains(&wait));
            prop_assert!(!hold || level.percent_of_limit() >= percent.saturating_sub(10));
        }
    }

    #[test]
    fn each_mark_counts_from_its_very_value_on() {
        let of = |percent: u64| Level {
            used: Bytes(percent << 20),
            limit: Bytes(100 << 20),
            ..Level::default()
        };
        let closed = Writers::Held(Duration::ZERO);
        assert!(
            decide(&of(80), 80, Writers::Running).0 && !decide(&of(79), 80, Writers::Running).0
        );
        assert_eq!(let_go(80), 70);
        assert!(decide(&of(70), 80, closed).0 && !decide(&of(69), 80, closed).0);
        assert!(
            decide(&of(40), 50, closed).0 && !decide(&of(49), 50, Writers::Running).0,
            "the owner's mark"
        );
        // 4 times 4 ms at full speed are the least room for a moment.
        let room = |kib: u64| Level { used: Bytes((95 << 20) - (kib << 10)), ..of(0) };
        assert!(!decide(&room(4400), 80, Writers::Held(STEP)).0);
        assert!(decide(&room(3900), 80, Writers::Held(STEP)).0);
        let before = Level { size: Bytes(64 << 10), ..of(1) };
        let after = |more: u64| before.polled(Bytes((1 << 20) + more));
        assert!(after(1024).is_some() && after(1025).is_none());
    }
}
