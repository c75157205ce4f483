//! Sums over all flushes since boot, as a text file of `key=value` lines.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::history::cause;
use super::record::Record;
use crate::pure::units::decimal;

/// Sums since boot. The file that holds them is in RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Flushes, by what caused them: the daemon's reason without its figures, or a command.
    pub flushes: BTreeMap<String, u64>,
    /// Bytes that they made durable.
    pub bytes: u64,
    /// Bytes that were pruned.
    pub pruned: u64,
    /// Flushes that failed.
    pub failures: u64,
}

/// More causes than there are: a garbled file must not make the table grow without end.
const MOST_CAUSES: usize = 32;
const PREFIX: &str = "flushes ";

impl Totals {
    /// Reads a file's text; what is missing or garbled is 0.
    pub fn parse(text: &str) -> Self {
        let mut totals = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let Some(value) = decimal(value) else { continue };
            match (key, key.strip_prefix(PREFIX)) {
                ("bytes", _) => totals.bytes = value,
                ("pruned", _) => totals.pruned = value,
                ("failures", _) => totals.failures = value,
                (_, Some(cause)) if totals.flushes.len() < MOST_CAUSES => {
                    totals.flushes.insert(word(cause).to_owned(), value);
                }
                _ => {}
            }
        }
        totals
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text =
            format!("bytes={}\npruned={}\nfailures={}\n", self.bytes, self.pruned, self.failures);
        for (cause, count) in &self.flushes {
            let _ = writeln!(text, "{PREFIX}{cause}={count}");
        }
        text
    }

    /// Counts a flush.
    pub fn add(&mut self, record: &Record) {
        let count = self.flushes.entry(word(cause(record)).to_owned()).or_default();
        *count = count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(record.bytes.0);
        self.pruned = self.pruned.saturating_add(record.pruned.0);
    }
}

/// `at` of `at 03:30`: a series of figures has few names.
fn word(cause: &str) -> &str {
    cause.split_ascii_whitespace().next().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::units::Bytes;
    use proptest::prelude::*;

    #[test]
    fn flushes_are_counted_by_cause() {
        let flush = |command: &str, reason: &str| Record {
            command: command.to_owned(),
            reason: reason.to_owned(),
            bytes: Bytes(10),
            pruned: Bytes(3),
            ..Record::default()
        };
        let mut totals = Totals { failures: 2, ..Totals::default() };
        for (command, reason) in [
            ("daemon", "at 03:30"),
            ("daemon", "at 15:00"),
            ("daemon", "boot files"),
            ("flush", ""),
        ] {
            totals.add(&flush(command, reason));
        }
        assert_eq!(
            totals.to_text(),
            "bytes=40\npruned=12\nfailures=2\nflushes at=2\nflushes boot=1\nflushes flush=1\n"
        );
        assert_eq!(Totals::parse(&totals.to_text()), totals);
    }

    proptest! {
        #[test]
        fn any_text_parses(text in "(flushes |bytes|pruned|failures|=|[0-9]{1,21}|x|\"|\n){0,40}") {
            let totals = Totals::parse(&text);
            prop_assert_eq!(Totals::parse(&totals.to_text()), totals);
        }
    }
}
