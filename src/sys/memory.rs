//! Memory: how much there is, and keeping our own in place.

use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::cow::size::Room;
use crate::error::{Doing, Error, Result};
use crate::units::{Bytes, decimal};

/// Keeps all of this process in RAM, also what it gets later: the binary may live on the very
/// device that is suspended at times, and reading a page of it would never end.
pub fn lock() -> Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
        .doing(|| "lock memory")
        .map_err(|error| {
            error.advise("Free some memory, or raise the limit for locked memory (ulimit -l).")
        })
}

/// Asks the kernel never to choose this process when memory is short: with it would go the
/// flush that frees memory. Not being allowed to is no reason not to flush.
pub fn exempt_from_oom_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// The lines of /proc/meminfo that cowflush uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// RAM that the kernel manages.
    pub total: Bytes,
    /// What programs could still get without swapping.
    pub available: Bytes,
    /// Written to files but not yet to their devices.
    pub dirty: Bytes,
    /// On their way to their devices.
    pub writeback: Bytes,
    /// All swap areas in use.
    pub swap_total: Bytes,
    /// What is free in them.
    pub swap_free: Bytes,
}

impl MemInfo {
    /// What COWs could get, beside what they hold; with swap when there is a spill area.
    pub fn room(&self, spill: bool) -> Room {
        let swap = if spill { (self.swap_free, self.swap_total) } else { Default::default() };
        Room { available: self.available, spill_free: swap.0, spill: swap.1 }
    }
}

/// Reads /proc/meminfo.
pub fn info() -> Result<MemInfo> {
    let text = std::fs::read_to_string("/proc/meminfo").doing(|| "read /proc/meminfo")?;
    parse(&text).ok_or_else(|| Error::new("read /proc/meminfo", "it has no MemTotal"))
}

fn parse(text: &str) -> Option<MemInfo> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = decimal(line.trim().strip_suffix(" kB")?)?;
        Some(Bytes(kib.checked_mul(1024)?))
    };
    Some(MemInfo {
        total: field("MemTotal")?,
        // Kernels before 3.14 don't estimate it.
        available: field("MemAvailable").or_else(|| field("MemFree"))?,
        dirty: field("Dirty").unwrap_or_default(),
        writeback: field("Writeback").unwrap_or_default(),
        swap_total: field("SwapTotal").unwrap_or_default(),
        swap_free: field("SwapFree").unwrap_or_default(),
    })
}

/// How much of written data the kernel may keep in the page cache, for all filesystems: when it
/// begins to write, and when it makes writers wait (vm.dirty_background_bytes, vm.dirty_bytes). 0
/// means that a share of the memory counts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLimits {
    /// Begins to write.
    pub background: u64,
    /// Makes writers wait.
    pub most: u64,
    /// The shares that count when these are 0, in percent.
    pub ratios: (u64, u64),
}

const VM: &str = "/proc/sys/vm";
const NAMES: [&str; 4] =
    ["dirty_background_bytes", "dirty_bytes", "dirty_background_ratio", "dirty_ratio"];

impl DirtyLimits {
    /// As they are now.
    pub fn now() -> Option<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("{VM}/{name}")).ok()?;
            decimal(text.trim())
        };
        let [a, b, c, d] = NAMES.map(read);
        Some(Self { background: a?, most: b?, ratios: (c?, d?) })
    }

    /// Sets them. What can't be set stays.
    pub fn set(&self) {
        let write = |name: &str, value: u64| {
            let _ = std::fs::write(format!("{VM}/{name}"), value.to_string());
        };
        let [background_bytes, bytes, background_ratio, ratio] = NAMES;
        // Setting one form makes the kernel drop the other.
        if self.most > 0 {
            write(background_bytes, self.background);
            write(bytes, self.most);
            write(background_bytes, self.background);
        } else {
            write(background_ratio, self.ratios.0);
            write(ratio, self.ratios.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:         250 kB\nMemFree: 10 kB\nMemAvailable:    100 kB\nDirty: 3 kB\n\
                    SwapTotal: 8 kB\nSwapFree: 4 kB\n";
        let expected = MemInfo {
            total: Bytes(256_000),
            available: Bytes(102_400),
            dirty: Bytes(3072),
            swap_total: Bytes(8192),
            swap_free: Bytes(4096),
            ..MemInfo::default()
        };
        assert_eq!(parse(text), Some(expected));
        let old = "MemTotal: 250 kB\nMemFree: 10 kB\n";
        assert_eq!(parse(old).unwrap().available, Bytes(10_240));
        for bad in ["", "MemTotal: x kB\nMemFree: 1 kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
