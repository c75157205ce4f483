//! CRC-32C (Castagnoli), as iSCSI (RFC 3720) and ext4 use it.

const POLYNOMIAL: u32 = 0x82f6_3b78;
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        // A const fn has no iterators; the index stays below 256.
        #[allow(clippy::indexing_slicing)]
        {
            table[byte] = value;
        }
        byte += 1;
    }
    table
}

/// The checksum of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// Goes on with a checksum's inner state, which begins as `!0` and is inverted at the end.
pub fn update(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        let index = (state as u8 ^ byte) as usize;
        TABLE.get(index).copied().unwrap_or(0) ^ state >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_values() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!update(update(!0, b"1234"), b"56789"), 0xe306_9283);
    }
}
