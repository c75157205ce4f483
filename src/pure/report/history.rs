//! The last flushes: a file of records with an empty line between them, and how people read it.

use std::fmt::{self, Write};

use super::record::Record;
use crate::pure::policy::schedule::AT_ONCE;
use crate::pure::units::{Bytes, Utc};

/// How many flushes are remembered: some 16 KiB of RAM.
pub const MOST: usize = 100;

/// Reads a file's text, oldest first. Leaves out what is not a record, and keeps the youngest
/// [`MOST`].
pub fn parse(text: &str) -> Vec<Record> {
    let (mut records, mut block) = (Vec::new(), String::new());
    // One more empty line ends the last record.
    for line in text.lines().chain([""]) {
        if !line.is_empty() {
            block.push_str(line);
            block.push('\n');
        } else if !block.is_empty() {
            let record = Record::parse(&block);
            if record != Record::default() {
                records.push(record);
            }
            block.clear();
        }
    }
    let surplus = records.len().saturating_sub(MOST);
    records.split_off(surplus)
}

/// The file's text.
pub fn to_text(records: &[Record]) -> String {
    let texts: Vec<String> = records.iter().map(Record::to_text).collect();
    texts.join("\n")
}

/// The file's text with one more record in it.
pub fn append(text: &str, record: &Record) -> String {
    let mut records = parse(text);
    records.push(record.clone());
    let surplus = records.len().saturating_sub(MOST);
    to_text(records.get(surplus..).unwrap_or_default())
}

/// Changes that bring too many flushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restless<'a> {
    /// What changed before most of them.
    pub path: &'a str,
    /// How many flushes it brought.
    pub flushes: usize,
    /// Of how many flushes that are remembered.
    of: usize,
}

/// What changed most often, if most of the last flushes came for changes. A few flushes say
/// nothing.
pub fn restless(records: &[Record]) -> Option<Restless<'_>> {
    let changes =
        || records.iter().map(|record| record.path.as_str()).filter(|path| !path.is_empty());
    let (all, of) = (changes().count(), records.len());
    if all as u64 <= AT_ONCE || all * 2 < of {
        return None;
    }
    let times = |path: &str| changes().filter(|other| *other == path).count();
    let path = changes().max_by_key(|path| times(path))?;
    Some(Restless { path, flushes: times(path), of })
}

impl fmt::Display for Restless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, flushes, of } = self;
        write!(f, "{flushes} of the last {of} flushes came since {path} had changed")
    }
}

/// What the columns take, and the gaps before the bars.
const COLUMNS: usize = 79;
/// Shorter bars tell nothing, longer ones nothing more.
const BAR: std::ops::RangeInclusive<usize> = 4..=30;

/// A table, oldest first. On a terminal of `width` columns it has a head, and bars that show each
/// figure beside the largest of its kind; without a width it is one line a flush.
pub fn table(records: &[Record], width: Option<usize>) -> String {
    let bar_width = width.map_or(0, |width| width.saturating_sub(COLUMNS) / 3);
    let bar_width = if bar_width < *BAR.start() { 0 } else { bar_width.min(*BAR.end()) };
    let most = |figure: fn(&Record) -> u64| records.iter().map(figure).max().unwrap_or(0);
    let most = FIGURES.map(most);
    let mut text = String::new();
    if width.is_some() {
        let gap = if bar_width > 0 { bar_width + 1 } else { 0 };
        line(
            &mut text,
            ["flushed at", "why", "bytes", "pruned", "took", "waited"],
            [" ".repeat(gap), " ".repeat(gap), String::new()],
        );
    }
    for record in records {
        let Record { bytes, pruned, took_ms, stall_us, .. } = record;
        let mut bars = [String::new(), String::new(), String::new()];
        if bar_width > 0 {
            for ((bar, figure), most) in bars.iter_mut().zip(FIGURES).zip(most) {
                let filled = share(figure(record), most, bar_width);
                *bar = format!(" {:<bar_width$}", "#".repeat(filled));
            }
        }
        line(
            &mut text,
            [
                &Utc(record.when).to_string(),
                cause(record),
                &bytes.to_string(),
                &pruned.to_string(),
                &format!("{}.{:02} s", took_ms / 1000, took_ms % 1000 / 10),
                &format!("{}.{} ms", stall_us / 1000, stall_us % 1000 / 100),
            ],
            bars,
        );
    }
    text
}

/// What the bars show.
const FIGURES: [fn(&Record) -> u64; 3] =
    [|record| record.bytes.0, |record| record.took_ms, |record| record.stall_us];

