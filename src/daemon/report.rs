//! What the daemon tells people between flushes: its note for `cowflush status`, the file for
//! Prometheus, the light. A failure in any of these is logged once and stops no flush.

use std::path::Path;

use super::led::{Led, Light};
use crate::error::why;
use crate::flush::status::{self, LogWatch};
use crate::notes::daemon_note::{self, DaemonNote};
use crate::notes::run_dir;
use crate::pure::config::Config;
use crate::pure::policy::schedule::Sample;
use crate::pure::report::metrics::{self, Metrics};
use crate::pure::units::Bytes;
use crate::sys::dm::Control;
use crate::sys::{file, lock, memory, process};

/// How often the note and the light are updated, in milliseconds.
const EVERY: u64 = 1000;
/// How often the file for Prometheus is, in milliseconds.
const METRICS_EVERY: u64 = 15_000;

/// What was reported last.
#[derive(Default)]
pub struct Reporter {
    looked: Option<u64>,
    measured: Option<u64>,
    led: Option<(String, Led)>,
    metrics: Option<String>,
    /// The last flush failed.
    failed: bool,
    log: LogWatch,
    complaints: Complaints,
}

impl Reporter {
    /// Reports the state, at most once a second. Returns what the owner must know.
    pub fn report(
        &mut self,
        config: &Config,
        control: &Control,
        now: &Sample,
        interval_ends: Option<u64>,
        changes: [Option<u64>; 2],
    ) -> Vec<String> {
        if !is_over(self.looked, EVERY, now) {
            return Vec::new();
        }
        self.looked = Some(now.running);
        self.leave_note(config, now, interval_ends, changes);
        self.light(config, control, now);
        self.measure(config, control, now);
        self.complaints.take()
    }

    /// Shows that a flush begins.
    pub fn flushing(&mut self) {
        self.show(Light::Flushing);
    }

    /// Notes that a flush ended, and whether it succeeded.
    pub fn flushed(&mut self, well: bool) {
        self.failed = !well;
        if !well {
            run_dir::note_failure();
        }
        (self.looked, self.measured) = (None, None);
    }

    /// Removes what would no longer be true once the daemon ends.
    pub fn end(&mut self) {
        DaemonNote::remove(process::number());
        self.show(Light::Rest);
        self.remove_metrics();
    }

    fn leave_note(
        &mut self,
        config: &Config,
        now: &Sample,
        interval: Option<u64>,
        [urgent, boot]: [Option<u64>; 2],
    ) {
        let at = daemon_note::first_after(&config.at, now.minute);
        DaemonNote { pid: process::number(), interval, at, urgent, boot }.leave();
    }

    fn light(&mut self, config: &Config, control: &Control, now: &Sample) {
        if self.led.as_ref().map(|(name, _)| name) != config.led.as_ref() {
            self.show(Light::Rest);
            self.led = config.led.clone().map(|name| (name.clone(), Led::new(&name)));
        }
        if self.led.is_some() {
            let flushing = lock::holder(control).is_some();
            // A COW that overflowed or was lost: the schedule wants a flush at any price.
            let trouble = self.failed || now.pending == Bytes(u64::MAX);
            // After every flush a chunk is pending: the thaw changes the filesystem's superblock.
            self.show(Light::of(trouble, flushing, now.pending > config.min_flush));
        }
    }

    fn show(&mut self, light: Light) {
        let Some((name, led)) = &mut self.led else { return };
        if let Err(error) = led.show(light) {
            self.complaints.add(format!(
                "the light {name} can't be used: {}. led= must name a folder of \
                 /sys/class/leds; blinking needs the kernel's timer trigger",
                why(&error)
            ));
        }
    }

    fn measure(&mut self, config: &Config, control: &Control, now: &Sample) {
        if self.metrics != config.metrics {
            self.remove_metrics();
            (self.metrics, self.measured) = (config.metrics.clone(), None);
        }
        let Some(path) = self.metrics.clone() else { return };
        if !is_over(self.measured, METRICS_EVERY, now) {
            return;
        }
        self.measured = Some(now.running);
        let text = metrics::to_text(&self.figures(control, now));
        if let Err(error) = file::write_among_others(Path::new(&path), &text) {
            self.complaints.add(format!(
                "the figures for Prometheus can't be written to {path}: {}. metrics= wants a \
                 path on a tmpfs, such as /run/cowflush.prom",
                why(&error)
            ));
        }
    }

    fn figures(&mut self, control: &Control, now: &Sample) -> Metrics {
        let report = status::privileged(control, |partition| self.log.report(control, partition));
        Metrics {
            mode: report.mode_word(),
            cow_used: report.cow_used.unwrap_or_default(),
            cow_size: report.cow_size.unwrap_or_default(),
            pending: report.pending,
            dirty: memory::info().unwrap_or_default().dirty,
            log: report.log.and_then(|log| Some((log.segments?, log.used_percent?))),
            life: report.log.and_then(|log| log.life),
            totals: run_dir::totals(),
            last: run_dir::last_flush(),
            held: now.held,
        }
    }

    fn remove_metrics(&mut self) {
        if let Some(path) = self.metrics.take() {
            let _ = file::remove(Path::new(&path));
        }
    }
}

fn is_over(last: Option<u64>, pause: u64, now: &Sample) -> bool {
    last.is_none_or(|last| now.running >= last.saturating_add(pause))
}

/// The complaints that were made: each is made once until the next start.
#[derive(Default)]
struct Complaints {
    made: Vec<String>,
    new: usize,
}

/// The most complaints that are made.
const MOST_COMPLAINTS: usize = 16;

impl Complaints {
    fn add(&mut self, text: String) {
        if !self.made.contains(&text) && self.made.len() < MOST_COMPLAINTS {
            self.made.push(text);
        }
    }

    fn take(&mut self) -> Vec<String> {
        let new = self.made.get(self.new..).unwrap_or_default().to_vec();
        self.new = self.made.len();
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_comes_once() {
        let mut complaints = Complaints::default();
        complaints.add("a".to_owned());
        complaints.add("a".to_owned());
        assert_eq!(complaints.take(), ["a"]);
        complaints.add("a".to_owned());
        assert_eq!(complaints.take(), [""; 0]);
        complaints.add("b".to_owned());
        assert_eq!(complaints.take(), ["b"]);
    }
}
