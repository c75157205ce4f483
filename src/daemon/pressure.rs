//! How full the COW is, counting what is about to get there.
//!
//! Written data wait in the page cache (*dirty*) before they reach the COW; a freeze or the
//! kernel's writeback puts all of them there at once. So they count as used.

use std::time::Duration;

use crate::units::Bytes;

/// One look at root's COW and the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// What the COW holds, metadata included.
    pub used: Bytes,
    /// What it can hold now.
    pub size: Bytes,
    /// Data in the page cache on their way to it; those of other filesystems are counted, too.
    pub dirty: Bytes,
}

/// The fastest that a COW in RAM is expected to fill up, in bytes a second.
const FASTEST: u64 = 256 << 20;
const SHORTEST: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_millis(500);

impl Level {
    /// Used and on its way, as a share of the size, in percent.
    pub fn percent(&self) -> u64 {
        Bytes(self.used.0.saturating_add(self.dirty.0)).percent_of(self.size)
    }

    /// How long nobody need look before `percent` can be reached: a writer at full memory speed
    /// counts. Never longer than half a second.
    pub fn pause_until(&self, percent: u64) -> Duration {
        let mark = (self.size.0 / 100).saturating_mul(percent);
        let room = mark.saturating_sub(self.used.0.saturating_add(self.dirty.0));
        Duration::from_millis(room / (FASTEST / 1000)).clamp(SHORTEST, LONGEST)
    }
}

/// Whether writers are to be held back during a flush. They are let go while there is room, so that
/// a filesystem in steady use only slows down.
pub fn hold_back(level: &Level, full_wait: u64, held: bool) -> bool {
    // Let go again only well below the mark, else every write would open and close.
    let mark = if held { full_wait.saturating_sub(10) } else { full_wait };
    level.percent() >= mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(used: u64, dirty: u64) -> Level {
        let mib = |n| Bytes(n << 20);
        Level { used: mib(used), size: mib(16), dirty: mib(dirty) }
    }

    #[test]
    fn the_emptier_the_longer_the_pause() {
        assert_eq!(level(0, 0).percent(), 0);
        assert_eq!(level(4, 4).percent(), 50);
        assert_eq!(level(0, 0).pause_until(50), Duration::from_millis(31));
        assert_eq!(level(7, 1).pause_until(50), SHORTEST);
        let large = Level { size: Bytes(1 << 30), ..Level::default() };
        assert_eq!(large.pause_until(80), LONGEST);
    }

    #[test]
    fn writers_are_let_go_well_below_the_mark() {
        assert!(!hold_back(&level(12, 0), 80, false));
        assert!(hold_back(&level(13, 0), 80, false));
        assert!(hold_back(&level(12, 0), 80, true));
        assert!(!hold_back(&level(11, 0), 80, true));
    }

    proptest! {
        #[test]
        fn any_level_is_judged(used: u64, dirty: u64, size: u64, percent in 0u64..200) {
            let level = Level { used: Bytes(used), size: Bytes(size), dirty: Bytes(dirty) };
            prop_assert!((SHORTEST..=LONGEST).contains(&level.pause_until(percent)));
            let _ = hold_back(&level, percent, used % 2 == 0);
        }
    }
}
