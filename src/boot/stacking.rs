//! Puts the stack over the card.

use super::devices::Candidate;
use crate::cow::format::CHUNK_SECTORS;
use crate::cow::pace;
use crate::dm::{Line, Target};
use crate::error::Result;
use crate::ops::log::Log;
use crate::ops::{cowfile, view};
use crate::stack::Name;
use crate::sys::cow_threshold;
use crate::sys::dm::Control;
use crate::units::{Bytes, DevNo, Sectors};

/// The flush log to build the stack with: its partition, and what was read of it.
pub type FlushLog<'a> = (&'a Candidate, &'a Log);

/// Builds the stack over the card, with an empty COW of `limit` bytes, and returns root's number.
/// What was made before a failure is taken away again.
pub fn build(card: &Candidate, log: Option<FlushLog<'_>>, limit: Bytes) -> Result<DevNo> {
    let control = Control::open()?;
    put_together(&control, card, log, limit).inspect_err(|_| take_away(&control))
}

fn put_together(
    control: &Control,
    card: &Candidate,
    log: Option<FlushLog<'_>>,
    limit: Bytes,
) -> Result<DevNo> {
    let mut seat = partition(control, Name::Origin, card)?;
    let roof = log.map_or(Bytes::MAX, |(_, log)| log.capacity());
    if let Some((candidate, log)) = log {
        let number = partition(control, Name::Log, candidate)?;
        if !log.chain.segments.is_empty() {
            let data = view::Data::of_log(number, &log.chain);
            let cow = view::build(control, Name::LogView, &data, None, 0)?;
            seat = snapshot(control, Name::Logged, card.size, seat, cow)?;
        }
    }
    let cow = cowfile::create(control, limit, Bytes(0), roof)?;
    let root = snapshot(control, Name::Root, card.size, seat, cow.number())?;
    // Not before: to load the table may have loaded the kernel module.
    cow_threshold::set(pace::threshold(limit));
    Ok(root)
}

/// A device that is a whole partition.
pub fn partition(control: &Control, name: Name, of: &Candidate) -> Result<DevNo> {
    let number = control.create(name, None)?;
    let linear = Target::Linear { device: of.number, offset: Sectors(0) };
    control.replace(name, &[Line::whole(of.size, linear)])?;
    Ok(number)
}

fn snapshot(
    control: &Control,
    name: Name,
    length: Sectors,
    origin: DevNo,
    cow: DevNo,
) -> Result<DevNo> {
    let number = control.create(name, None)?;
    let target = Target::Snapshot { origin, cow, chunk: CHUNK_SECTORS };
    control.replace(name, &[Line::whole(length, target)])?;
    Ok(number)
}

/// Takes the stack away; the COW's memory goes with its last user.
pub fn dismantle() {
    if let Ok(control) = Control::open() {
        take_away(&control);
    }
}

fn take_away(control: &Control) {
    // From the top down. What was never made can't be removed; that is no failure here.
    for name in Name::ALL {
        let _ = control.remove(name);
    }
}
