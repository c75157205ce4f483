//! Feeds the machine's watchdog, if the owner has configured that.
//!
//! The machine is never left unwatched: the daemon feeds the watchdog only while it makes headway,
//! in its loop or in a flush, and when the daemon ends the watchdog keeps running.

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::pure::policy::schedule::Sample;
use crate::sys::watchdog;

/// How long the watchdog is fed while all writers wait for a card that fails, in milliseconds.
/// After that a reset is better than a machine that stands still.
const PATIENCE: u64 = 10 * 60_000;

/// The watchdog that is fed, and since when writers have been waiting.
#[derive(Default)]
pub struct Watchdog {
    fed: Option<(String, Duration)>,
    patience: Patience,
}

/// Since when all writers have been waiting for the card, in milliseconds.
#[derive(Default)]
struct Patience {
    waiting_since: Option<u64>,
}

impl Patience {
    /// Whether to go on feeding at `running`; `waiting`: all writers wait.
    fn holds(&mut self, running: u64, waiting: bool) -> bool {
        let since = self.waiting_since.filter(|_| waiting).unwrap_or(running);
        self.waiting_since = waiting.then_some(since);
        running.saturating_sub(since) < PATIENCE
    }
}

impl Watchdog {
    /// Feeds the watchdog at `path` from now on. Stops one that is no longer configured; nothing
    /// else stops it.
    pub fn follow(&mut self, path: Option<&str>) -> Result<()> {
        if self.fed.as_ref().map(|(path, _)| path.as_str()) == path {
            return Ok(());
        }
        if self.fed.take().is_some() {
            watchdog::stop();
        }
        if let Some(path) = path {
            let timeout = watchdog::begin(Path::new(path)).map_err(|error| {
                error.advise(
                    "Only one process can feed it: take it from the other one, or set watchdog=none.",
                )
            })?;
            self.fed = Some((path.to_owned(), timeout));
        }
        Ok(())
    }

    /// Feeds the watchdog: the daemon is alive. `waiting`: all writers wait for the card.
    pub fn feed(&mut self, now: &Sample, waiting: bool) {
        if self.patience.holds(now.running, waiting) {
            watchdog::progress();
        }
    }

    /// Leaves the watchdog running as the daemon ends. Returns what the owner must know.
    pub fn end(&mut self) -> Option<String> {
        let (path, timeout) = self.fed.take()?;
        watchdog::leave();
        Some(format!(
            "{path} is not fed any more: it resets the machine in {} s unless the daemon or another \
             program feeds it",
            timeout.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stands_still_for_ten_minutes_is_fed_no_more() {
        let minute = 60_000;
        let mut patience = Patience::default();
        assert!((0..100).all(|n| patience.holds(n * minute, false)), "nobody waits");
        let began = 200 * minute;
        for n in 0..10 {
            assert!(patience.holds(began + n * minute, true), "after {n} minutes");
        }
        assert!(!patience.holds(began + 10 * minute, true));
        assert!(!patience.holds(began + 5000 * minute, true));
        // If writers get on for one moment, the time begins anew.
        assert!(patience.holds(began + 5001 * minute, false));
        assert!(patience.holds(began + 5002 * minute, true));
        assert!(patience.holds(began + 5011 * minute, true));
        assert!(!patience.holds(began + 5012 * minute, true));
    }
}
