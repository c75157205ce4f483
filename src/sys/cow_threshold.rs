//! Sets how many chunks dm-snapshot puts into COWs at once.

/// The limit for each snapshot: beyond this many chunks under way, writes wait for earlier ones. It
/// takes effect at once. Where the kernel has no such parameter nothing changes.
const PARAMETER: &str = "/sys/module/dm_snapshot/parameters/snapshot_cow_threshold";

/// Sets the limit.
pub fn set(chunks: u64) {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        return;
    }
    let _ = std::fs::write(PARAMETER, chunks.to_string());
}
