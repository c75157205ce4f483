//! The output of `cowflush status --json`. docs/json.md has the keys.

use crate::flush::status::{Phase, Report};
use crate::notes::daemon_note::DaemonNote;
use crate::pure::report::json::Object;
use crate::pure::report::record::Record;
use crate::pure::units::{Bytes, Sectors};
use crate::sys::block::{self, Written};
use crate::sys::users::{Beside, OnRoot};

/// Version of the JSON: it changes when a key changes its meaning or is removed.
const JSON_VERSION: u64 = 1;

/// The whole report.
pub fn to_json(report: &Report) -> Object {
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
        .text("mode", report.mode_word())
        .text("phase", report.phase.map_or("unknown", Phase::word))
        .text("card", &card)
        .maybe("cow_used", bytes(report.cow_used))
        .maybe("cow_size", bytes(report.cow_size))
        .maybe("pending", bytes(report.pending))
        .maybe("sealed", bytes(report.sealed))
        .number("page_cache", report.page_cache.0)
        .object(
            "spill",
            report
                .spill
                .map(|(used, size)| Object::new().number("used", used.0).number("size", size.0)),
        )
        .flag("write_protected", report.write_protected)
        .list("beside", report.beside.iter().map(beside_json))
        .list("swap_on_root", report.swap_on_root.iter().map(swap_json))
        .object("absorbed", written(report.absorbed))
        .object("reached_card", written(report.reached))
        .object("last_flush", report.last_flush.as_ref().map(Record::to_json))
        .object(
            "restless",
            report.restless.as_ref().map(|(path, flushes, _)| {
                Object::new().text("path", path).number("flushes", *flushes as u64)
            }),
        )
        .object(
            "log",
            report.log.as_ref().map(|log| {
                Object::new()
                    .text("partition", &block::name(log.partition))
                    .maybe("segments", log.segments)
                    .maybe("used_percent", log.used_percent)
                    .text("state", log.state.unwrap_or_default())
            }),
        )
        .text("log_kept", report.log_kept.as_deref().unwrap_or_default())
        .maybe("held_since", report.held_since.and_then(|since| u64::try_from(since).ok()))
        .object("daemon", report.daemon.map(daemon_json))
        .maybe("busy_pid", report.busy.and_then(|pid| u64::try_from(pid).ok()))
        .object(
            "boot",
            report
                .boot
                .as_ref()
                .map(|(mode, reason)| Object::new().text("mode", mode).text("reason", reason)),
        )
}

fn beside_json(Beside { name, uses, written }: &Beside) -> Object {
    Object::new()
        .text("partition", name)
        .text("uses", uses)
        .number("requests", written.requests)
        .number("bytes", Sectors(written.sectors).bytes().0)
}

fn swap_json(OnRoot { path, room }: &OnRoot) -> Object {
    Object::new()
        .text("path", path)
        .maybe("used", room.map(|(used, _)| used.0))
        .maybe("size", room.map(|(_, size)| size.0))
}

fn daemon_json(daemon: DaemonNote) -> Object {
    let next = daemon
        .next()
        .map(|(seconds, reason)| Object::new().number("seconds", seconds).text("reason", reason));
    Object::new().number("pid", u64::from(daemon.pid)).object("next_flush", next)
}
