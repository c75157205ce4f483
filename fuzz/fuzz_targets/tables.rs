//! device-mapper's text of a table and of a snapshot's status.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::dm::{SnapshotStatus, Target};

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// Each line of the input is a status line and also a target: its type, a space, its parameters.
pub fn check(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        status(line);
        let (kind, params) = line.split_once(' ').unwrap_or((line, ""));
        target(kind, params);
    }
}

fn status(line: &str) {
    let status = SnapshotStatus::parse(line);
    if let SnapshotStatus::Used(usage) = status {
        assert!(usage.data() <= usage.allocated);
        let written = format!("{}/{} {}", usage.allocated, usage.total, usage.metadata);
        assert_eq!(SnapshotStatus::parse(&written), status, "{line}");
    }
}

fn target(kind: &str, params: &str) {
    let target = Target::parse(kind, params);
    if target != Target::Other {
        assert_eq!(target.kind(), kind);
        // `params` can't say that its text did not fit: reading it back does.
        assert_eq!(Target::parse(target.kind(), &target.params()), target, "{kind} {params}");
    }
}
