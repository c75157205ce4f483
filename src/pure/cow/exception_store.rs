//! The persistent exception store of dm-snapshot.
//!
//! Source: drivers/md/dm-snap-persistent.c. All numbers are little-endian.
//!
//! * chunk 0: the header: magic `SnAp`, valid, version, chunk size in sectors (4 × u32);
//! * metadata area `a` is the chunk `1 + a·(epa + 1)`, where `epa`, the exceptions per area, is
//!   the chunk's bytes / 16; the chunks between two areas hold data;
//! * an exception is (old chunk on the origin, new chunk on the COW), 2 × u64; the first one
//!   whose new chunk is 0 ends the table.

use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS, Chunk};

/// Exceptions in one metadata area (`epa`).
pub const PER_AREA: u64 = (CHUNK_BYTES / EXCEPTION_BYTES) as u64;

const EXCEPTION_BYTES: usize = 16;
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;

/// One remapped chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exception {
    /// Chunk number on the origin.
    pub old: u64,
    /// Chunk number on the COW device.
    pub new: u64,
}

/// Why a store can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The header's magic number is not a snapshot's.
    Magic,
    /// The kernel has marked the store invalid.
    Invalid,
    /// The header's version is not 1.
    Version(u32),
    /// The header's chunk size, in sectors, is not cowflush's.
    ChunkSize(u32),
    /// An exception's old chunk lies behind the end of the origin.
    OutsideOrigin(Exception),
    /// An exception's new chunk is not a data chunk of the COW.
    OutsideCow(Exception),
    /// Two exceptions have the same old chunk.
    Twice(Exception),
}

impl core::fmt::Display for Defect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Defect::Magic => write!(f, "its COW has no snapshot header"),
            Defect::Invalid => write!(f, "its COW is marked invalid"),
            Defect::Version(found) => write!(f, "its COW has version {found}, expected {VERSION}"),
            Defect::ChunkSize(found) => {
                write!(f, "its COW has chunks of {found} sectors, expected {CHUNK_SECTORS}")
            }
            Defect::OutsideOrigin(e) => {
                write!(f, "its COW maps chunk {}, which is not on the card", e.old)
            }
            Defect::OutsideCow(e) => {
                write!(f, "its COW maps chunk {} to {}, which holds no data", e.old, e.new)
            }
            Defect::Twice(e) => write!(f, "its COW maps chunk {} twice", e.old),
        }
    }
}

