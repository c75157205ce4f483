//! The wall clock.

use nix::time::{ClockId, clock_gettime};

// std's clock would panic after 2038 where time_t has 32 bits; the build makes it 64.
const _: () = assert!(size_of::<libc::time_t>() == 8);

/// Seconds since 1970 by the wall clock, which a router without a battery may have wrong.
pub fn now() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec())
}
