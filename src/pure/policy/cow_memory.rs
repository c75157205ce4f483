//! How large a COW may be. No I/O.

use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::cow::exception_store::PER_AREA;
use crate::pure::units::Bytes;

/// The smallest COW that is worth having: header, one metadata area and a few megabytes.
pub const SMALLEST: Bytes = Bytes(2 << 20);

/// Memory that COWs are never promised: on a machine with 64 MB, a kernel and a few programs can't
/// do with less.
pub const RESERVE: Bytes = Bytes(16 << 20);

/// How much larger a COW's device is than what the COW may hold. A writer at full memory speed
/// needs 30 ms to write that much, which is the time the throttle has to hold it back. The memory
/// for it is in the [`RESERVE`].
pub const SLACK: Bytes = Bytes(8 << 20);

/// The configured size of the COW, from `size=` or `cowflush.size=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A fixed number of bytes.
    Fixed(Bytes),
    /// A share of the machine's RAM, 1 to 90.
    Percent(u64),
}

impl Default for Size {
    /// 40 %: with the extra quarter that a flush may use ([`fresh`]) half of the RAM at most.
    fn default() -> Self {
        Size::Percent(40)
    }
}

impl Size {
    /// The limit in bytes on a machine with `ram`. Never more than [`Room::most`], whatever is
    /// configured.
    pub fn limit(self, ram: Bytes, room: &Room) -> Bytes {
        let wanted = match self {
            Size::Fixed(bytes) => bytes,
            Size::Percent(percent) => Bytes(ram.0 / 100 * percent),
        };
        let wanted = wanted.max(SMALLEST).0.saturating_add(room.spill.0);
        Bytes(wanted).min(room.most())
    }
}

/// The memory that COWs could have, with what they hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// RAM.
    pub available: Bytes,
    /// Free in the spill area.
    pub spill_free: Bytes,
    /// All of the spill area; 0 when there is none.
    pub spill: Bytes,
}

impl Room {
    /// What COWs may hold in RAM and in the spill area.
    pub fn most(&self) -> Bytes {
        most(Bytes(self.available.0.saturating_add(self.spill_free.0)))
    }

    /// The room that RAM alone has, without a spill area.
    pub fn in_ram(&self) -> Self {
        Self { available: self.available, ..Self::default() }
    }

    /// The room with `held` bytes more, since a COW holds them now.
    pub fn with(mut self, held: Bytes) -> Self {
        self.available.0 = self.available.0.saturating_add(held.0);
        self
    }
}

/// What COWs may hold at most where `available` bytes could be had for them: three quarters of what
/// is behind [`RESERVE`], and at least [`SMALLEST`].
///
/// A snapshot survives a full COW, but not one that the memory can't hold. Other programs come and
/// go, so this is computed at every sample, not only when a COW is made.
fn most(available: Bytes) -> Bytes {
    Bytes(available.0.saturating_sub(RESERVE.0) / 4 * 3).max(SMALLEST)
}

/// The size for a COW device of at most `limit` bytes, in whole chunks.
///
/// When a metadata area fills up the kernel wipes the next one at once, and declares the whole
/// snapshot invalid if that area lies behind the end of the device (`persistent_commit_exception`
/// in dm-snap-persistent.c). So the device must never end just before a metadata area.
pub fn device(limit: Bytes) -> Bytes {
    let chunks = limit.0 / CHUNK_BYTES as u64;
    let ends_before_an_area = chunks % (PER_AREA + 1) == 1;
    let chunks = if ends_before_an_area { chunks.saturating_sub(1) } else { chunks };
    Bytes(chunks * CHUNK_BYTES as u64)
}

/// How much a fresh COW may hold while a sealed one still holds `sealed` bytes: what is left
/// of `limit`, but never less than a quarter of it, so that writers have room during a flush.
pub fn fresh(limit: Bytes, sealed: Bytes) -> Bytes {
    device(Bytes(limit.0.saturating_sub(sealed.0).max(limit.0 / 4).max(SMALLEST.0)))
}

/// The size of the fresh COW's device while a sealed one holds `sealed` bytes: [`SLACK`] more, but
/// not more than `log_capacity`, what one flush can put into the flush log.
pub fn fresh_device(limit: Bytes, sealed: Bytes, log_capacity: Bytes) -> Bytes {
    let fresh = fresh(limit, sealed);
    device(Bytes(fresh.0.saturating_add(SLACK.0)).min(log_capacity.max(fresh)))
}

/// What a COW device of `device` bytes may hold: [`SLACK`] less, or half of it where that is
/// little. When memory comes back the limit may be higher than when the device was made.
pub fn usable(device: Bytes) -> Bytes {
    Bytes(device.0.saturating_sub(SLACK.0).max(device.0 / 2))
}

/// Whether a COW device of `device` bytes, of which `used` are, has room for what a freeze writes:
/// `dirty` bytes of the page cache, and the filesystem's own.
///
/// `dirty` also counts pages of other filesystems. The daemon has the kernel keep dirty pages below
/// an eighth of the COW, so the sum is small enough to ask for.
pub fn can_freeze(device: Bytes, used: Bytes, dirty: Bytes) -> bool {
    let written = dirty.0.min(device.0 / 8).saturating_add(FREEZE);
    device.0.saturating_sub(used.0) >= written
}

