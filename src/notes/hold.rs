//! A hold: nothing reaches the card until it is released, kept or discarded. A note in
//! /run/cowflush, in RAM like the changes on trial: a reboot ends both.

use std::path::Path;

use super::{run_dir, value};
use crate::error::{Doing, Result};
use crate::pure::units::decimal;
use crate::sys::process::{self, Program};
use crate::sys::{file, time};

const NOTE: &str = "hold";

/// A hold that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it began, in seconds since 1970.
    pub since: i64,
    /// The boot made the hold, since it could not tell what is in the flush log.
    pub for_log: bool,
}

/// The hold, if there is one.
pub fn read() -> Option<Hold> {
    run_dir::read_of_this_boot(NOTE).map(|note| Hold {
        since: decimal(value(&note, "since")).unwrap_or(0),
        for_log: value(&note, "log") == "1",
    })
}

/// Begins a hold, unless one lasts already.
pub fn begin() -> Result<()> {
    if since().is_none() {
        run_dir::write_for_this_boot(NOTE, &format!("since={}\n", time::now()))
            .doing(|| "note the hold in /run/cowflush")?;
    }
    Ok(())
}

/// Begins the boot's own hold: the boot could not tell whether a flush log has flushes of root, and
/// root must not be written to before the owner has decided what becomes of them.
pub fn begin_for_log() -> Result<()> {
    run_dir::write_for_this_boot(NOTE, &format!("since={}\nlog=1\n", time::now()))
        .doing(|| "note in /run/cowflush that nothing may be flushed")
}

/// Whether there is a hold that the boot made, since it could not tell what is in the flush log.
pub fn is_for_log() -> bool {
    read().is_some_and(|hold| hold.for_log)
}

/// Ends a hold. Returns whether there was one.
pub fn end() -> bool {
    let held = since().is_some();
    file::remove(&Path::new(run_dir::PATH).join(NOTE)).is_ok() && held
}

/// Drops what is held: a reboot with the hold in place, so that nothing is flushed on the way down.
/// Uses the system's `reboot` command, unless `at_once` is set or the command fails.
pub fn discard(at_once: bool) -> Result<()> {
    if !at_once && Program::start(c"reboot", c"reboot").is_ok_and(Program::wait) {
        return Ok(());
    }
    Err(process::reboot()).doing(|| "reboot")
}

/// When the hold began, in seconds since 1970; `None` without a hold.
pub fn since() -> Option<i64> {
    read().map(|hold| hold.since)
}
