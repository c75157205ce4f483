//! The device of a COW whose memory must not count against the memory limit of the process that
//! writes to root: its name, its table, its sizes. No I/O.
//!
//! The kernel's loop device charges a page of the file behind it to the process that sent the
//! request, where the kernel has cgroups for both: the page counts against that process's memory
//! limit. A page that exists already is charged to nobody. So between root and the loop device
//! stands one more snapshot, of a *blank* device that is all zeros, with a store that has no
//! metadata. Its chunks are far larger than those of root, so no request is ever a whole chunk, and
//! the kernel copies a chunk from the blank before it lets the first request to it through. A
//! kernel thread makes that copy, so no process is charged for it.

use core::fmt::Write;

use crate::pure::dm::target::Params;
use crate::pure::units::{Bytes, DevNo, Sectors, decimal};

/// What the names of these devices begin with; a number follows.
pub const PREFIX: &str = "cowflush-cow-";

/// How many may be there at once. A flush needs two, three while one is being taken away.
pub const MOST: u32 = 16;

/// The target's kind.
pub const KIND: &str = "snapshot";

/// How much the kernel copies at once, in sectors: a power of two, and more than a page, which is
/// root's chunk. At most this much is wasted at a COW's end.
pub const CHUNK: u64 = 512;

/// The name of the device with this number.
pub fn name(number: u32) -> heapless::String<32> {
    let mut name = heapless::String::new();
    // Ten digits fit.
    let _ = write!(name, "{PREFIX}{number}");
    name
}

/// What such a device stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// All zeros.
    pub blank: DevNo,
    /// Where the memory is.
    pub data: DevNo,
}

impl Store {
    /// The text for DM_TABLE_LOAD: a snapshot whose table is in memory alone (`N`).
    pub fn params(&self) -> Params {
        let mut text = Params::new();
        // Four numbers and the flag fit.
        let _ = write!(text, "{} {} N {CHUNK}", self.blank, self.data);
        text
    }

    /// Reads what DM_TABLE_STATUS prints; `None` for any other table.
    pub fn parse(kind: &str, params: &str) -> Option<Self> {
        let mut words = params.split_ascii_whitespace();
        let store =
            Self { blank: DevNo::parse(words.next()?)?, data: DevNo::parse(words.next()?)? };
        let ours = kind == KIND && words.next()? == "N" && decimal::<u64>(words.next()?)? == CHUNK;
        ours.then_some(store)
    }
}

/// The size of the devices under a COW of at most `size` bytes: whole chunks. The kernel
/// invalidates the whole snapshot if a chunk does not fit.
pub fn room(size: Bytes) -> Bytes {
    let chunk = Sectors(CHUNK).bytes().0;
    Bytes(size.0.div_ceil(chunk).saturating_mul(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLANK: DevNo = DevNo { major: 7, minor: 1 };
    const DATA: DevNo = DevNo { major: 7, minor: 0 };

    #[test]
    fn a_table_reads_back() {
        let store = Store { blank: BLANK, data: DATA };
        assert_eq!(store.params().as_str(), "7:1 7:0 N 512");
        assert_eq!(Store::parse(KIND, &store.params()), Some(store));
        let most = DevNo { major: u32::MAX, minor: u32::MAX };
        let most = Store { blank: most, data: most };
        assert_eq!(Store::parse(KIND, &most.params()), Some(most));
    }

    #[test]
    fn another_table_is_none_of_ours() {
        for (kind, params) in [
            ("linear", "7:1 7:0 N 512"),
            ("snapshot", "7:1 7:0 PO 8"),
            ("snapshot", "7:1 7:0 N 8"),
            ("snapshot", "7:1 7:0 N"),
            ("snapshot", "7:1"),
            ("snapshot", ""),
        ] {
            assert_eq!(Store::parse(kind, params), None, "{kind} {params}");
        }
    }

    #[test]
    fn a_request_of_root_is_never_a_whole_chunk() {
        assert!(CHUNK.is_power_of_two());
        assert!(CHUNK > u64::from(crate::pure::chunks::CHUNK_SECTORS));
    }

    #[test]
    fn each_chunk_fits_into_what_is_below() {
        let chunk = CHUNK * 512;
        for (size, wanted) in [(0, 0), (1, 1), (chunk, 1), (chunk + 1, 2), (5 * chunk, 5)] {
            assert_eq!(room(Bytes(size)), Bytes(wanted * chunk), "{size}");
        }
    }

    #[test]
    fn names_are_told_from_the_stacks() {
        for number in [0, u32::MAX] {
            let name = name(number);
            assert!(name.starts_with(PREFIX) && name.len() > PREFIX.len());
            assert!(crate::pure::stack::Name::ALL.iter().all(|other| other.text() != name));
        }
        assert!(crate::pure::stack::Name::ALL.iter().all(|name| !name.text().starts_with(PREFIX)));
    }
}