/// The header of a fresh, valid store.
pub fn header() -> [u8; 16] {
    let mut bytes = [0; 16];
    let fields = [MAGIC, 1, VERSION, CHUNK_SECTORS];
    for (slot, field) in bytes.chunks_exact_mut(4).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// Checks chunk 0.
pub fn check_header(chunk: &Chunk) -> Result<(), Defect> {
    let mut fields = chunk.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let mut next = || fields.next().unwrap_or(0);
    let (magic, valid, version, chunk_sectors) = (next(), next(), next(), next());
    if magic != MAGIC {
        Err(Defect::Magic)
    } else if valid == 0 {
        Err(Defect::Invalid)
    } else if version != VERSION {
        Err(Defect::Version(version))
    } else if chunk_sectors != CHUNK_SECTORS {
        Err(Defect::ChunkSize(chunk_sectors))
    } else {
        Ok(())
    }
}

/// Where metadata area `area` stands, as a chunk number.
pub const fn area_chunk(area: u64) -> u64 {
    area.saturating_mul(PER_AREA + 1).saturating_add(1)
}

/// Whether chunk `new` of a COW holds data, not the header or metadata.
pub const fn is_data_chunk(new: u64) -> bool {
    new >= 2 && !(new - 1).is_multiple_of(PER_AREA + 1)
}

/// The exceptions of one metadata area, up to the end mark; 256 of them mean that the next area
/// belongs to the table as well.
pub fn exceptions(area: &Chunk) -> impl Iterator<Item = Exception> {
    let words = |pair: &[u8; EXCEPTION_BYTES]| {
        let (old, new) = pair.split_at(8);
        Exception { old: le64(old), new: le64(new) }
    };
    area.as_chunks::<EXCEPTION_BYTES>().0.iter().map(words).take_while(|e| e.new != 0)
}

/// Writes exception number `index` (below 256) of an area; a larger index writes nothing.
pub fn put_exception(area: &mut Chunk, index: usize, exception: Exception) {
    if let Some(slot) = area.as_chunks_mut::<EXCEPTION_BYTES>().0.get_mut(index) {
        let (old, new) = slot.split_at_mut(8);
        old.copy_from_slice(&exception.old.to_le_bytes());
        new.copy_from_slice(&exception.new.to_le_bytes());
    }
}

/// Sorts a table by old chunk and refuses one that points outside its devices or maps a chunk
/// twice. Sizes are in chunks; a last, partial chunk of the origin counts.
pub fn sort_checked(
    table: &mut [Exception],
    origin_chunks: u64,
    cow_chunks: u64,
) -> Result<(), Defect> {
    table.sort_unstable();
    let mut previous = None;
    for &exception in table.iter() {
        if exception.old >= origin_chunks {
            return Err(Defect::OutsideOrigin(exception));
        }
        if exception.new >= cow_chunks || !is_data_chunk(exception.new) {
            return Err(Defect::OutsideCow(exception));
        }
        if previous == Some(exception.old) {
            return Err(Defect::Twice(exception));
        }
        previous = Some(exception.old);
    }
    Ok(())
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk_of(start: &[u8]) -> Chunk {
        let mut chunk = [0; CHUNK_BYTES];
        chunk[..start.len()].copy_from_slice(start);
        chunk
    }

    #[test]
    fn the_header_is_the_kernels() {
        let bytes = *b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0";
        assert_eq!(header(), bytes);
        assert_eq!(check_header(&chunk_of(&bytes)), Ok(()));
    }

    #[test]
    fn each_wrong_header_field_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = header();
            bytes[at] = value;
            check_header(&chunk_of(&bytes)).unwrap_err()
        };
        for (at, value, defect, said) in [
            (0, 0, Defect::Magic, "its COW has no snapshot header"),
            (4, 0, Defect::Invalid, "its COW is marked invalid"),
            (8, 2, Defect::Version(2), "its COW has version 2, expected 1"),
            (12, 16, Defect::ChunkSize(16), "its COW has chunks of 16 sectors, expected 8"),
        ] {
            assert_eq!((with(at, value), with(at, value).to_string().as_str()), (defect, said));
        }
    }

    #[test]
    fn areas_stand_where_the_kernel_puts_them() {
        assert_eq!([area_chunk(0), area_chunk(1), area_chunk(2)], [1, 258, 515]);
        assert!([0, 1, 258, 515].iter().all(|&chunk| !is_data_chunk(chunk)));
        assert!([2, 257, 259, 514, 516].iter().all(|&chunk| is_data_chunk(chunk)));
        let _ = area_chunk(u64::MAX);
    }

    #[test]
    fn exceptions_end_at_the_first_zero() {
        let mut area = [0; CHUNK_BYTES];
        let written = [Exception { old: 7, new: 2 }, Exception { old: u64::MAX, new: 3 }];
        put_exception(&mut area, 0, written[0]);
        put_exception(&mut area, 1, written[1]);
        put_exception(&mut area, 3, Exception { old: 1, new: 9 });
        put_exception(&mut area, 256, Exception { old: 1, new: 9 });
        assert_eq!(exceptions(&area).collect::<Vec<_>>(), written);
    }

    #[test]
    fn hostile_tables_are_refused() {
        let check = |old, new| {
            sort_checked(&mut [Exception { old, new }, Exception { old: 5, new: 3 }], 10, 300)
        };
        assert_eq!(check(9, 2), Ok(()));
        assert!(matches!(check(10, 2), Err(Defect::OutsideOrigin(_))));
        assert!(matches!(check(u64::MAX, 2), Err(Defect::OutsideOrigin(_))));
        for new in [0, 1, 258, 300, u64::MAX] {
            assert!(matches!(check(9, new), Err(Defect::OutsideCow(_))), "{new}");
        }
        assert!(matches!(check(5, 2), Err(Defect::Twice(_))));
        for (old, new, said) in [
            (10, 2, "its COW maps chunk 10, which is not on the card"),
            (9, 258, "its COW maps chunk 9 to 258, which holds no data"),
            (5, 2, "its COW maps chunk 5 twice"),
        ] {
            assert_eq!(check(old, new).unwrap_err().to_string(), said);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(start in prop::collection::vec(any::<u8>(), 0..CHUNK_BYTES)) {
            let chunk = chunk_of(&start);
            if let Err(defect) = check_header(&chunk) {
                let _ = defect.to_string();
            }
            let mut table: Vec<_> = exceptions(&chunk).collect();
            prop_assert!(table.len() <= PER_AREA as usize);
            let _ = sort_checked(&mut table, 1 << 20, 1 << 16);
        }
    }
}
