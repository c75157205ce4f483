//! How much memory there is.

use super::swap::{self, Area};
use crate::error::{Doing, Error, Result};
use crate::pure::policy::meminfo::MemInfo;
use crate::pure::units::{Bytes, decimal};

/// Reads /proc/meminfo.
pub fn info() -> Result<MemInfo> {
    ask!(memory());
    let text = std::fs::read_to_string("/proc/meminfo").doing(|| "read /proc/meminfo")?;
    let mut memory = parse(&text).ok_or_else(|| {
        Error::new("read /proc/meminfo", "it has no MemTotal").advise("Is it proc that is mounted?")
    })?;
    if memory.swap_total.0 > 0 {
        count_swap(&mut memory, &swap::areas());
    }
    Ok(memory)
}

/// Counts the swap areas that give COWs room. zram does not: it is RAM. A swap file does not: it
/// may be on root, whose writes go to RAM.
fn count_swap(memory: &mut MemInfo, areas: &[Area]) {
    let (mut total, mut used) = (0u64, 0u64);
    for area in areas.iter().filter(|area| !area.is_file && !swap::is_zram(&area.path)) {
        total = total.saturating_add(area.size.0);
        used = used.saturating_add(area.used.0);
    }
    (memory.swap_total, memory.swap_free) = (Bytes(total), Bytes(total.saturating_sub(used)));
}

fn parse(text: &str) -> Option<MemInfo> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = decimal(line.trim().strip_suffix(" kB")?)?;
        Some(Bytes(kib.checked_mul(1024)?))
    };
    Some(MemInfo {
        // Percentages of it are computed, so it must not be 0.
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
        let area = |path: &str, is_file, size, used| Area {
            path: path.into(),
            is_file,
            size: Bytes(size),
            used: Bytes(used),
            flags: 0,
        };
        let mut memory = expected;
        let areas = [
            area("/dev/sda3", false, 100, 30),
            area("/dev/zram0", false, 1000, 0),
            area("/swapfile", true, 1000, 0),
            area("/dev/sdb", false, 50, 5),
        ];
        count_swap(&mut memory, &areas);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(150), Bytes(115)));
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
