//! How large a COW may be. No I/O.

use super::format::{CHUNK_BYTES, PER_AREA};
use crate::units::Bytes;

/// The smallest COW that is worth having: header, one metadata area and a few megabytes.
pub const SMALLEST: Bytes = Bytes(2 << 20);

/// What is left to everybody else before anything is promised to COWs: on a machine with 64 MB a
/// kernel and a few programs can't do with less.
pub const RESERVE: Bytes = Bytes(16 << 20);

/// A wish for the size of the COW, from `cowflush.size=`.
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
    /// The limit in bytes on a machine with `ram`, of which `available` could be had for COWs
    /// (what they hold now included).
    ///
    /// Never more than three quarters of what is available behind [`RESERVE`], whatever was wished
    /// for: a snapshot survives a full COW, but not one that the memory can't hold. At least
    /// [`SMALLEST`].
    pub fn limit(self, ram: Bytes, available: Bytes) -> Bytes {
        let wish = match self {
            Size::Fixed(bytes) => bytes.0,
            Size::Percent(percent) => ram.0 / 100 * percent,
        };
        let most = available.0.saturating_sub(RESERVE.0) / 4 * 3;
        Bytes(wish.min(most).max(SMALLEST.0))
    }
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

/// The size that a fresh COW may have while a sealed one still holds `sealed` bytes: what is left
/// of `limit`, but never less than a quarter of it, so that writers have room during a flush.
pub fn fresh(limit: Bytes, sealed: Bytes) -> Bytes {
    device(Bytes(limit.0.saturating_sub(sealed.0).max(limit.0 / 4).max(SMALLEST.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn limits_follow_the_machine() {
        let ram = Bytes(256 * MIB);
        let available = Bytes(216 * MIB);
        assert_eq!(Size::default().limit(ram, available), Bytes(ram.0 / 100 * 40));
        assert_eq!(Size::Fixed(Bytes(16 * MIB)).limit(ram, available), Bytes(16 * MIB));
        assert_eq!(Size::Fixed(Bytes(u64::MAX)).limit(ram, available), Bytes(150 * MIB));
        assert_eq!(Size::Percent(90).limit(ram, available), Bytes(150 * MIB));
        assert_eq!(Size::Percent(1).limit(Bytes(64 * MIB), available), SMALLEST);
        assert_eq!(Size::default().limit(ram, Bytes(0)), SMALLEST);
    }

    #[test]
    fn a_flush_leaves_room_for_writers() {
        let limit = Bytes(100 * MIB);
        assert_eq!(fresh(limit, Bytes(0)), device(limit));
        assert_eq!(fresh(limit, Bytes(40 * MIB)), device(Bytes(60 * MIB)));
        assert_eq!(fresh(limit, limit), device(Bytes(25 * MIB)));
    }

    proptest! {
        #[test]
        fn the_area_after_a_full_one_is_inside(limit in SMALLEST.0..1 << 40) {
            let chunks = device(Bytes(limit)).0 / CHUNK_BYTES as u64;
            // The last area that can fill up completely, and the one wiped after it.
            let full_areas = (chunks - 1) / (PER_AREA + 1);
            let wiped = super::super::format::area_chunk(full_areas);
            let area_fills = chunks > wiped - 1 && full_areas > 0;
            prop_assert!(!area_fills || wiped < chunks, "{chunks} chunks, area at {wiped}");
            prop_assert!(device(Bytes(limit)).0 <= limit);
        }
    }
}
