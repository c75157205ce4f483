//! Where the parts of the log stand in its partition. Pure arithmetic, in chunks of 4096 bytes.
//!
//! ```text
//! chunk 0      the header
//! first …      the ring: segments one after the other, from its end on to its start
//! last chunk   the header once more
//! ```
//!
//! A *position* counts chunks ever written to the ring, padding included: it only grows, and the
//! chunk of the partition is `first + position mod length`.

/// The smallest ring that is worth having: one mebibyte.
pub const SMALLEST: u64 = 256;

/// The ring of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// First chunk of the ring.
    pub first: u64,
    /// Chunks in it.
    pub length: u64,
    /// Segments begin at a multiple of this many chunks.
    pub align: u64,
}

impl Ring {
    /// The ring of a log of `chunks`, whose segments begin at a multiple of `align` chunks.
    /// `None` when that leaves less than [`SMALLEST`].
    pub fn new(chunks: u64, align: u32) -> Option<Self> {
        let align = u64::from(align).max(1);
        let behind_header = chunks.checked_sub(1)?.checked_sub(align)?;
        let length = behind_header / align * align;
        (length >= SMALLEST).then_some(Self { first: align, length, align })
    }

    /// The chunk of the partition at a position.
    pub fn chunk(&self, position: u64) -> u64 {
        self.first.saturating_add(position % self.length.max(1))
    }

    /// How many chunks from a position on stand next to each other, before the ring's end.
    pub fn contiguous(&self, position: u64) -> u64 {
        self.length.saturating_sub(position % self.length.max(1))
    }

    /// The first position at or behind `position` where a segment may begin.
    pub fn aligned(&self, position: u64) -> u64 {
        position.div_ceil(self.align.max(1)).saturating_mul(self.align.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ring_lies_between_the_headers() {
        let packed = Ring::new(16384, 1).unwrap();
        assert_eq!((packed.first, packed.length), (1, 16382));
        let padded = Ring::new(16384, 32).unwrap();
        assert_eq!((padded.first, padded.length), (32, 16320));
        assert_eq!(padded.chunk(16320), 32);
        assert_eq!((padded.aligned(33), padded.aligned(64)), (64, 64));
        assert_eq!(padded.contiguous(16300), 20);
        assert_eq!(Ring::new(0, 1), None);
        assert_eq!(Ring::new(257, 1), None);
        assert_eq!(Ring::new(u64::MAX, u32::MAX).map(|ring| ring.align), Some(u32::MAX.into()));
    }

    proptest! {
        #[test]
        fn every_position_is_inside(chunks: u64, align: u32, position: u64) {
            if let Some(ring) = Ring::new(chunks, align) {
                let chunk = ring.chunk(position);
                prop_assert!(chunk >= 1 && chunk < chunks - 1);
                prop_assert!(ring.contiguous(position) >= 1);
                let _ = ring.aligned(position);
            }
        }
    }
}
