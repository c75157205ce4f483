//! Fields of structures on disk. Each structure is a table of its fields, with the names that its
//! source has.

use core::marker::PhantomData;

/// What a field can hold, and how it stands on disk.
pub trait Stored {
    /// What is read.
    type Value;
    /// How many bytes it takes.
    const BYTES: usize;
    /// Reads it from the beginning of `bytes`; what lies behind their end is 0.
    fn read(bytes: &[u8]) -> Self::Value;
}

macro_rules! stored {
    ($($number:ty, $value:ty, $from:expr;)+) => {
        $(impl Stored for $number {
            type Value = $value;
            const BYTES: usize = size_of::<$value>();

            fn read(bytes: &[u8]) -> $value {
                bytes.first_chunk().map_or(0, |word| $from(*word))
            }
        })+
    };
}

/// A big-endian number of 32 bits. All other numbers are little-endian.
pub enum BigEndian32 {}

stored! {
    u8, u8, u8::from_le_bytes;
    u16, u16, u16::from_le_bytes;
    u32, u32, u32::from_le_bytes;
    u64, u64, u64::from_le_bytes;
    BigEndian32, u32, u32::from_be_bytes;
}

impl<const N: usize> Stored for [u8; N] {
    type Value = [u8; N];
    const BYTES: usize = N;

    fn read(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
}

/// A place in a structure, and what stands there.
pub struct Field<T> {
    /// Bytes from the beginning of the structure.
    pub at: usize,
    stored: PhantomData<T>,
}

impl<T: Stored> Field<T> {
    /// The field at that place.
    pub const fn at(at: usize) -> Self {
        Self { at, stored: PhantomData }
    }

    /// What it holds in a structure that begins with `bytes`.
    pub fn of(&self, bytes: &[u8]) -> T::Value {
        T::read(bytes.get(self.at..).unwrap_or_default())
    }

    /// The same; `None` where the structure ends before it.
    pub fn within(&self, bytes: &[u8]) -> Option<T::Value> {
        bytes.get(self.range()).map(T::read)
    }

    /// Its place in a structure.
    pub const fn range(&self) -> core::ops::Range<usize> {
        self.at..self.at + T::BYTES
    }
}

/// Declares the fields of a structure, each as `NAME: type at place`, in their order.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $stored:ty = $at:literal,)+) => {
        $(
            #[doc = concat!("At byte ", stringify!($at), ".\n")]
            $(#[$doc])*
            pub const $name: $crate::pure::field::Field<$stored> =
                $crate::pure::field::Field::at($at);
        )+

        // None overlaps the one before it.
        const _: () = {
            let mut end = 0;
            $(
                assert!($name.at >= end);
                end = $name.range().end;
            )+
            let _ = end;
        };
    };
}
pub(crate) use fields;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_at_its_place_in_its_order_and_is_zero_behind_the_end() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(Field::<u8>::at(4).of(&bytes), 5);
        assert_eq!(Field::<u16>::at(1).of(&bytes), 0x0302);
        assert_eq!(Field::<u32>::at(1).of(&bytes), 0x0504_0302);
        assert_eq!(Field::<BigEndian32>::at(1).of(&bytes), 0x0203_0405);
        assert_eq!(Field::<[u8; 2]>::at(3).of(&bytes), [4, 5]);
        assert_eq!(Field::<u32>::at(2).of(&bytes), 0, "a part of it is missing");
        assert_eq!(Field::<u32>::at(9).of(&bytes), 0);
        assert_eq!(Field::<u32>::at(2).range(), 2..6);
        assert_eq!(Field::<u32>::at(1).within(&bytes), Some(0x0504_0302));
        assert_eq!(Field::<u32>::at(2).within(&bytes), None);
    }
}
