//! Clocks.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

#[cfg(not(test))]
pub use std::time::Instant;

/// A moment, by the model's clock if there is a model.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub struct Instant(Duration);

#[cfg(test)]
impl Instant {
    /// The present moment.
    pub fn now() -> Self {
        static BEGIN: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        Self(super::kernel::model().map_or_else(|| BEGIN.elapsed(), |model| model.clock()))
    }

    /// The time since then.
    pub fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Waits for that long.
pub fn pause(time: Duration) {
    ask!(pause(time));
    std::thread::sleep(time);
}

/// Seconds since 1970 by the wall clock, which a router without a battery may have wrong.
// std's clock would panic after 2038 where time_t has 32 bits. The build makes it 64; this would
// not compile without.
pub fn now() -> i64 {
    ask!(now());
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec())
}

/// Milliseconds since boot, including time asleep. It never goes back.
pub fn running() -> u64 {
    ask!(running());
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        let (seconds, nanos) = (now.tv_sec() as u64, now.tv_nsec() as u64);
        seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
    })
}

/// Local time: days since a fixed day, and minutes since midnight.
pub fn local() -> (i64, u16) {
    let seconds = now();
    ask!(local(seconds));
    // C's long, which has 32 bits on the target.
    #[allow(clippy::useless_conversion)]
    // SAFETY: all zeros is a valid `tm`; localtime_r reads `seconds` and fills in the `tm`.
    let offset = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const seconds, &raw mut local).is_null() {
            0
        } else {
            i64::from(local.tm_gmtoff)
        }
    };
    let local = seconds.saturating_add(offset);
    (local.div_euclid(86_400), (local.rem_euclid(86_400) / 60) as u16)
}
