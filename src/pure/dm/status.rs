//! The status line of `snapshot` and `snapshot-merge`.
//!
//! Words: `snapshot_status` in the kernel's drivers/md/dm-snap.c.

use crate::pure::units::{Sectors, decimal};

/// How an exception store is used, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Sectors in use: header, metadata and data.
    pub allocated: Sectors,
    /// Size of the COW device.
    pub total: Sectors,
    /// Of `allocated`, the part that is header and metadata.
    pub metadata: Sectors,
}

impl Usage {
    /// Sectors of data that differ from the origin; while merging, what is still to be merged.
    pub const fn data(&self) -> Sectors {
        Sectors(self.allocated.0.saturating_sub(self.metadata.0))
    }
}

/// What a `snapshot` or `snapshot-merge` target says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// Working.
    Used(Usage),
    /// The COW is full: writes fail, reads go on.
    Overflow,
    /// The COW was lost: every read and write fails.
    Invalid,
    /// The card or the COW refused an I/O: the merge stopped, reads go on.
    MergeFailed,
    /// A line this version does not know.
    Unknown,
}

impl SnapshotStatus {
    /// Reads the line that DM_TABLE_STATUS prints.
    pub fn parse(text: &str) -> Self {
        match text.trim_ascii() {
            "Invalid" => Self::Invalid,
            "Overflow" => Self::Overflow,
            "Merge failed" => Self::MergeFailed,
            line => usage(line).map_or(Self::Unknown, Self::Used),
        }
    }
}

/// `allocated/total metadata`, in sectors.
fn usage(line: &str) -> Option<Usage> {
    let (used, metadata) = line.split_once(' ')?;
    let (allocated, total) = used.split_once('/')?;
    Some(Usage {
        allocated: Sectors(decimal(allocated)?),
        total: Sectors(decimal(total)?),
        metadata: Sectors(decimal(metadata)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_lines() {
        let used = SnapshotStatus::parse("2072/204800 24");
        let expected =
            Usage { allocated: Sectors(2072), total: Sectors(204_800), metadata: Sectors(24) };
        assert_eq!(used, SnapshotStatus::Used(expected));
        assert_eq!(expected.data(), Sectors(2048));
        assert_eq!(SnapshotStatus::parse("Invalid"), SnapshotStatus::Invalid);
        assert_eq!(SnapshotStatus::parse("Overflow"), SnapshotStatus::Overflow);
        assert_eq!(SnapshotStatus::parse("Merge failed"), SnapshotStatus::MergeFailed);
    }

    #[test]
    fn anything_else_is_unknown() {
        for line in ["", "Unknown", "1/2", "1 2 3", "a/b c", "-1/2 3", "1/2 3 4"] {
            assert_eq!(SnapshotStatus::parse(line), SnapshotStatus::Unknown, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line_parses(line in ".{0,60}") {
            let _ = SnapshotStatus::parse(&line);
        }
    }
}
