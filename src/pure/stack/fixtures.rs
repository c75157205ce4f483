//! Devices and tables from which the tests of the plan and of the handover build stacks.

use crate::pure::dm::status::Usage;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::units::{DevNo, Sectors};

pub const CARD: DevNo = DevNo { major: 8, minor: 1 };
pub const ORIGIN: DevNo = DevNo { major: 253, minor: 0 };
pub const ROOT: DevNo = DevNo { major: 253, minor: 1 };
pub const SEALED: DevNo = DevNo { major: 253, minor: 2 };
/// What root wrote before a seal.
pub const OLD_COW: DevNo = DevNo { major: 7, minor: 0 };
pub const NEW_COW: DevNo = DevNo { major: 7, minor: 1 };
pub const LENGTH: Sectors = Sectors(1 << 18);

/// A store that holds `data` sectors of data.
pub fn used(data: u64) -> SnapshotStatus {
    let (total, metadata) = (Sectors(1 << 15), Sectors(16));
    SnapshotStatus::Used(Usage { allocated: Sectors(16 + data), total, metadata })
}

pub fn linear(device: DevNo) -> Target {
    Target::Linear { device, offset: Sectors(0) }
}

pub fn snapshot(origin: DevNo, cow: DevNo) -> Target {
    Target::Snapshot { origin, cow, chunk: 8 }
}

pub fn merge(origin: DevNo, cow: DevNo) -> Target {
    Target::SnapshotMerge { origin, cow, chunk: 8 }
}
