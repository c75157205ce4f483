//! How many chunks dm-snapshot puts into COWs at once.

/// For each snapshot: beyond so many chunks under way, writes wait for earlier ones. It takes effect at
/// once, and where the kernel has no such parameter nothing changes.
const PARAMETER: &str = "/sys/module/dm_snapshot/parameters/snapshot_cow_threshold";

/// Sets it.
pub fn set(chunks: u64) {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        return;
    }
    let _ = std::fs::write(PARAMETER, chunks.to_string());
}
