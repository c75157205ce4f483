//! Memory: how much there is.

use crate::cow::size::Room;
use crate::error::{Doing, Error, Result};
use crate::units::{Bytes, decimal};

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
    /// Written to files, and not on their devices yet.
    pub fn unwritten(&self) -> Bytes {
        Bytes(self.dirty.0.saturating_add(self.writeback.0))
    }

    /// What COWs could get, beside what they hold; with swap when there is a spill area.
    pub fn room(&self, spill: bool) -> Room {
        let swap = if spill { (self.swap_free, self.swap_total) } else { Default::default() };
        Room { available: self.available, spill_free: swap.0, spill: swap.1 }
    }
}

/// Reads /proc/meminfo.
pub fn info() -> Result<MemInfo> {
    let text = std::fs::read_to_string("/proc/meminfo").doing(|| "read /proc/meminfo")?;
    parse(&text).ok_or_else(|| {
        Error::new("read /proc/meminfo", "it has no MemTotal").advise("Is it proc that is mounted?")
    })
}

fn parse(text: &str) -> Option<MemInfo> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = decimal(line.trim().strip_suffix(" kB")?)?;
        Some(Bytes(kib.checked_mul(1024)?))
    };
    Some(MemInfo {
        // Shares of it are asked for.
        total: field("MemTotal").filter(|total| total.0 > 0)?,
        // Kernels before 3.14 don't estimate it.
        available: field("MemAvailable").or_else(|| field("MemFree"))?,
        dirty: field("Dirty").unwrap_or_default(),
        writeback: field("Writeback").unwrap_or_default(),
        swap_total: field("SwapTotal").unwrap_or_default(),
        swap_free: field("SwapFree").unwrap_or_default(),
    })
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
        for bad in [
            "",
            "MemTotal: x kB\nMemFree: 1 kB",
            "MemTotal: 0 kB\nMemFree: 1 kB",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