/// Why a flush came: the daemon's reason, or the command that was given.
pub fn cause(record: &Record) -> &str {
    if record.reason.is_empty() { &record.command } else { &record.reason }
}

fn line(text: &mut String, cells: [&str; 6], bars: [String; 3]) {
    let [when, why, bytes, pruned, took, waited] = cells;
    let [first, second, third] = bars;
    let row = format!(
        "{when:<23} {why:<10} {bytes:>10}{first} {pruned:>10} {took:>8}{second} {waited:>10}{third}"
    );
    let _ = writeln!(text, "{}", row.trim_end());
}

/// How much of `width` shows `part` of `most`; at least 1 unless `part` is 0.
fn share(part: u64, most: u64, width: usize) -> usize {
    let percent = Bytes(part).percent_of(Bytes(most.max(1)));
    (percent as usize * width).div_ceil(100).max(usize::from(part > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(number: u64) -> Record {
        Record {
            when: 1_700_000_000 + number as i64,
            command: "daemon".to_owned(),
            reason: "interval".to_owned(),
            bytes: Bytes(number << 20),
            pruned: Bytes(1536),
            took_ms: number * 1000,
            stall_us: 4250,
            ..Record::default()
        }
    }

    #[test]
    fn records_read_back_and_the_oldest_go() {
        let mut text = String::new();
        for number in 1..=MOST as u64 + 5 {
            text = append(&text, &record(number));
        }
        let expected: Vec<_> = (6..=MOST as u64 + 5).map(record).collect();
        assert_eq!(parse(&text), expected);
        assert_eq!(to_text(&expected), text);
    }

    #[test]
    fn what_changes_again_and_again_is_named_when_most_flushes_came_for_that() {
        let change = |path: &str| Record { path: path.to_owned(), ..record(1) };
        let records = |counts: &[(&str, usize)]| -> Vec<Record> {
            let each = counts.iter();
            each.flat_map(|(path, count)| vec![change(path); *count]).collect()
        };
        assert_eq!(restless(&records(&[("/etc/x", 12)])), None);
        assert_eq!(restless(&records(&[("/etc/x", 13), ("", 14)])), None);
        let often = records(&[("/etc/y", 4), ("/etc/x", 9), ("", 13)]);
        let words = "9 of the last 26 flushes came since /etc/x had changed";
        assert_eq!(restless(&often).unwrap().to_string(), words);
        assert_eq!(restless(&[]), None);
    }

    #[test]
    fn garbage_between_records_is_left_out() {
        let text =
            format!("\n\n{}\r\n\nnonsense\n\n\n{}", record(1).to_text(), record(2).to_text());
        assert_eq!(parse(&text), [record(1), record(2)]);
        assert!(parse("\n \n").is_empty());
    }

    #[test]
    fn a_pipe_gets_one_line_a_flush() {
        let by_hand = Record { command: "flush".to_owned(), reason: String::new(), ..record(2) };
        let expected = "\
2023-11-14 22:13:21 UTC interval      1.0 MiB    1.5 KiB   1.00 s     4.2 ms
2023-11-14 22:13:22 UTC flush         2.0 MiB    1.5 KiB   2.00 s     4.2 ms
";
        assert_eq!(table(&[record(1), by_hand], None), expected);
        assert_eq!(table(&[], None), "");
    }

    #[test]
    fn a_terminal_gets_a_head_and_bars_that_fit() {
        let expected = "\
flushed at              why             bytes          pruned     took          waited
2023-11-14 22:13:21 UTC interval      1.0 MiB #       1.5 KiB   1.00 s #        4.2 ms ####
2023-11-14 22:13:24 UTC interval      4.0 MiB ####    1.5 KiB   4.00 s ####     4.2 ms ####
";
        assert_eq!(table(&[record(1), record(4)], Some(91)), expected);
        assert!(!table(&[record(1)], Some(90)).contains('#'));
        for width in [77, 91, 100, 200, 1000] {
            let text = table(&[record(1), record(4)], Some(width));
            assert!(text.lines().all(|line| line.len() <= width), "{width}: {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_and_any_record_shows(
            text in "(when=|bytes=|[0-9]{1,20}|reason=|x|\n|\r){0,60}",
            width in prop::option::of(0..300_usize),
        ) {
            let records = parse(&text);
            let _ = table(&records, width);
            prop_assert!(records.len() <= MOST);
        }
    }
}
