//! Figures for Prometheus, as its text format wants them.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write};

use super::record::Record;
use super::totals::Totals;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::flushlog::records::Life;
use crate::pure::stack::Mode;
use crate::pure::units::Bytes;

/// The figures that the file shows.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The mode as `cowflush status --json` has it.
    pub mode: &'static str,
    /// What root's COW holds, metadata included.
    pub cow_used: Bytes,
    /// What it may hold.
    pub cow_size: Bytes,
    /// Data in RAM that are not on the card; `None` where the kernel does not count them.
    pub pending: Option<Bytes>,
    /// Written by programs but not out of the page cache.
    pub dirty: Bytes,
    /// The flush log: segments and how full it is in percent, if there is one that can be read.
    pub log: Option<(u64, u64)>,
    /// Figures since the flush log was made.
    pub life: Option<Life>,
    /// Sums since boot.
    pub totals: Totals,
    /// The last flush.
    pub last: Option<Record>,
    /// A hold lasts: nothing may reach the card.
    pub held: bool,
}

/// All modes, so that a series does not come and go.
pub const MODES: [&str; 4] =
    [Mode::Deferring.word(), Mode::WriteThrough.word(), "inactive", "unknown"];

/// The file's text.
pub fn to_text(metrics: &Metrics) -> String {
    let Metrics { mode, cow_used, cow_size, pending, dirty, log, life, totals, last, held } =
        metrics;
    let mut page = Page::default();
    page.family("mode", "gauge", "1 for where root's writes go now, 0 for the others.");
    for one in MODES {
        page.sample("mode", &format!("{{mode=\"{one}\"}}"), u8::from(one == *mode));
    }
    page.gauge("cow_used_bytes", "RAM that root's COW holds, metadata included.", cow_used.0);
    page.gauge("cow_size_bytes", "What root's COW may hold now.", cow_size.0);
    if let Some(pending) = pending {
        page.gauge("pending_bytes", "Data in RAM that are not on the card yet.", pending.0);
    }
    page.gauge("dirty_bytes", "Data in the page cache, of all filesystems.", dirty.0);
    if let Some((segments, percent)) = *log {
        page.gauge("log_segments", "Flushes in the flush log.", segments);
        page.gauge("log_used_ratio", "Share of the flush log in use.", Fixed::<2>(percent));
    }
    if let Some(life) = life {
        let bytes = |chunks: u64| chunks.saturating_mul(CHUNK_BYTES as u64);
        page.counter("log_flushes_total", "Flushes since the flush log was made.", life.segments);
        page.counter("log_flushed_bytes_total", "Bytes in these.", bytes(life.chunks));
        page.counter("log_merges_total", "Merges since the flush log was made.", life.merges);
        page.counter("log_merged_bytes_total", "Bytes these wrote to root.", bytes(life.merged));
    }
    page.family("flushes_total", "counter", "Flushes since boot, by reason or command.");
    for (cause, count) in &totals.flushes {
        page.sample("flushes_total", &format!("{{reason=\"{}\"}}", escape(cause)), count);
    }
    page.counter("flushed_bytes_total", "Bytes made durable since boot.", totals.bytes);
    let help = "Bytes since boot that were pruned: they need not reach the card.";
    page.counter("pruned_bytes_total", help, totals.pruned);
    page.counter("flush_failures_total", "Flushes that failed since boot.", totals.failures);
    if let Some(last) = last {
        let when = last.when;
        page.gauge("last_flush_timestamp_seconds", "When the last flush ended.", when);
        let took = Fixed::<3>(last.took_ms);
        page.gauge("last_flush_duration_seconds", "How long the last flush took.", took);
        let stall = Fixed::<6>(last.stall_us);
        page.gauge("last_flush_stall_seconds", "How long root waited during it.", stall);
    }
    page.gauge("held", "1 while nothing may reach the card.", u8::from(*held));
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP cowflush_{name} {help}\n# TYPE cowflush_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "cowflush_{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, "", value);
    }
}

/// A number with `DECIMALS` decimals; floating point would cost bytes on the target.
struct Fixed<const DECIMALS: usize>(u64);

impl<const DECIMALS: usize> Display for Fixed<DECIMALS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = 10_u64.pow(DECIMALS as u32);
        write!(f, "{}.{:0DECIMALS$}", self.0 / unit, self.0 % unit)
    }
}

/// A label's value: these three characters have a meaning in the format.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Metrics {
        Metrics {
            mode: "deferring",
            cow_used: Bytes(4096),
            cow_size: Bytes(1 << 24),
            pending: Some(Bytes(2048)),
            dirty: Bytes(1),
            log: Some((3, 7)),
            life: Some(Life { segments: 9, chunks: 2, ..Life::default() }),
            totals: Totals::parse("bytes=30\nfailures=1\nflushes at=2\nflushes a\"b\\=1\n"),
            last: Some(Record {
                when: 1_700_000_000,
                took_ms: 2315,
                stall_us: 4250,
                ..Record::default()
            }),
            held: true,
        }
    }

    #[test]
    fn every_sample_has_its_help_and_type() {
        for metrics in [full(), Metrics::default()] {
            let text = to_text(&metrics);
            let mut lines = text.lines().peekable();
            while let Some(help) = lines.next() {
                let name = help.strip_prefix("# HELP ").unwrap().split(' ').next().unwrap();
                assert!(lines.next().unwrap().starts_with(&format!("# TYPE {name} ")), "{name}");
                while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
                    assert!(sample.starts_with(name), "{sample}");
                    let value = sample.rsplit(' ').next().unwrap();
                    value.parse::<f64>().unwrap();
                }
            }
        }
    }

    #[test]
    fn figures_have_their_base_units() {
        let text = to_text(&full());
        for line in [
            "cowflush_mode{mode=\"deferring\"} 1",
            "cowflush_mode{mode=\"inactive\"} 0",
            "cowflush_cow_size_bytes 16777216",
            "cowflush_log_used_ratio 0.07",
            "cowflush_log_flushes_total 9",
            "cowflush_log_flushed_bytes_total 8192",
            "cowflush_flushes_total{reason=\"at\"} 2",
            "cowflush_flushes_total{reason=\"a\\\"b\\\\\"} 1",
            "cowflush_flush_failures_total 1",
            "cowflush_last_flush_duration_seconds 2.315",
            "cowflush_last_flush_stall_seconds 0.004250",
            "cowflush_held 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
