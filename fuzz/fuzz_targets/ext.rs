//! The pruning of a sealed filesystem: its unused chunks are left out.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::chunks::{CHUNK_BYTES, Chunks, Unreadable};
use cowflush::pure::cow::exception_store::Exception;
use cowflush::pure::ext::prune;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// How many chunks the device has; those that the input lacks are zero.
const CHUNKS: u64 = 32;

struct Device<'a>(&'a [u8]);

impl Chunks for Device<'_> {
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        let end = chunk.checked_add((into.len() / CHUNK_BYTES) as u64).ok_or(Unreadable)?;
        if end > CHUNKS {
            return Err(Unreadable);
        }
        let rest = self.0.get(chunk as usize * CHUNK_BYTES..).unwrap_or_default();
        let (there, zero) = into.split_at_mut(rest.len().min(into.len()));
        there.copy_from_slice(&rest[..there.len()]);
        zero.fill(0);
        Ok(())
    }
}

/// The input is the device, 128 KiB at most. It is also its own layer below.
pub fn check(data: &[u8]) {
    // One chunk after the last one, and one that no filesystem reaches.
    let table = |step| {
        (0..=CHUNKS).step_by(step).chain([u64::MAX]).map(|old| Exception { old, new: old | 2 })
    };
    let left = |table: &[Exception], frozen| {
        let mut left = table.to_vec();
        let answer = prune(&mut left, &mut Device(data), &mut Device(data), CHUNKS, frozen);
        match answer {
            Ok(count) => assert_eq!(left.len() as u64 + count, table.len() as u64),
            Err(why) => assert!(!why.is_empty() && left == table),
        }
        (left, answer)
    };
    let all: Vec<_> = table(1).collect();
    for frozen in [false, true] {
        let (kept, answer) = left(&all, frozen);
        if answer.is_err() {
            continue;
        }
        for always in [0, CHUNKS, u64::MAX] {
            assert!(kept.iter().any(|exception| exception.old == always));
        }
        // The rest is needed, whatever else was changed.
        assert_eq!(left(&kept, frozen), (kept.clone(), Ok(0)));
        let every_other: Vec<_> = table(2).collect();
        let (some, _) = left(&every_other, frozen);
        let expected: Vec<_> = every_other.iter().filter(|e| kept.contains(e)).copied().collect();
        assert_eq!(some, expected);
    }
}
