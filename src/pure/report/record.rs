//! What is remembered of a flush, as a text file of `key=value` lines.

use std::fmt::{self, Display};

use super::json::Object;
use crate::pure::units::{Bytes, Utc, decimal};

/// One finished flush.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it ended, in seconds since 1970.
    pub when: i64,
    /// The subcommand that flushed.
    pub command: String,
    /// Why the daemon flushed; empty for a flush by hand.
    pub reason: String,
    /// What had changed, if the flush came for a change; without control characters.
    pub path: String,
    /// Bytes that it made durable.
    pub bytes: Bytes,
    /// Bytes appended to the flush log.
    pub logged: Bytes,
    /// Bytes merged into the card.
    pub merged: Bytes,
    /// The whole flush, in milliseconds.
    pub took_ms: u64,
    /// Of that, appending to the log.
    pub log_ms: u64,
    /// Of that, the merge.
    pub merge_ms: u64,
    /// How long root was suspended, in microseconds.
    pub stall_us: u64,
    /// Bytes in RAM that were pruned: they need not reach the card.
    pub pruned: Bytes,
    /// Why nothing could be left out; empty otherwise.
    pub not_pruned: String,
}

/// A flush of less says more about how long the card takes to begin than about its speed.
const TELLING: Bytes = Bytes(64 << 10);

impl Record {
    /// What the card takes in `millis` at this flush's speed. `None`: too little was written to
    /// tell.
    pub fn card_takes(&self, millis: u64) -> Option<Bytes> {
        let (bytes, took) = match self.logged {
            Bytes(0) => (self.merged, self.merge_ms),
            logged => (logged, self.log_ms),
        };
        (bytes >= TELLING && took > 0).then(|| Bytes(bytes.0.saturating_mul(millis) / took))
    }

    /// Reads a file's text; missing or garbled values are 0, since the file only informs.
    pub fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("")
        };
        let number = |key: &str| decimal(value(key)).unwrap_or(0);
        Self {
            when: decimal(value("when")).unwrap_or(0),
            command: value("command").to_owned(),
            reason: value("reason").to_owned(),
            path: value("path").to_owned(),
            bytes: Bytes(number("bytes")),
            logged: Bytes(number("logged")),
            merged: Bytes(number("merged")),
            took_ms: number("took_ms"),
            log_ms: number("log_ms"),
            merge_ms: number("merge_ms"),
            stall_us: number("stall_us"),
            pruned: Bytes(number("pruned")),
            not_pruned: value("not_pruned").to_owned(),
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let Self {
            when,
            command,
            reason,
            path,
            bytes,
            logged,
            merged,
            took_ms,
            log_ms,
            merge_ms,
            stall_us,
            pruned,
            not_pruned,
        } = self;
        let (bytes, logged, merged, pruned) = (bytes.0, logged.0, merged.0, pruned.0);
        format!(
            "when={when}\ncommand={command}\nreason={reason}\npath={path}\nbytes={bytes}\nlogged={logged}\nmerged={merged}\n\
             took_ms={took_ms}\nlog_ms={log_ms}\nmerge_ms={merge_ms}\nstall_us={stall_us}\n\
             pruned={pruned}\nnot_pruned={not_pruned}\n"
        )
    }

    /// The record as JSON; keys as in `cowflush status --json`.
    pub fn to_json(&self) -> Object {
        Object::new()
            .signed("when", self.when)
            .text("command", &self.command)
            .text("reason", &self.reason)
            .text("path", &self.path)
            .number("bytes", self.bytes.0)
            .number("logged", self.logged.0)
            .number("merged", self.merged.0)
            .number("took_ms", self.took_ms)
            .number("log_ms", self.log_ms)
            .number("merge_ms", self.merge_ms)
            .number("stall_us", self.stall_us)
            .number("pruned", self.pruned.0)
            .text("not_pruned", &self.not_pruned)
    }
}

impl Display for Record {
    /// `8.0 MiB in 2.31 s, root waited 4.2 ms, 1.5 MiB pruned, since /etc/motd changed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.took_ms / 10;
        write!(
            f,
            "{} in {}.{:02} s, root waited {}.{} ms",
            self.bytes,
            hundredths / 100,
            hundredths % 100,
            self.stall_us / 1000,
            self.stall_us % 1000 / 100,
        )?;
        if self.pruned.0 > 0 {
            write!(f, ", {} pruned", self.pruned)?;
        }
        if !self.path.is_empty() {
            write!(f, ", since {} changed", self.path)?;
        }
        Ok(())
    }
}

impl Record {
    /// When it ended, for people.
    pub fn when(&self) -> Utc {
        Utc(self.when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_tells_what_the_card_takes_in_a_given_time() {
        let log = Record { logged: Bytes(1 << 20), log_ms: 4000, ..Record::default() };
        assert_eq!(log.card_takes(8000), Some(Bytes(2 << 20)));
        // What a flush merged besides is from before it.
        let besides = Record { merged: Bytes(9 << 20), merge_ms: 1, ..log };
        assert_eq!(besides.card_takes(8000), Some(Bytes(2 << 20)));
        let merged = Record { merged: Bytes(1 << 20), merge_ms: 500, ..Record::default() };
        assert_eq!(merged.card_takes(1000), Some(Bytes(2 << 20)));
        // A small flush, or one that took no time, tells nothing.
        for (logged, log_ms) in [(0, 0), ((64 << 10) - 1, 1000), (1 << 20, 0)] {
            let record = Record { logged: Bytes(logged), log_ms, ..Record::default() };
            assert_eq!(record.card_takes(1000), None, "{logged} {log_ms}");
        }
        let most = Record { logged: Bytes::MAX, log_ms: 1, ..Record::default() };
        assert_eq!(most.card_takes(u64::MAX), Some(Bytes::MAX));
    }
    use proptest::prelude::*;

    #[test]
    fn a_record_reads_back() {
        let record = Record {
            when: 4_102_444_800,
            command: "flush".to_owned(),
            reason: "urgent".to_owned(),
            path: "/etc/motd".to_owned(),
            bytes: Bytes(8 << 20),
            logged: Bytes(8 << 20),
            merged: Bytes(1 << 20),
            took_ms: 2315,
            log_ms: 1000,
            merge_ms: 2000,
            stall_us: 4250,
            pruned: Bytes(3 << 19),
            not_pruned: "it is switched off".to_owned(),
        };
        assert_eq!(Record::parse(&record.to_text()), record);
        assert_eq!(
            record.to_string(),
            "8.0 MiB in 2.31 s, root waited 4.2 ms, 1.5 MiB pruned, since /etc/motd changed"
        );
        let none = Record { pruned: Bytes(0), ..record };
        let changed = "8.0 MiB in 2.31 s, root waited 4.2 ms, since /etc/motd changed";
        assert_eq!(none.to_string(), changed);
        let none = Record { path: String::new(), ..none };
        assert_eq!(none.to_string(), "8.0 MiB in 2.31 s, root waited 4.2 ms");
    }

    proptest! {
        #[test]
        fn any_text_parses(text in ".{0,200}") {
            let _ = Record::parse(&text).to_string();
        }
    }
}
