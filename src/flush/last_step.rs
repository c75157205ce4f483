//! The last step of a stop, while root is suspended: merges what was sealed into the card by way of
//! the log.

use super::append::{Appended, append};
use super::context::Context;
use super::errors::explain;
use super::figures::Settled;
use super::layer::data;
use super::prune::Policy;
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::append::APPEND_AGAIN;
use crate::flush::flushlog::compare;
use crate::output::progress::Meter;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::flushlog::agree::Act;
use crate::pure::stack::{Name, PlanError};
use crate::pure::units::Bytes;
use crate::sys::block;
use crate::sys::disk::Disk;
use crate::sys::time::Instant;

/// Copies what was sealed into the card, while root is suspended and nothing new comes. It first
/// appends it to the log, which is empty until then. Only when that is durable it copies it to the
/// card, and only when all of it is on the card it empties the log. So a power cut at any moment
/// leaves what was sealed, whole. The sealed device shows the same before and after, from the COW.
/// `None`: the log has no room.
///
/// The log must be emptied: after that root is written to past it, and as nothing was frozen its
/// superblock, by which a boot knows whether a log still fits, need not change for long.
pub fn into_card(context: &mut Context<'_>) -> Result<Option<Settled>> {
    let (stack, mut settled) = (context.observe()?, Settled::default());
    let Some((card, _)) = stack.card() else {
        return Err(explain(PlanError::Foreign(Name::Origin)));
    };
    let must = |error: Error| error.advise(APPEND_AGAIN).exit(Exit::Card);
    if data(stack.sealed.as_ref()) == Bytes(0) {
        let checked = compare::check(&stack, Act::Retire, context.forget, None)?;
        // What an append that was cut short has left.
        let left = checked.log.filter(|log| !log.is_unused());
        return left.map_or(Ok(()), |mut log| log.reset(0)).map_err(must).map(|()| Some(settled));
    }
    // The filesystem was not frozen, so its bitmaps of free blocks can't be trusted.
    let whole = Policy { on: false, frozen: false };
    let Appended::Done(mut log, done) = append(context, &stack, whole)? else { return Ok(None) };
    settled.append(&done);
    let begin = Instant::now();
    let live = log.verify();
    let bytes = Bytes(live.len() as u64 * CHUNK_BYTES as u64);
    if bytes != settled.logged {
        let why = log.damage().or_else(|| log.hidden()).unwrap_or_default();
        return Err(must(Error::new("merge the flush log", why)));
    }
    let mut root = Disk::open_writable(&block::path(card))?;
    log.apply(&live, &mut root, &mut Meter::silent())
        .and_then(|()| log.reset(live.len() as u64))
        .map_err(must)?;
    (settled.merged, settled.merging) = (bytes, begin.elapsed());
    Ok(Some(settled))
}
