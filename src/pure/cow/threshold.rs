//! How fast a COW may fill up. No I/O.

use crate::pure::units::Bytes;

/// How many chunks the kernel puts into a COW at once, unless told otherwise
/// (`DEFAULT_COW_THRESHOLD` in dm-snap.c).
pub const FREE: u64 = 2048;

/// The same number while writers must not reach memory speed. A process that writes more waits
/// until earlier chunks are in the COW, so its speed falls to about a fifth; a few chunks, as a
/// small fsync has, are as fast as before. A smaller number would slow writers down little more,
/// and cost more metadata writes.
const SLOWED: u64 = 4;

/// Above this size a COW lasts long enough at any speed: a quarter of a second at 256 MiB/s.
const SMALL: Bytes = Bytes(64 << 20);

/// How many chunks at once suit a COW of at most `limit` bytes.
///
/// The daemon or the throttle may be late to see a COW fill up, on a busy machine or while memory
/// is short. A small COW must not overflow in that time.
pub fn of(limit: Bytes) -> u64 {
    if limit <= SMALL { SLOWED } else { FREE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_small_cow_is_filled_slowly() {
        assert_eq!(of(Bytes(16 << 20)), SLOWED);
        assert_eq!(of(SMALL), SLOWED);
        assert_eq!(of(Bytes(SMALL.0 + 1)), FREE);
    }
}
