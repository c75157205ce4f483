//! A merge without a FLUSH after each run.
//!
//! `snapshot-merge` flushes the origin's write cache after every run, and the store's with every change of its
//! table, so that this table never runs ahead of the card. But it is in RAM: gone after a power cut, whatever it
//! says. So those FLUSHes protect nothing; one of the card itself, before the RAM copy is given up, does.
//!
//! The kernel sends them to the devices that the layer's table names: cowflush-origin, and by way of the view
//! cowflush-log. Of a device that it believes to have no write cache it ends a FLUSH at once
//! (`submit_bio_noacct`). So these two are told to have none, while such a merge is waited for. The disk's own
//! setting stays as it is, and so does what anybody else writes to it. A device that gets a table, or goes, loses
//! the setting; one that a killed command left is put back by the next.

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

/// Stops the FLUSHes, and returns whether it may: the FLUSHes of a root that writes through go this way, too.
/// A kernel that doesn't let itself be told goes on sending them. May be called again.
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
        // It never had a write cache, since the card has none.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}
