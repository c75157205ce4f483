//! Merges without a FLUSH after each run, by declaring the write cache of two devices off.
//!
//! `snapshot-merge` flushes the origin's write cache after every run, and the store's with every
//! change of its table, so that this table never runs ahead of the card. But the table is in RAM,
//! and gone after a power cut. So those FLUSHes protect nothing; one FLUSH of the card itself,
//! before the RAM copy is given up, does.
//!
//! The kernel sends them to the devices that the layer's table names: cowflush-origin, and by way
//! of the view cowflush-log. For a device without a write cache it completes a FLUSH at once
//! (`submit_bio_noacct`). So cowflush declares that these two have none, while it waits for such a
//! merge. The disk's own setting stays as it is, so other programs' FLUSHes reach it. A device
//! loses the setting when it gets a new table or is removed; what a killed command left, the next
//! command puts back.

use std::io;
use std::io::ErrorKind;

use crate::error::{Doing, Result};
use crate::pure::stack::{Mode, Stack};
use crate::pure::units::DevNo;
use crate::sys::block;

const FLUSHED: &str = "write back";
const UNFLUSHED: &str = "write through";

fn ours(stack: &Stack) -> impl Iterator<Item = DevNo> {
    [stack.origin, stack.log].into_iter().flatten().map(|device| device.number)
}

/// Stops the FLUSHes, unless root writes through, whose own FLUSHes go through these devices.
/// Returns whether it did. On a kernel without the setting the FLUSHes go on. May be called again.
pub fn declare_off(stack: &Stack) -> bool {
    let allowed = stack.mode() == Some(Mode::Deferring);
    if allowed {
        ours(stack).for_each(|device| drop(block::set_write_cache(device, UNFLUSHED)));
    }
    allowed
}

/// Lets FLUSHes reach the card again. May be called again.
pub fn restore(stack: &Stack) -> Result<()> {
    ours(stack).try_for_each(|device| {
        put_back(device)
            .doing(|| format!("turn the FLUSHes of {} on again", block::name(device)))
            .map_err(|error| {
                error.advise(
                    "The RAM copy is kept. Try `cowflush flush` again; reboot if it persists.",
                )
            })
    })
}

fn put_back(device: DevNo) -> io::Result<()> {
    match block::write_cache(device) {
        Ok(mode) if mode != UNFLUSHED => return Ok(()),
        // A kernel that has no such setting.
        Err(error) if error.kind() == ErrorKind::NotFound && block::sysfs(device).exists() => {
            return Ok(());
        }
        _ => {}
    }
    match block::set_write_cache(device, FLUSHED) {
        // The device never had a write cache, since the card has none.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}
