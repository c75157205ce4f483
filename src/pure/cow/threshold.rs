//! How fast a COW may fill up. No I/O.

use crate::pure::units::Bytes;

/// How many chunks the kernel puts into a COW at once, unless told otherwise
/// (`DEFAULT_COW_THRESHOLD` in dm-snap.c).
pub const FREE: u64 = 2048;

/// As many while a writer must not be at memory speed. Whoever writes more waits until earlier chunks
/// are there, so the speed falls to about a fifth; a few chunks, such as a small fsync has, are as fast
/// as ever. Fewer would slow down little more, and cost more metadata writes.
const SLOWED: u64 = 4;

/// Above that a COW lasts long enough at any speed: a quarter of a second at 256 MiB/s.
const SMALL: Bytes = Bytes(64 << 20);

/// How many chunks at once suit a COW of at most `limit` bytes.
///
/// Whoever looks after a COW may be late: a busy machine, a process that is started while memory is
/// short. A small COW must not overflow in that time.
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
