//! A merge without a FLUSH after each run.
//!
//! `snapshot-merge` flushes the card's write cache after every run, so that its table in the COW
//! never runs ahead of the card. But this COW is in RAM: it is gone after a power cut, whatever
//! its table says. So those FLUSHes protect nothing; one at the end, before the RAM copy is given
//! up, does. While the kernel believes that the card has no write cache, it sends none.
//!
//! Everybody else's FLUSHes would be dropped as well, so this is only done while the card has no
//! other user.

use crate::error::{Doing, Result};
use crate::stack::{Mark, Stack};
use crate::sys::block;
use crate::units::DevNo;

const FLUSHED: &str = "write back";
const UNFLUSHED: &str = "write through";

/// Whether the disk of the card may be quieted: it has a write cache that the kernel flushes,
/// and nobody uses it but cowflush. The flush log on it is only read during a merge.
pub fn allowed(stack: &Stack) -> Option<Mark> {
    let (card, _) = stack.card()?;
    let disk = block::disk_of(card)?;
    let ours: Vec<DevNo> = [card].into_iter().chain(stack.log_partition()).collect();
    let flushed = block::write_cache(disk).is_ok_and(|mode| mode == FLUSHED);
    (flushed && block::only_user(disk, &ours)).then_some(Mark { quieted: disk })
}

/// Stops the FLUSHes. A kernel that doesn't let itself be told goes on sending them.
pub fn begin(mark: Mark) {
    let _ = block::set_write_cache(mark.quieted, UNFLUSHED);
}

/// Lets FLUSHes reach the disk again. May be called again.
pub fn end(mark: Mark) -> Result<()> {
    block::set_write_cache(mark.quieted, FLUSHED)
        .doing(|| format!("turn the FLUSHes of {} on again", block::name(mark.quieted)))
        .map_err(|error| {
            error.advise("The RAM copy is kept. Try `cowflush flush` again; reboot if it persists.")
        })
}
