//! A COW's exception store, and the view that is built from it.
#![cfg_attr(not(test), no_main)]

use std::collections::BTreeMap;

use cowflush::pure::chunks::{CHUNK_BYTES, Chunk};
use cowflush::pure::cow::exception_store::{self, Exception, PER_AREA};
use cowflush::pure::cow::merge_order::{self, Areas};

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the store's header (16 bytes), three sizes (u32 each: chunks of the origin, chunks
/// of the COW, budget for copies), 4 bytes of padding, then its metadata areas without the data
/// between them. Missing bytes are zero.
pub fn check(data: &[u8]) {
    let (start, areas) = data.split_at(data.len().min(32));
    let (header, sizes) = start.split_at(start.len().min(16));
    if let Err(defect) = exception_store::check_header(&chunk_of(header)) {
        assert!(!defect.to_string().is_empty());
        return;
    }
    let mut sizes = sizes.chunks(4).map(|bytes| u64::from(le32(bytes)));
    let mut size = || sizes.next().unwrap_or(0);
    let (origin_chunks, cow_chunks, budget) = (size(), size(), size());

    let mut table = Vec::new();
    for bytes in areas.chunks(CHUNK_BYTES) {
        let area = chunk_of(bytes);
        let before = table.len();
        table.extend(exception_store::exceptions(&area));
        let found = &table[before..];
        assert_eq!(rewritten(found), found);
        assert_eq!(merge_order::next_run(&area).is_none(), found.is_empty());
        if (found.len() as u64) < PER_AREA {
            break;
        }
    }
    match exception_store::sort_checked(&mut table, origin_chunks, cow_chunks) {
        Ok(()) => {
            assert!(table.iter().all(|e| e.old < origin_chunks && e.new < cow_chunks));
            assert!(table.windows(2).all(|pair| pair[0].old < pair[1].old));
            check_view(&table, budget);
        }
        Err(defect) => assert!(!defect.to_string().is_empty()),
    }
}

/// Checks that merging the view moves every chunk of the table to its place, upwards, within the
/// budget.
fn check_view(table: &[Exception], budget: u64) {
    let built = Areas::new(table, budget);
    let data_start = built.layout().data_start();
    let (mut areas, mut sources) = (Vec::new(), BTreeMap::new());
    for area in built {
        assert!(area.chunk < data_start && !exception_store::is_data_chunk(area.chunk));
        for (from, to) in area.copies {
            assert!(exception_store::is_data_chunk(to) && to < data_start);
            assert_eq!(sources.insert(to, from), None, "two copies to one place");
        }
        areas.push((area.chunk, area.bytes));
    }
    assert!(sources.len() as u64 <= budget);
    // The kernel starts at the table's end, with the last area, the only one that may not be full.
    let chunks: Vec<u64> = areas.iter().rev().map(|(chunk, _)| *chunk).collect();
    let expected: Vec<u64> =
        (0..=table.len() as u64 / PER_AREA).map(exception_store::area_chunk).collect();
    assert_eq!(chunks, expected);

    let mut merged = Vec::new();
    for (_, mut area) in areas {
        while let Some((old, length)) = merge_order::next_run(&area) {
            let entries: Vec<Exception> = exception_store::exceptions(&area).collect();
            let (rest, run) = entries.split_at(entries.len() - length as usize);
            assert_eq!(run.first().map(|first| first.old), Some(old));
            for (n, entry) in (0..).zip(run) {
                assert_eq!((entry.old, entry.new), (old + n, run[0].new + n));
                let source = sources.get(&entry.new).copied();
                let new = source.unwrap_or_else(|| entry.new - data_start);
                merged.push(Exception { old: entry.old, new });
            }
            for index in rest.len()..entries.len() {
                exception_store::put_exception(&mut area, index, Exception::default());
            }
        }
    }
    // The table is sorted, so this also shows that the card is written in ascending order.
    assert_eq!(merged, table);
}

fn rewritten(found: &[Exception]) -> Vec<Exception> {
    let mut area = [0; CHUNK_BYTES];
    for (index, exception) in found.iter().enumerate() {
        exception_store::put_exception(&mut area, index, *exception);
    }
    exception_store::exceptions(&area).collect()
}

fn chunk_of(start: &[u8]) -> Chunk {
    let mut chunk = [0; CHUNK_BYTES];
    chunk[..start.len()].copy_from_slice(start);
    chunk
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
