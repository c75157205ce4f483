//! A line of progress on a terminal; nothing in a pipe.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::units::Bytes;

const EVERY: Duration = Duration::from_millis(200);

/// Shows how much of a merge is left. Writes to standard error, so that standard output keeps
/// to the result.
pub struct Meter {
    terminal: bool,
    total: Option<(Bytes, Instant)>,
    shown: Option<Instant>,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// Silent unless standard error is a terminal.
    pub fn new() -> Self {
        Self { terminal: stderr().is_terminal(), total: None, shown: None }
    }

    /// Tells that a merge of `total` bytes begins.
    pub fn begin(&mut self, total: Bytes) {
        self.total = Some((total, Instant::now()));
    }

    /// Tells that `left` bytes are still to be merged.
    pub fn show(&mut self, left: Bytes) {
        let now = Instant::now();
        let Some((total, begin)) = self.total else { return };
        let due = self.shown.is_none_or(|shown| now.duration_since(shown) >= EVERY);
        if self.terminal && due {
            self.shown = Some(now);
            put(&format!("\r{}\x1b[K", line(total, left, begin.elapsed())));
        }
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            put("\r\x1b[K");
        }
        self.total = None;
    }
}

/// A terminal that went away is no reason to stop a flush.
fn put(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// `merging   3.2 MiB of 8.0 MiB  40 %  5.1 MiB/s  1 s left`.
fn line(total: Bytes, left: Bytes, elapsed: Duration) -> String {
    let done = Bytes(total.0.saturating_sub(left.0));
    let mut text = format!("merging  {done} of {total}  {} %", done.percent_of(total));
    let millis = elapsed.as_millis() as u64;
    if millis >= 500 && done.0 > 0 {
        let rate = (u128::from(done.0) * 1000 / u128::from(millis)) as u64;
        let _ = write!(text, "  {}/s  {} s left", Bytes(rate), left.0.div_ceil(rate.max(1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_amount_share_rate_and_time() {
        let text = line(Bytes(8 << 20), Bytes(6 << 20), Duration::from_secs(1));
        assert_eq!(text, "merging  2.0 MiB of 8.0 MiB  25 %  2.0 MiB/s  3 s left");
        let start = line(Bytes(8 << 20), Bytes(8 << 20), Duration::ZERO);
        assert_eq!(start, "merging  0 B of 8.0 MiB  0 %");
    }
}
