//! The output of `cowflush status` for people.

use std::fmt::Write;

use crate::flush::status::{LogReport, Phase, Report};
use crate::pure::report::history;
use crate::pure::stack::Mode;
use crate::pure::units::{Bytes, Sectors, Utc};
use crate::sys::block::{self, Written};
use crate::sys::time;
use crate::sys::users::{Beside, OnRoot};

/// The figures that change most, in one line.
pub fn to_line(report: &Report) -> String {
    let bytes = |value: Option<Bytes>| value.map_or("?".to_owned(), |bytes| bytes.to_string());
    format!(
        "{} {} {}: RAM {} of {}, pending {}, page cache {}\n",
        Utc(time::now()),
        report.mode_word(),
        report.phase.map_or("unknown", Phase::word),
        bytes(report.cow_used),
        bytes(report.cow_size),
        bytes(report.pending),
        report.page_cache,
    )
}

/// The whole report, a line for each item.
pub fn to_text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    if let Some(why) = &report.unknown {
        line("mode", &format!("unknown: {why}"));
        return text;
    }
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
    if report.write_protected {
        line("card", &write_protected(&card));
    }
    if let Some(phase) = report.phase {
        line("state", sentence(phase, report.busy.is_some()));
    }
    if let Some(pid) = report.busy {
        line("busy", &format!("process {pid} is at work"));
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
    if let Some((used, size)) = report.spill {
        line("spill", &format!("{used} of {size} on the card in use"));
    }
    for area in &report.swap_on_root {
        line("swap", &swap(area));
    }
    line("flush log", &flush_log(report));
    if let Some(since) = report.held_since {
        let why = if report.held_for_log {
            " until you decide what becomes of the flush log"
        } else {
            ""
        };
        line("held", &format!("since {}: nothing reaches the card{why}", Utc(since)));
    }
    line("daemon", &daemon(report));
    line(
        "last flush",
        &report.last_flush.as_ref().map_or_else(
            || "none since boot".to_owned(),
            |record| format!("{}: {record} ({})", record.when(), history::cause(record)),
        ),
    );
    if let Some((_, _, words)) = &report.restless {
        line("restless", &format!("{words}; `cowflush check` says what to do"));
    }
    if let Some(record) = report.last_flush.as_ref().filter(|last| !last.not_pruned.is_empty()) {
        line("pruned", &format!("nothing at the last flush: {}", record.not_pruned));
    }
    if let (Some(absorbed), Some(reached)) = (report.absorbed, report.reached) {
        line(
            "writes",
            &format!("{} by root, {} to {card} since boot", describe(absorbed), describe(reached)),
        );
    }
    for partition in &report.beside {
        line("beside", &beside(partition));
    }
    line("at risk", &risk(report, mode, &card));
    text
}

/// What a write-protected card means.
pub fn write_protected(card: &str) -> String {
    format!("{card} IS WRITE-PROTECTED: nothing can be flushed until that ends")
}

/// What to know about another partition of the card.
pub fn beside(Beside { name, uses, written }: &Beside) -> String {
    let uses = if uses.is_empty() { "not in use" } else { uses };
    format!("{name} ({uses}) is on the card, too: {} written since boot", describe(*written))
}

/// What to know about swap on root.
pub fn swap(OnRoot { path, room }: &OnRoot) -> String {
    match room {
        Some((used, size)) => {
            format!("{path} IS ON ROOT, so it takes RAM ({used} of {size} in use)")
        }
        None => format!("{path} is on root: given up while writes stay in RAM"),
    }
}

fn daemon(report: &Report) -> String {
    let Some(daemon) = report.daemon else {
        return "not running: flushes come by hand only".to_owned();
    };
    let next = match daemon.next() {
        _ if report.held_since.is_some() => "a full COW would end the hold".to_owned(),
        Some((seconds, reason)) => format!("next flush in {} ({reason})", time_left(seconds)),
        None => "flushes come when something asks for them".to_owned(),
    };
    format!("process {}; {next}", daemon.pid)
}

