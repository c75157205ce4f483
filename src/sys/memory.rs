//! Memory: how much there is, and keeping our own in place.

use nix::sys::mman::{MlockAllFlags, mlockall};

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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text =
            "MemTotal:         250 kB\nMemFree: 10 kB\nMemAvailable:    100 kB\nDirty: 3 kB\n";
        let (total, available, dirty) = (Bytes(256_000), Bytes(102_400), Bytes(3072));
        assert_eq!(parse(text), Some(MemInfo { total, available, dirty }));
        let old = "MemTotal: 250 kB\nMemFree: 10 kB\n";
        assert_eq!(parse(old).unwrap().available, Bytes(10_240));
        for bad in ["", "MemTotal: x kB\nMemFree: 1 kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
