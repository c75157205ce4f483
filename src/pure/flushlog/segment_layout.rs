//! Lays out a segment: its head and table as bytes, and its commit record.

use super::chain::Chain;
use super::records::{Commit, Entry, FINGERPRINTS, Fingerprint, Head, Link, RECORD_BYTES};
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::crc::crc32c;

/// A segment that is to be written behind a chain.
pub struct Layout {
    /// Its head; the table's checksum is in it.
    pub head: Head,
    /// Head and table, in whole chunks.
    pub bytes: Vec<u8>,
}

/// Lays out a segment behind `chain`. `table` is ascending by chunk of root; `random` gives the
/// segment its number; `when` is in seconds since 1970.
pub fn segment(
    chain: &Chain,
    table: &[Entry],
    fingerprints: [Fingerprint; FINGERPRINTS],
    random: u64,
    when: i64,
) -> Layout {
    let mut bytes = vec![0; RECORD_BYTES];
    bytes.extend(table.iter().flat_map(Entry::encode));
    let sequence = chain.next.sequence.saturating_add(1);
    let head = Head {
        log: chain.header.uuid,
        generation: chain.header.start.id,
        id: unique(random, sequence),
        previous: chain.next.id,
        sequence,
        position: chain.next.position,
        count: u32::try_from(table.len()).unwrap_or(u32::MAX),
        table: crc32c(bytes.get(RECORD_BYTES..).unwrap_or_default()),
        when,
        fingerprints,
    };
    if let Some(record) = bytes.first_chunk_mut() {
        *record = head.encode();
    }
    bytes.resize(bytes.len().next_multiple_of(CHUNK_BYTES), 0);
    Layout { head, bytes }
}

/// The commit record of a segment; `behind` is the checksum of what stands behind it.
pub fn commit(chain: &Chain, head: &Head, behind: u32) -> Commit {
    let position = chain.ring.aligned(head.commit().saturating_add(1));
    Commit {
        log: head.log,
        generation: head.generation,
        position: head.position,
        link: Link { id: head.id, sequence: head.sequence, position, behind },
    }
}

/// A number that no other segment has. A machine without a clock or a source of randomness may draw
/// the same number after every boot, but its sequence numbers differ.
pub fn unique(random: u64, sequence: u64) -> u64 {
    // An odd factor maps different sequence numbers to different values.
    random ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn a_machine_that_draws_the_same_number_again_gives_no_segment_another_ones() {
        let mut ids: Vec<u64> = (0..1000).map(|sequence| unique(77, sequence)).collect();
        ids.extend((1..1000).map(|random| unique(random << 20, 0)));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1999);
        // Each bit of the drawn number counts, and each of the sequence's number.
        for bit in 0..64 {
            assert_ne!(unique(1 << bit, 5), unique(0, 5));
            assert_ne!(unique(u64::MAX, 1 << bit), unique(u64::MAX, 0));
        }
    }
}