/// `45 s`, `12 min`, `3 h 20 min`.
fn time_left(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// What a bad state of the flush log means; empty for a good one.
pub fn log_trouble(state: &str) -> &'static str {
    match state {
        "unreadable" => {
            ". IT CAN'T BE READ TO ITS END, and flushes are refused until it can: `cowflush log` \
                     says more"
        }
        "newer" => {
            ". IT IS OF A NEWER COWFLUSH, and flushes are refused: `cowflush log` says what to do"
        }
        "damaged" => ". IT IS DAMAGED: `cowflush log` says more",
        "ahead" => ". IT HOLDS MORE THAN ROOT READS: `cowflush flush` says what to do",
        "behind" => ". IT LACKS WHAT ROOT READS: `cowflush flush` says what to do",
        _ => "",
    }
}

fn flush_log(report: &Report) -> String {
    match (&report.log, &report.log_kept) {
        (Some(LogReport { partition, segments, used_percent, state, .. }), _) => {
            let name = block::name(*partition);
            let trouble = log_trouble(state.unwrap_or_default());
            match (segments, used_percent) {
                (Some(segments), Some(percent)) => {
                    format!("{name}: {segments} flushes, {percent} % full{trouble}")
                }
                _ if !trouble.is_empty() => format!("{name}{trouble}"),
                _ if report.busy.is_some() => {
                    format!("{name} (what it holds can't be told while it is written to)")
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

fn sentence(phase: Phase, busy: bool) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Sealed if busy => "on its way to the flush log, or to the card",
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
        (_, None) if report.phase == Some(Phase::Lost) => {
            format!("lost already: what was written since {since}")
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
    use super::super::json::to_json;
    use super::*;
    use crate::notes::daemon_note::DaemonNote;
    use crate::pure::report::record::Record;
    use crate::pure::units::DevNo;

    #[test]
    fn the_bar_is_always_20_wide() {
        assert_eq!(bar(Bytes(0), Bytes(100)), "[--------------------]   0 %");
        assert_eq!(bar(Bytes(1), Bytes(100)), "[#-------------------]   1 %");
        assert_eq!(bar(Bytes(200), Bytes(100)), "[####################] 100 %");
    }

    #[test]
    fn times_left_are_short() {
        let texts = [59, 61, 12_060].map(time_left);
        assert_eq!(texts, ["59 s", "1 min", "3 h 21 min"]);
    }

    #[test]
    fn a_hold_and_the_daemon_are_told() {
        let report = Report {
            mode: Some(Mode::Deferring),
            held_since: Some(0),
            daemon: Some(DaemonNote { pid: 12, ..DaemonNote::default() }),
            ..Report::default()
        };
        let text = to_text(&report);
        let held = "held       since 1970-01-01 00:00:00 UTC: nothing reaches the card\n";
        assert!(text.contains(held), "{text}");
        assert!(text.contains("daemon     process 12; a full COW would end the hold"), "{text}");
        let json = to_json(&report).end();
        assert!(json.contains(r#""held_since":0,"daemon":{"pid":12,"next_flush":null}"#), "{json}");
        assert!(
            to_line(&report)
                .ends_with("deferring unknown: RAM ? of ?, pending ?, page cache 0 B\n")
        );
    }

    #[test]
    fn an_inactive_stack_has_a_report_too() {
        let report = Report::default();
        assert!(to_text(&report).starts_with("mode       inactive"));
        assert!(to_json(&report).end().starts_with(r#"{"version":1,"mode":"inactive""#));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_unknown_and_not_inactive() {
        let unknown = Some("cannot ask for the table of cowflush-root: no memory.".to_owned());
        let report = Report { unknown, ..Report::default() };
        assert!(to_text(&report).starts_with("mode       unknown: cannot ask"));
        assert!(!to_text(&report).contains("as on any system"));
        assert!(to_json(&report).end().starts_with(r#"{"version":1,"mode":"unknown""#));
    }

    #[test]
    fn a_flush_at_work_is_none_that_was_interrupted_and_a_lost_cow_is_not_up_to_date() {
        let report = |busy, phase| Report {
            mode: Some(Mode::Deferring),
            phase: Some(phase),
            busy,
            ..Report::default()
        };
        assert!(to_text(&report(None, Phase::Sealed)).contains("a flush was interrupted"));
        let at_work = to_text(&report(Some(7), Phase::Sealed));
        assert!(
            at_work.contains("state      on its way to the flush log, or to the card\n"),
            "{at_work}"
        );
        assert!(at_work.contains("busy       process 7 is at work\n"), "{at_work}");
        assert!(to_text(&report(None, Phase::Lost)).contains("at risk    lost already"));
    }

    #[test]
    fn the_flush_log_is_told_with_what_is_wrong_with_it() {
        let log = |segments, state| Report {
            log: Some(LogReport {
                partition: DevNo { major: 9999, minor: 2 },
                segments,
                used_percent: segments,
                life: None,
                state,
            }),
            ..Report::default()
        };
        for (state, trouble) in [
            ("clean", ""),
            (
                "unreadable",
                ". IT CAN'T BE READ TO ITS END, and flushes are refused until it can: `cowflush log` says more",
            ),
            ("ahead", ". IT HOLDS MORE THAN ROOT READS: `cowflush flush` says what to do"),
            ("behind", ". IT LACKS WHAT ROOT READS: `cowflush flush` says what to do"),
        ] {
            let said = flush_log(&log(Some(3), Some(state)));
            assert_eq!(said, format!("9999:2: 3 flushes, 3 % full{trouble}"));
        }
        let damaged = flush_log(&log(None, Some("damaged")));
        assert_eq!(damaged, "9999:2. IT IS DAMAGED: `cowflush log` says more");
        let newer = flush_log(&log(None, Some("newer")));
        let said =
            ". IT IS OF A NEWER COWFLUSH, and flushes are refused: `cowflush log` says what to do";
        assert_eq!(newer, format!("9999:2{said}"));
        let unread = flush_log(&log(None, None));
        assert_eq!(unread, "9999:2 (`cowflush log`, as root, shows what it holds)");
        let written_to = flush_log(&Report { busy: Some(7), ..log(None, None) });
        assert_eq!(written_to, "9999:2 (what it holds can't be told while it is written to)");
        let none = "none: a power cut during a flush can tear root; `cowflush log --help` tells how to add one";
        assert_eq!(flush_log(&Report::default()), none);
    }

    #[test]
    fn what_a_power_cut_would_cost_is_told_as_far_as_it_is_known() {
        let report = |pending| Report { pending, page_cache: Bytes(7), ..Report::default() };
        for (report, mode, said) in [
            (
                report(Some(Bytes(5))),
                Mode::Deferring,
                "5 B written since boot, and up to 7 B in the page cache",
            ),
            (report(None), Mode::Deferring, "what was written since boot (root can see how much)"),
            (report(None), Mode::WriteThrough, "7 B in the page cache, as on any system"),
        ] {
            assert_eq!(risk(&report, mode, "sda1"), said);
        }
        let report = Report { sealed: Some(Bytes(9)), mode: Some(Mode::Deferring), ..report(None) };
        assert!(to_text(&report).contains("sealed     9 B still to be merged into the card\n"));
        let inactive = to_text(&Report::default());
        assert!(inactive.contains("mode       inactive: root is not on a cowflush stack\n"));
        assert!(inactive.ends_with("what programs wrote in the last seconds, as on any system\n"));
    }

    #[test]
    fn what_is_beside_the_stack_is_told_and_listed() {
        let name = || "sda3".to_owned();
        let written = Written { requests: 8, sectors: 9 };
        let other = |uses: &str| Beside { name: name(), uses: uses.to_owned(), written };
        let idle = "sda3 (not in use) is on the card, too: 4.5 KiB in 8 written since boot";
        assert_eq!(beside(&other("")), idle);
        let area = |room| OnRoot { path: "/my swap".into(), room };
        let report = Report {
            mode: Some(Mode::Deferring),
            write_protected: true,
            beside: vec![other("/var, swap")],
            swap_on_root: vec![area(Some((Bytes(1), Bytes(2)))), area(None)],
            ..Report::default()
        };
        let text = to_text(&report);
        for part in [
            "card       the card IS WRITE-PROTECTED: nothing can be flushed until that ends\n",
            "beside     sda3 (/var, swap) is on the card, too: 4.5 KiB in 8 written since boot\n",
            "swap       /my swap IS ON ROOT, so it takes RAM (1 B of 2 B in use)\n",
            "swap       /my swap is on root: given up while writes stay in RAM\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = to_json(&report).end();
        for part in [
            r#""write_protected":true"#,
            r#""beside":[{"partition":"sda3","uses":"/var, swap","requests":8,"bytes":4608}]"#,
            r#""swap_on_root":[{"path":"/my swap","used":1,"size":2},{"path":"/my swap","used":null,"size":null}]"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }

    #[test]
    fn a_merge_is_a_risk() {
        let report = Report {
            mode: Some(Mode::Deferring),
            phase: Some(Phase::Merging),
            ..Report::default()
        };
        let said = "a power cut now can tear the filesystem on the card: a merge is under way and there is no flush log";
        assert!(to_text(&report).contains(said));
    }

    /// A report in which no two figures are equal.
    fn full() -> Report {
        let written = |requests, sectors| Some(Written { requests, sectors });
        Report {
            mode: Some(Mode::Deferring),
            phase: Some(Phase::Idle),
            cow_used: Some(Bytes(1001)),
            cow_size: Some(Bytes(2002)),
            pending: Some(Bytes(3003)),
            sealed: Some(Bytes(4004)),
            page_cache: Bytes(5005),
            absorbed: written(6, 7),
            reached: written(8, 9),
            spill: Some((Bytes(1010), Bytes(1111))),
            busy: Some(1212),
            held_since: Some(1313),
            log_kept: Some("why it is kept".to_owned()),
            boot: Some(("a mode".to_owned(), "a reason".to_owned())),
            last_flush: Some(Record { bytes: Bytes(1414), ..Record::default() }),
            ..Report::default()
        }
    }

    #[test]
    fn every_figure_stands_under_its_own_key() {
        let json = to_json(&full()).end();
        for part in [
            r#""mode":"deferring","phase":"idle""#,
            r#""cow_used":1001,"cow_size":2002,"pending":3003,"sealed":4004,"page_cache":5005"#,
            r#""spill":{"used":1010,"size":1111}"#,
            r#""absorbed":{"requests":6,"bytes":3584}"#,
            r#""reached_card":{"requests":8,"bytes":4608}"#,
            r#""log_kept":"why it is kept","held_since":1313"#,
            r#""busy_pid":1212"#,
            r#""boot":{"mode":"a mode","reason":"a reason"}"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
        assert!(json.contains(r#""bytes":1414"#), "{json}");
        let text = to_text(&full());
        for part in [
            "1001 B of 1.9 KiB",
            "3.5 KiB in 6 by root, 4.5 KiB in 8 to the card",
            "1010 B of 1.0 KiB on the card in use",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            to_line(&full()).contains("RAM 1001 B of 1.9 KiB, pending 2.9 KiB, page cache 4.8 KiB")
        );
    }

    #[test]
    fn every_mode_and_phase_has_a_word_of_its_own() {
        let modes = [None, Some(Mode::Deferring), Some(Mode::WriteThrough)];
        let words = modes.map(|mode| Report { mode, ..Report::default() }.mode_word());
        assert_eq!(words, ["inactive", "deferring", "write-through"]);
        let phases = [
            Phase::Idle,
            Phase::Sealed,
            Phase::Merging,
            Phase::MergeFailed,
            Phase::Overflow,
            Phase::Lost,
            Phase::Suspended,
        ];
        let sentences = [
            "idle",
            "a flush was interrupted; `cowflush flush` finishes it",
            "merging into the card",
            "the card refused a write; all data are in RAM: look at dmesg, then `cowflush flush`",
            "the COW is full and writes fail: `/run/cowflush/cowflush flush`, then reboot",
            "the COW was lost; the card holds the last flush: reboot",
            "root is suspended for a moment",
        ];
        for (phase, said) in phases.into_iter().zip(sentences) {
            let report =
                Report { mode: Some(Mode::Deferring), phase: Some(phase), ..Report::default() };
            let text = to_text(&report);
            assert!(text.contains(&format!("state      {said}\n")), "{text}");
        }
        let documented = include_str!("../../../docs/json.md");
        for (at, phase) in phases.iter().enumerate() {
            assert!(documented.contains(&format!("`{}`", phase.word())), "{}", phase.word());
            for other in &phases[..at] {
                assert_ne!(phase.word(), other.word());
                for busy in [false, true] {
                    assert_ne!(sentence(*phase, busy), sentence(*other, busy));
                }
            }
        }
    }
}
