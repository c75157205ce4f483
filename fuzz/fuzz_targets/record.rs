//! The records of the last flush and of earlier ones, files in /run.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::report::history;
use cowflush::pure::report::record::Record;
use cowflush::pure::units::Bytes;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the file; and, for the round trip, the file's values.
pub fn check(data: &[u8]) {
    let mut numbers = data.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let mut number = || numbers.next().unwrap_or(0);
    let told = Record {
        // A year before 1970 is read as 1970.
        when: (number() >> 1) as i64,
        command: "daemon".to_owned(),
        reason: "urgent".to_owned(),
        path: "/etc/a b".to_owned(),
        bytes: Bytes(number()),
        logged: Bytes(number()),
        merged: Bytes(number()),
        took_ms: number(),
        log_ms: number(),
        merge_ms: number(),
        stall_us: number(),
        pruned: Bytes(number()),
        not_pruned: "root is not ext2".to_owned(),
    };
    assert_eq!(Record::parse(&told.to_text()), told);

    let mut record = Record::parse(&String::from_utf8_lossy(data));
    // The end of a line, not of a word
    record.command.truncate(record.command.trim_end_matches('\r').len());
    record.reason.truncate(record.reason.trim_end_matches('\r').len());
    record.path.truncate(record.path.trim_end_matches('\r').len());
    record.not_pruned.truncate(record.not_pruned.trim_end_matches('\r').len());
    assert!(!record.to_string().contains('\n') && !record.when().to_string().contains('\n'));

    let again = Record::parse(&record.to_text());
    assert_eq!(again, record);
    assert_eq!(again.to_text(), record.to_text());

    // The same bytes as a history: many records, of which the youngest stay.
    let mut records = history::parse(&String::from_utf8_lossy(data));
    for record in &mut records {
        record.command.truncate(record.command.trim_end_matches('\r').len());
        record.reason.truncate(record.reason.trim_end_matches('\r').len());
        record.not_pruned.truncate(record.not_pruned.trim_end_matches('\r').len());
    }
    assert!(records.len() <= history::MOST);
    assert_eq!(history::parse(&history::to_text(&records)), records);
    for width in [None, Some(0), Some(80), Some(usize::MAX)] {
        let table = history::table(&records, width);
        assert_eq!(table.lines().count(), records.len() + usize::from(width.is_some()), "{table}");
    }
}
