//! A line of progress on a terminal, lines of it on a machine's console; nothing in a pipe.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::console::Console;
use crate::pure::units::Bytes;
use crate::sys::terminal::standard_error;

/// Where progress is shown.
enum Sink {
    Nowhere,
    Terminal(File),
    Console(Console),
}

impl Sink {
    /// How often something new is shown.
    const fn every(&self) -> Duration {
        Duration::from_millis(if matches!(self, Sink::Console(_)) { 2000 } else { 200 })
    }
}

/// What is being done, how much of it there is, and since when.
struct Work {
    what: &'static str,
    total: Bytes,
    since: Instant,
}

/// Shows how much of a flush is left. Writes to standard error, so that standard output keeps
/// to the result.
pub struct Meter {
    sink: Sink,
    /// When the machine goes down, done or not.
    end: Option<Instant>,
    work: Option<Work>,
    shown: Option<Instant>,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// A meter that is silent unless standard error is a terminal. It never waits for the terminal:
    /// the flush has the lock, and root may be frozen.
    pub fn new() -> Self {
        Self {
            sink: standard_error().map_or(Sink::Nowhere, Sink::Terminal),
            end: None,
            work: None,
            shown: None,
        }
    }

    /// A silent meter.
    pub fn silent() -> Self {
        Self { sink: Sink::Nowhere, end: None, work: None, shown: None }
    }

    /// A meter on the machine's console, where people wait for the end. The machine goes down at
    /// `end`, done or not.
    pub fn on_console(end: Option<Instant>) -> Self {
        Self { sink: Sink::Console(Console::open()), end, work: None, shown: None }
    }

    /// Begins to show work on `total` bytes, called `what`: `merging`, `logging`.
    pub fn begin(&mut self, what: &'static str, total: Bytes) {
        self.work = Some(Work { what, total, since: Instant::now() });
    }

    /// Shows how many bytes are left.
    pub fn show(&mut self, left: Bytes) {
        let now = Instant::now();
        let Some(work) = &self.work else { return };
        if self.shown.is_some_and(|shown| now.duration_since(shown) < self.sink.every()) {
            return;
        }
        self.shown = Some(now);
        let time = self.end.map(|end| end.saturating_duration_since(now));
        let line = || line(work.what, work.total, left, work.since.elapsed(), time);
        match &self.sink {
            Sink::Nowhere => {}
            Sink::Terminal(terminal) => put(terminal, &format!("\r{}\x1b[K", line())),
            Sink::Console(console) => console.say(&format!("{}. Don't power off.", line())),
        }
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if let (Some(_), Sink::Terminal(terminal)) = (self.shown.take(), &self.sink) {
            put(terminal, "\r\x1b[K");
        }
        self.work = None;
    }
}

/// Writes to the terminal. An error is ignored: a terminal that went away must not stop a flush.
fn put(mut terminal: &File, text: &str) {
    let _ = terminal.write_all(text.as_bytes());
}

/// `merging   3.2 MiB of 8.0 MiB  40 %  5.1 MiB/s  1 s left`. Where there is less `time` than that
/// takes it says so.
fn line(
    what: &str,
    total: Bytes,
    left: Bytes,
    elapsed: Duration,
    time: Option<Duration>,
) -> String {
    let done = Bytes(total.0.saturating_sub(left.0));
    let mut text = format!("{what}  {done} of {total}  {} %", done.percent_of(total));
    let millis = elapsed.as_millis() as u64;
    if millis >= 500 && done.0 > 0 {
        let rate = (u128::from(done.0) * 1000 / u128::from(millis)) as u64;
        let seconds = left.0.div_ceil(rate.max(1));
        let _ = write!(text, "  {}/s  {seconds} s left", Bytes(rate));
        if let Some(time) = time.map(|time| time.as_secs()).filter(|time| *time < seconds) {
            let _ = write!(text, ", but the machine goes down in {time} s");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_amount_share_rate_and_time() {
        let at = |left, elapsed, time| line("merging", Bytes(8 << 20), left, elapsed, time);
        let text = at(Bytes(6 << 20), Duration::from_secs(1), None);
        assert_eq!(text, "merging  2.0 MiB of 8.0 MiB  25 %  2.0 MiB/s  3 s left");
        let start = at(Bytes(8 << 20), Duration::ZERO, None);
        assert_eq!(start, "merging  0 B of 8.0 MiB  0 %");
        // One that is cut short is not announced as one that ends.
        let time = |seconds| {
            at(Bytes(6 << 20), Duration::from_secs(1), Some(Duration::from_secs(seconds)))
        };
        assert_eq!(time(3), text);
        assert_eq!(time(2), format!("{text}, but the machine goes down in 2 s"));
    }
}
