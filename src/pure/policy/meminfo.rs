//! How much memory there is, and what of it COWs could get.

use crate::pure::policy::cow_memory::Room;
use crate::pure::units::Bytes;

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
    /// The swap areas in use, except zram, which is RAM again, and files, which may be on root.
    pub swap_total: Bytes,
    /// What is free in them.
    pub swap_free: Bytes,
}

impl MemInfo {
    /// Written to files, and not on their devices yet.
    pub fn unwritten(&self) -> Bytes {
        Bytes(self.dirty.0.saturating_add(self.writeback.0))
    }

    /// What COWs could get in addition to what they hold; with swap when there is a spill area.
    pub fn room(&self, spill: bool) -> Room {
        let swap = if spill { (self.swap_free, self.swap_total) } else { Default::default() };
        Room { available: self.available, spill_free: swap.0, spill: swap.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_to_the_devices_is_unwritten_too() {
        let info = MemInfo { dirty: Bytes(3), writeback: Bytes(4), ..MemInfo::default() };
        assert_eq!(info.unwritten(), Bytes(7));
    }
}
