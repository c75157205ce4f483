//! Targets and the parameter text the kernel takes and prints for them.
//!
//! Formats: the kernel's Documentation/admin-guide/device-mapper/{linear,snapshot}.rst.

use core::fmt::Write;

use crate::pure::units::{DevNo, Sectors, decimal};

/// Parameter text of one target. The longest is `snapshot-merge` with two device numbers, the
/// flags and a chunk size: 4 × 10 digits and some punctuation.
pub type Params = heapless::String<80>;

/// One target of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Sectors of `device` from `offset` on.
    Linear {
        /// What is mapped.
        device: DevNo,
        /// First sector of `device` that is mapped.
        offset: Sectors,
    },
    /// A snapshot of `origin` that writes to the persistent exception store on `cow`.
    Snapshot {
        /// What is read where nothing was written.
        origin: DevNo,
        /// The exception store.
        cow: DevNo,
        /// Chunk size in sectors.
        chunk: u32,
    },
    /// A snapshot whose exceptions the kernel copies into `origin`.
    SnapshotMerge {
        /// What the exceptions are copied into.
        origin: DevNo,
        /// The exception store.
        cow: DevNo,
        /// Chunk size in sectors.
        chunk: u32,
    },
    /// A target that cowflush never makes.
    Other,
}

/// Kernel name of the `snapshot-merge` target.
pub const SNAPSHOT_MERGE: &str = "snapshot-merge";

impl Target {
    /// The kernel's name of the target type.
    pub const fn kind(&self) -> &'static str {
        match self {
            Target::Linear { .. } => "linear",
            Target::Snapshot { .. } => "snapshot",
            Target::SnapshotMerge { .. } => SNAPSHOT_MERGE,
            Target::Other => "",
        }
    }

    /// The text for DM_TABLE_LOAD. Snapshots are made persistent with overflow support (`PO`):
    /// a full COW then fails writes but still answers reads.
    pub fn params(&self) -> Params {
        let mut text = Params::new();
        // The sizes above leave room for every value, so writing can't fail.
        let _ = match self {
            Target::Linear { device, offset } => write!(text, "{device} {offset}"),
            Target::Snapshot { origin, cow, chunk }
            | Target::SnapshotMerge { origin, cow, chunk } => {
                write!(text, "{origin} {cow} PO {chunk}")
            }
            Target::Other => Ok(()),
        };
        text
    }

    /// Reads what DM_TABLE_STATUS with the table flag prints; anything unknown is `Other`.
    pub fn parse(kind: &str, params: &str) -> Self {
        let mut words = params.split_ascii_whitespace();
        let mut next = || words.next().unwrap_or("");
        let parsed = match kind {
            "linear" => DevNo::parse(next()).and_then(|device| {
                Some(Target::Linear { device, offset: Sectors(decimal(next())?) })
            }),
            "snapshot" | SNAPSHOT_MERGE => (|| {
                let (origin, cow) = (DevNo::parse(next())?, DevNo::parse(next())?);
                let (persistent, chunk) = (next(), decimal(next())?);
                match (persistent, kind) {
                    ("P" | "PO", "snapshot") => Some(Target::Snapshot { origin, cow, chunk }),
                    ("P" | "PO", _) => Some(Target::SnapshotMerge { origin, cow, chunk }),
                    _ => None,
                }
            })(),
            _ => None,
        };
        parsed.unwrap_or(Target::Other)
    }
}

/// One line of a table: where in the mapped device a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// First sector of the mapped device that the target serves.
    pub start: Sectors,
    /// How many sectors it serves.
    pub length: Sectors,
    /// The target.
    pub target: Target,
}

impl Line {
    /// A table of one target over the whole device.
    pub const fn whole(length: Sectors, target: Target) -> Self {
        Self { start: Sectors(0), length, target }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CARD: DevNo = DevNo { major: 8, minor: 1 };
    const LOOP: DevNo = DevNo { major: 7, minor: 0 };

    #[test]
    fn golden_parameters() {
        let linear = Target::Linear { device: CARD, offset: Sectors(0) };
        assert_eq!((linear.kind(), linear.params().as_str()), ("linear", "8:1 0"));
        let snapshot = Target::Snapshot { origin: CARD, cow: LOOP, chunk: 8 };
        assert_eq!((snapshot.kind(), snapshot.params().as_str()), ("snapshot", "8:1 7:0 PO 8"));
        let merge = Target::SnapshotMerge { origin: CARD, cow: LOOP, chunk: 8 };
        assert_eq!((merge.kind(), merge.params().as_str()), ("snapshot-merge", "8:1 7:0 PO 8"));
    }

    #[test]
    fn the_longest_parameters_fit() {
        let most = DevNo { major: u32::MAX, minor: u32::MAX };
        let merge = Target::SnapshotMerge { origin: most, cow: most, chunk: u32::MAX };
        assert_eq!(Target::parse(merge.kind(), &merge.params()), merge);
        let linear = Target::Linear { device: most, offset: Sectors(u64::MAX) };
        assert_eq!(Target::parse(linear.kind(), &linear.params()), linear);
    }

    #[test]
    fn foreign_targets_are_other() {
        for (kind, params) in [
            ("crypt", "aes 0 8:1 0"),
            ("snapshot", "8:1 7:0 N 8"),
            ("snapshot", "8:1"),
            ("linear", "8:1"),
            ("linear", "sda1 0"),
            ("", ""),
        ] {
            assert_eq!(Target::parse(kind, params), Target::Other, "{kind} {params}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses(kind in ".{0,20}", params in ".{0,80}") {
            let _ = Target::parse(&kind, &params);
        }
    }

    #[test]
    fn what_is_loaded_reads_back_with_and_without_overflow() {
        let all = [
            Target::Linear { device: CARD, offset: Sectors(63) },
            Target::Snapshot { origin: CARD, cow: LOOP, chunk: 8 },
            Target::SnapshotMerge { origin: CARD, cow: LOOP, chunk: 8 },
        ];
        for target in all {
            assert_eq!(Target::parse(target.kind(), &target.params()), target);
            let plain = target.params().replace("PO", "P");
            assert_eq!(Target::parse(target.kind(), &plain), target, "{plain}");
        }
        assert_eq!((Target::Other.kind(), Target::Other.params().as_str()), ("", ""));
    }
}