/// What a filesystem writes of its own when it is frozen: the end of a transaction, bitmaps, the
/// superblock. A journal has at most a quarter of its length in one, some hundred KiB on busy
/// routers.
const FREEZE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn limits_follow_the_machine() {
        let ram = Bytes(256 * MIB);
        let room = Room { available: Bytes(216 * MIB), ..Room::default() };
        assert_eq!(Size::default().limit(ram, &room), Bytes(ram.0 / 100 * 40));
        assert_eq!(Size::Fixed(Bytes(16 * MIB)).limit(ram, &room), Bytes(16 * MIB));
        assert_eq!(Size::Fixed(Bytes(u64::MAX)).limit(ram, &room), Bytes(150 * MIB));
        assert_eq!(Size::Percent(90).limit(ram, &room), Bytes(150 * MIB));
        assert_eq!(Size::Percent(1).limit(Bytes(64 * MIB), &room), SMALLEST);
        assert_eq!(Size::default().limit(ram, &Room::default()), SMALLEST);
    }

    #[test]
    fn a_spill_area_comes_on_top() {
        let (spill, ram) = (Bytes(64 * MIB), Bytes(64 * MIB));
        let room = Room { available: Bytes(40 * MIB), spill_free: spill, spill };
        assert_eq!(Size::Fixed(Bytes(8 * MIB)).limit(ram, &room), Bytes(72 * MIB).min(room.most()));
        assert_eq!(room.most(), Bytes(66 * MIB));
        assert_eq!(room.in_ram().most(), Bytes(18 * MIB));
        // What the kernel has moved from a COW to the spill area is free again once the COW goes:
        // it counts as held.
        let spilled = Room { spill_free: Bytes(0), ..room };
        assert_eq!(spilled.with(spill).most(), room.most());
    }

    #[test]
    fn a_flush_leaves_room_for_writers() {
        let limit = Bytes(100 * MIB);
        assert_eq!(fresh(limit, Bytes(0)), device(limit));
        assert_eq!(fresh(limit, Bytes(40 * MIB)), device(Bytes(60 * MIB)));
        assert_eq!(fresh(limit, limit), device(Bytes(25 * MIB)));
        let none = Bytes(u64::MAX);
        assert_eq!(fresh_device(limit, limit, none), device(Bytes(33 * MIB)));
        assert_eq!(fresh_device(limit, limit, Bytes(30 * MIB)), device(Bytes(30 * MIB)));
        assert_eq!(fresh_device(limit, limit, Bytes(0)), device(Bytes(25 * MIB)));
    }

    #[test]
    fn a_freeze_needs_room() {
        let of = |used: u64, dirty: u64| {
            can_freeze(Bytes(24 * MIB), Bytes(used * MIB), Bytes(dirty * MIB))
        };
        assert!(of(0, 0) && of(20, 0) && of(23, 0) && of(21, 2));
        assert!(!of(24, 0) && !of(22, 2));
        assert!(of(20, 100) && !of(21, 100), "others may have any number");
    }

    proptest! {
        #[test]
        fn the_area_after_a_full_one_is_inside(limit in SMALLEST.0..1 << 40) {
            let chunks = device(Bytes(limit)).0 / CHUNK_BYTES as u64;
            // The last area that can fill up completely, and the one wiped after it.
            let full_areas = (chunks - 1) / (PER_AREA + 1);
            let wiped = crate::pure::cow::exception_store::area_chunk(full_areas);
            let area_fills = chunks > wiped - 1 && full_areas > 0;
            prop_assert!(!area_fills || wiped < chunks, "{chunks} chunks, area at {wiped}");
            prop_assert!(device(Bytes(limit)).0 <= limit);
        }
    }

    #[test]
    fn a_device_keeps_its_slack_and_a_small_one_half_of_it() {
        for (device, wanted) in [(24, 16), (16, 8), (10, 5), (100, 92), (0, 0)] {
            assert_eq!(usable(Bytes(device * MIB)), Bytes(wanted * MIB), "{device} MiB");
        }
    }

    #[test]
    fn what_a_device_is_rounded_by_is_less_than_two_chunks() {
        let chunk = CHUNK_BYTES as u64;
        for chunks in 1..3 * (PER_AREA + 1) {
            let found = device(Bytes(chunks * chunk + chunk - 1)).0;
            let last = chunks % (PER_AREA + 1) == 1;
            assert_eq!(found, (chunks - u64::from(last)) * chunk, "{chunks} chunks");
        }
    }

    #[test]
    fn a_freeze_needs_room_to_the_byte() {
        let can = |free: u64, dirty: u64| {
            can_freeze(Bytes(24 * MIB), Bytes(24 * MIB - free), Bytes(dirty))
        };
        assert!(can(MIB, 0) && !can(MIB - 1, 0));
        assert!(can(MIB + 5, 5) && !can(MIB + 4, 5));
        assert!(can(4 * MIB, u64::MAX) && !can(4 * MIB - 1, u64::MAX), "an eighth of it");
    }
}
