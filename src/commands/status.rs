//! `cowflush status`.

use std::fmt::Write;

use cowflush::error::{Exit, Result};
use cowflush::ops::status::{self, LogReport, Phase, Report};
use cowflush::report::json::Object;
use cowflush::report::record::Record;
use cowflush::stack::Mode;
use cowflush::sys::block::{self, Written};
use cowflush::units::{Bytes, Sectors};

use crate::put;

/// Version of the JSON: it changes when a key changes its meaning or goes.
const JSON_VERSION: u64 = 1;

/// Shows the report; fails with `NotActive` when root is not on a stack.
pub fn run(json: bool) -> Result<Exit> {
    let report = status::gather();
    let text = if json { to_json(&report).end() + "\n" } else { to_text(&report) };
    put(std::io::stdout(), &text);
    Ok(if report.mode.is_some() { Exit::Done } else { Exit::NotActive })
}

fn mode_word(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Deferring) => "deferring",
        Some(Mode::WriteThrough) => "write-through",
        None => "inactive",
    }
}

fn to_json(report: &Report) -> Object {
    let bytes = |value: Option<Bytes>| value.map(|bytes| bytes.0);
    let written = |value: Option<Written>| {
        value.map(|written| {
            Object::new()
                .number("requests", written.requests)
                .number("bytes", Sectors(written.sectors).bytes().0)
        })
    };
    let card = report.card.map(block::name).unwrap_or_default();
    Object::new()
        .number("version", JSON_VERSION)
        .text("mode", mode_word(report.mode))
        .text("phase", report.phase.map_or("unknown", Phase::word))
        .text("card", &card)
        .maybe("cow_used", bytes(report.cow_used))
        .maybe("cow_size", bytes(report.cow_size))
        .maybe("pending", bytes(report.pending))
        .maybe("sealed", bytes(report.sealed))
        .number("page_cache", report.page_cache.0)
        .object("absorbed", written(report.absorbed))
        .object("reached_card", written(report.reached))
        .object("last_flush", report.last_flush.as_ref().map(Record::to_json))
        .object(
            "log",
            report.log.as_ref().map(|log| {
                Object::new()
                    .text("partition", &block::name(log.partition))
                    .maybe("segments", log.segments)
                    .maybe("used_percent", log.used_percent)
            }),
        )
        .text("log_kept", report.log_kept.as_deref().unwrap_or_default())
        .maybe("busy_pid", report.busy.and_then(|pid| u64::try_from(pid).ok()))
        .object(
            "boot",
            report
                .boot
                .as_ref()
                .map(|(mode, reason)| Object::new().text("mode", mode).text("reason", reason)),
        )
}

fn to_text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let Some(mode) = report.mode else {
        line("mode", "inactive: root is not on a cowflush stack");
        if let Some((mode, reason)) = &report.boot {
            line("boot", &format!("{mode} {reason}"));
        }
        line("at risk", "what programs wrote in the last seconds, as on any system");
        return text;
    };
    let card = report.card.map_or_else(|| "the card".to_owned(), block::name);
    line(
        "mode",
        &match mode {
            Mode::Deferring => format!("deferring: writes stay in RAM, {card} is only read"),
            Mode::WriteThrough => format!("write-through: writes go to {card}"),
        },
    );
    if let Some(phase) = report.phase {
        line("state", sentence(phase));
    }
    if let Some(pid) = report.busy {
        line("busy", &format!("process {pid} is flushing"));
    }
    if let Some(size) = report.cow_size {
        line(
            "RAM COW",
            &match report.cow_used {
                Some(used) => format!("{} {used} of {size}", bar(used, size)),
                None => format!("up to {size} (how much is used only root can see)"),
            },
        );
    }
    if let Some(sealed) = report.sealed {
        line("sealed", &format!("{sealed} still to be merged into {card}"));
    }
    line("flush log", &flush_log(report));
    line(
        "last flush",
        &report.last_flush.as_ref().map_or_else(
            || "none since boot".to_owned(),
            |record| format!("{}: {record} ({})", record.when(), record.command),
        ),
    );
    if let (Some(absorbed), Some(reached)) = (report.absorbed, report.reached) {
        line(
            "writes",
            &format!("{} by root, {} to {card} since boot", describe(absorbed), describe(reached)),
        );
    }
    line("at risk", &risk(report, mode, &card));
    text
}

fn flush_log(report: &Report) -> String {
    match (&report.log, &report.log_kept) {
        (Some(LogReport { partition, segments, used_percent }), _) => {
            let name = block::name(*partition);
            match (segments, used_percent) {
                (Some(segments), Some(percent)) => {
                    format!("{name}: {segments} flushes, {percent} % full")
                }
                _ => format!("{name} (`cowflush log`, as root, shows what it holds)"),
            }
        }
        (None, Some(why)) => why.clone(),
        (None, None) => {
            "none: a power cut during a flush can tear root; `cowflush log --help` tells how to \
             add one"
                .to_owned()
        }
    }
}

fn describe(written: Written) -> String {
    format!("{} in {}", Sectors(written.sectors).bytes(), written.requests)
}

fn sentence(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Sealed => "a flush was interrupted; `cowflush flush` finishes it",
        Phase::Merging => "merging into the card",
        Phase::MergeFailed => {
            "the card refused a write; all data are in RAM: look at dmesg, then `cowflush flush`"
        }
        Phase::Overflow => {
            "the COW is full and writes fail: `/run/cowflush/cowflush flush`, then reboot"
        }
        Phase::Lost => "the COW was lost; the card holds the last flush: reboot",
        Phase::Suspended => "root is suspended for a moment",
    }
}

/// What a power cut would cost now.
fn risk(report: &Report, mode: Mode, card: &str) -> String {
    let merging = matches!(report.phase, Some(Phase::Merging | Phase::MergeFailed));
    if merging && report.log.is_none() {
        return format!(
            "a power cut now can tear the filesystem on {card}: a merge is under way and there is \
             no flush log"
        );
    }
    let since = report
        .last_flush
        .as_ref()
        .map_or_else(|| "boot".to_owned(), |record| record.when().to_string());
    let cache = report.page_cache;
    match (mode, report.pending) {
        (Mode::WriteThrough, _) => format!("{cache} in the page cache, as on any system"),
        (_, Some(pending)) => {
            format!("{pending} written since {since}, and up to {cache} in the page cache")
        }
        (_, None) => format!("what was written since {since} (root can see how much)"),
    }
}

/// `[#####---------------]`, 20 wide.
fn bar(used: Bytes, size: Bytes) -> String {
    const WIDTH: usize = 20;
    let filled = (used.percent_of(size) as usize * WIDTH).div_ceil(100);
    format!("[{}{}] {:>3} %", "#".repeat(filled), "-".repeat(WIDTH - filled), used.percent_of(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_always_20_wide() {
        assert_eq!(bar(Bytes(0), Bytes(100)), "[--------------------]   0 %");
        assert_eq!(bar(Bytes(1), Bytes(100)), "[#-------------------]   1 %");
        assert_eq!(bar(Bytes(200), Bytes(100)), "[####################] 100 %");
    }

    #[test]
    fn an_inactive_stack_has_a_report_too() {
        let report = Report::default();
        assert!(to_text(&report).starts_with("mode       inactive"));
        assert!(to_json(&report).end().starts_with(r#"{"version":1,"mode":"inactive""#));
    }

    #[test]
    fn a_merge_is_a_risk() {
        let report = Report {
            mode: Some(Mode::Deferring),
            phase: Some(Phase::Merging),
            ..Report::default()
        };
        assert!(to_text(&report).contains("can tear the filesystem"));
    }
}
