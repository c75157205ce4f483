//! How many boots in a row have begun on the stack and left nothing behind: a loop of boots that
//! crash there must end.
//!
//! Pure. A boot writes one sector before it builds the stack: how many have begun since the log
//! ended as it does. A flush, a merge or a stop changes the log's end, so a boot that came that far
//! need not reset the count.

use super::records::{BootCount, Defect, Uuid};

/// After this many boots that left nothing behind, the next one does without the stack.
pub const LIMIT: u32 = 3;

/// How long after its boot a system has come up, in minutes.
pub const MINUTES: u64 = 3;

/// Where in the chunk of the header's second copy the record stands, in bytes.
pub const AT: usize = 512;

/// How many boots have begun over a log that ends with the segment or generation `last`. `bytes` is
/// what the record's place holds; `None`: it can't be read.
pub fn begun(bytes: Option<&[u8]>, log: Uuid, last: u64) -> u32 {
    let decoded = bytes.map(|bytes| (BootCount::decode(bytes), bytes));
    match decoded {
        Some((Ok(tries), _)) if (tries.log, tries.last) == (log, last) => tries.count,
        Some((Ok(_), _)) => 0,
        // As a new log has it, or one whose header was written anew.
        Some((Err(Defect::Magic), bytes)) if bytes.iter().all(|byte| *byte == 0) => 0,
        // A power cut came in the middle of the write, so at least one boot had begun.
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Uuid = [7; 16];

    fn record(count: u32) -> Vec<u8> {
        BootCount { log: LOG, last: 9, count }.encode().to_vec()
    }

    #[test]
    fn boots_count_as_long_as_the_log_ends_as_it_did() {
        for count in 0..5 {
            assert_eq!(begun(Some(&record(count)), LOG, 9), count);
            // A flush, a merge or a stop; a log that was made anew.
            assert_eq!(begun(Some(&record(count)), LOG, 10), 0);
            assert_eq!(begun(Some(&record(count)), [8; 16], 9), 0);
        }
        assert_eq!(begun(Some(&[0; 512]), LOG, 9), 0, "a log that an older version made");
    }

    #[test]
    fn a_record_that_is_torn_or_can_not_be_read_is_neither_none_nor_enough() {
        let mut torn = record(2);
        torn[40] ^= 1;
        for bytes in [None, Some(&torn[..]), Some(&[0x5a; 512][..])] {
            assert_eq!(begun(bytes, LOG, 9), 1, "{bytes:?}");
        }
        const { assert!(LIMIT > 1) };
    }

    #[test]
    fn the_cut_of_any_write_leads_to_the_limit_all_the_same() {
        // Each boot writes one more than it found. At each of these writes the power may fail,
        // which leaves the old record, the new one or neither.
        let mut seen = vec![record(0)];
        for _ in 0..2 {
            let mut next = Vec::new();
            for bytes in &seen {
                let new = record(begun(Some(bytes), LOG, 9) + 1);
                let mut torn = new.clone();
                torn[100] = 0xff;
                next.extend([bytes.clone(), new, torn]);
            }
            seen = next;
        }
        for mut bytes in seen {
            let mut boots = 0;
            while begun(Some(&bytes), LOG, 9) < LIMIT {
                bytes = record(begun(Some(&bytes), LOG, 9) + 1);
                boots += 1;
            }
            assert!(boots <= LIMIT);
        }
    }
}
