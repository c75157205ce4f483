//! How many chunks dm-snapshot puts into COWs at once.

use crate::units::decimal;

/// For each snapshot: beyond so many chunks under way, writes wait for earlier ones. It takes effect at
/// once, and where the kernel has no such parameter nothing changes.
const PARAMETER: &str = "/sys/module/dm_snapshot/parameters/snapshot_cow_threshold";

/// What it is now.
pub fn get() -> Option<u64> {
    decimal(std::fs::read_to_string(PARAMETER).ok()?.trim())
}

/// Sets it.
pub fn set(chunks: u64) {
    let _ = std::fs::write(PARAMETER, chunks.to_string());
}
