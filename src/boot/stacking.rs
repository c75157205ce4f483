//! Puts the stack over the card.

use super::devices::Candidate;
use crate::cow::format::CHUNK_SECTORS;
use crate::dm::{Line, Target};
use crate::error::Result;
use crate::ops::cowfile;
use crate::stack::Name;
use crate::sys::dm::Control;
use crate::units::{Bytes, DevNo, Sectors};

/// Builds origin and root over the card, with an empty COW of `limit` bytes, and returns root's
/// number. What was made before a failure is taken away again.
pub fn build(card: &Candidate, limit: Bytes) -> Result<DevNo> {
    let control = Control::open()?;
    put_together(&control, card, limit).inspect_err(|_| take_away(&control))
}

fn put_together(control: &Control, card: &Candidate, limit: Bytes) -> Result<DevNo> {
    let origin = control.create(Name::Origin, None)?;
    let linear = Target::Linear { device: card.number, offset: Sectors(0) };
    control.replace(Name::Origin, &[Line::whole(card.size, linear)])?;
    let cow = cowfile::create(limit, limit)?;
    let root = control.create(Name::Root, None)?;
    let snapshot = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
    control.replace(Name::Root, &[Line::whole(card.size, snapshot)])?;
    Ok(root)
}

/// Takes the stack away; the COW's memory goes with its last user.
pub fn dismantle() {
    if let Ok(control) = Control::open() {
        take_away(&control);
    }
}

fn take_away(control: &Control) {
    // What was never made can't be removed; that is no failure here.
    let _ = control.remove(Name::Root);
    let _ = control.remove(Name::Origin);
}
