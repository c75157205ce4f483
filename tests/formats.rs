//! docs/formats.md describes byte by byte what the program writes.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::Range;

use cowflush::pure::cow::exception_store::{PER_AREA, area_chunk, header};
use cowflush::pure::flushlog::records::{
    BootCount, Commit, Entry, FINGERPRINTS, FORMAT, Fingerprint, Format, Head, Header, Life, Link,
    Mark, Record, SECTORS,
};

const DOCUMENT: &str = include_str!("../docs/formats.md");

/// A link with all bits set: each byte differs from a record of zeros.
const ALL: Link = Link { id: u64::MAX, sequence: u64::MAX, position: u64::MAX, behind: u32::MAX };

/// The rows of this record's table: the bytes, and their content.
fn rows(name: &str) -> Vec<(Range<usize>, &'static str)> {
    let head = format!("| bytes | {name} |\n| --- | --- |\n");
    let table = DOCUMENT.split(&head).nth(1).unwrap_or_else(|| panic!("no table of {name}"));
    let rows = table.lines().map_while(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.split_once(" | ").unwrap());
    cells.flat_map(|(bytes, what)| bytes.split(", ").map(move |one| (range(one), what))).collect()
}

/// Parses `8–11` as 8..12.
fn range(text: &str) -> Range<usize> {
    let (first, last) = text.split_once('–').unwrap();
    first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
}

/// The bytes in which two records differ, without their checksums.
fn difference(one: &Record, other: &Record) -> Range<usize> {
    let differ = |at: &usize| one[*at] != other[*at] && !(12..16).contains(at);
    let first = (0..one.len()).find(differ).expect("they are the same");
    first..(0..one.len()).rev().find(differ).unwrap() + 1
}

/// Compares a record's table with records that differ from `plain` in one field each.
fn check(name: &str, plain: &Record, changed: &[Record]) {
    let documented = rows(name);
    assert_eq!(documented[0].0, 0..8, "{name}");
    let magic = std::str::from_utf8(&plain[..8]).unwrap();
    assert!(documented[0].1.contains(magic), "{name}: {magic}");
    assert_eq!((&documented[1].0, &documented[2].0), (&(8..12), &(12..16)), "{name}");
    assert_eq!(plain[8..12], FORMAT.to_le_bytes(), "{name}");
    let mut found: Vec<Range<usize>> =
        changed.iter().map(|record| difference(plain, record)).collect();
    for (bytes, (_, what)) in found.iter_mut().zip(&documented[3..]) {
        if what.starts_with("link") {
            // Its last four bytes are unused.
            bytes.end += 4;
        }
    }
    let fields: Vec<Range<usize>> =
        documented[3..].iter().map(|(bytes, _)| bytes.clone()).collect();
    assert_eq!(found, fields, "{name}");
}

#[test]
fn the_header_is_as_documented() {
    let plain = Header::default();
    let life = |change: fn(&mut Life)| {
        let mut life = Life::default();
        change(&mut life);
        Header { life, ..plain }.encode()
    };
    let changed = [
        Header { uuid: [255; 16], ..plain }.encode(),
        Header { label: [255; 16], ..plain }.encode(),
        Header { chunks: u64::MAX, ..plain }.encode(),
        Header { align: u32::MAX, ..plain }.encode(),
        Header { fill: u32::MAX, ..plain }.encode(),
        Header { number: u64::MAX, ..plain }.encode(),
        Header { root_uuid: [255; 16], ..plain }.encode(),
        Header { root_sectors: u64::MAX, ..plain }.encode(),
        Header { start: ALL, ..plain }.encode(),
        life(|life| life.made = -1),
        life(|life| life.segments = u64::MAX),
        life(|life| life.chunks = u64::MAX),
        life(|life| life.merges = u64::MAX),
        life(|life| life.merged = u64::MAX),
        Header { root_start: u64::MAX, ..plain }.encode(),
    ];
    check("header", &plain.encode(), &changed);
    let newer = Header { format: Format(2), ..plain }.encode();
    assert_eq!(newer[8..12], [2, 0, 0, 0]);
}

#[test]
fn a_segment_is_as_documented() {
    let plain = Head::default();
    let fingerprint =
        Fingerprint { chunk: 0, before: [u32::MAX; SECTORS], after: [u32::MAX; SECTORS] };
    let changed = [
        Head { log: [255; 16], ..plain }.encode(),
        Head { generation: u64::MAX, ..plain }.encode(),
        Head { id: u64::MAX, ..plain }.encode(),
        Head { previous: u64::MAX, ..plain }.encode(),
        Head { sequence: u64::MAX, ..plain }.encode(),
        Head { position: u64::MAX, ..plain }.encode(),
        Head { count: u32::MAX, ..plain }.encode(),
        Head { table: u32::MAX, ..plain }.encode(),
        Head { when: -1, ..plain }.encode(),
        Head { fingerprints: [fingerprint; FINGERPRINTS], ..plain }.encode(),
    ];
    check("head of a segment", &plain.encode(), &changed);
    let entry = Entry { old: 1, crc: u32::MAX }.encode();
    assert_eq!(entry, [1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);

    let plain = Commit::default();
    let changed = [
        Commit { log: [255; 16], ..plain }.encode(),
        Commit { generation: u64::MAX, ..plain }.encode(),
        Commit { position: u64::MAX, ..plain }.encode(),
        Commit { link: ALL, ..plain }.encode(),
    ];
    check("commit record", &plain.encode(), &changed);
}

#[test]
fn a_link_is_as_documented() {
    let link = |link: Link| Commit { link, ..Commit::default() }.encode();
    let none = Link::default();
    let changed = [
        link(Link { id: u64::MAX, ..none }),
        link(Link { sequence: u64::MAX, ..none }),
        link(Link { position: u64::MAX, ..none }),
        link(Link { behind: u32::MAX, ..none }),
    ];
    let start = rows("commit record").last().unwrap().0.start;
    let documented: Vec<Range<usize>> =
        rows("link").into_iter().map(|(bytes, _)| start + bytes.start..start + bytes.end).collect();
    assert_eq!(changed.map(|record| difference(&link(none), &record)), documented[..]);
}

#[test]
fn the_boots_and_the_mark_are_as_documented() {
    let plain = BootCount { log: [0; 16], last: 0, count: 0 };
    let changed = [
        BootCount { log: [255; 16], ..plain }.encode(),
        BootCount { last: u64::MAX, ..plain }.encode(),
        BootCount { count: u32::MAX, ..plain }.encode(),
    ];
    check("boots", &plain.encode(), &changed);

    let plain = Mark::default();
    let changed = [
        Mark { last: u64::MAX, ..plain }.encode(),
        Mark { before: ALL, ..plain }.encode(),
        Mark { cursor: ALL, ..plain }.encode(),
    ];
    check("mark", &plain.encode(), &changed);
}

#[test]
fn the_exception_store_is_as_documented() {
    assert_eq!(header()[..4], *b"SnAp");
    assert_eq!(header()[4..], [1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0]);
    for words in ["magic `SnAp`", "valid: 1", "version: 1", "chunk size in sectors: 8"] {
        assert!(DOCUMENT.contains(words), "{words}");
    }
    assert!(DOCUMENT.contains("chunk 1 + 257·a") && DOCUMENT.contains("entry i (0–255)"));
    assert_eq!((area_chunk(0), area_chunk(2), PER_AREA), (1, 1 + 257 * 2, 256));
}
