//! Puts the stack over the card.

use crate::error::{Error, Result};
use crate::flush::errors::explain;
use crate::flush::flushlog::FlushLog;
use crate::flush::{cow_device, view};
use crate::pure::chunks::CHUNK_SECTORS;
use crate::pure::cow::threshold;
use crate::pure::dm::{Line, Target};
use crate::pure::stack::{Name, PlanError};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::devices::Candidate;
use crate::sys::dm::Control;
use crate::sys::{block, cow_threshold, lock};

/// What was done before the stack is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// Nothing: the card may take a while to appear.
    Nothing,
    /// The caller has waited for the card.
    CardFound,
    /// The caller has waited for the card and built a stack that could not be used: it has to go.
    StackTried,
}

/// The flush log to build the stack with: its partition, and the log, if it could be read.
pub type LogInUse<'a> = (&'a Candidate, Option<&'a FlushLog>);

/// Builds the stack over the card, with an empty COW of `limit` bytes, and returns root's number.
/// What was made before a failure is taken away again.
pub fn build(
    control: &Control,
    card: &Candidate,
    log: Option<LogInUse<'_>>,
    limit: Bytes,
) -> Result<DevNo> {
    put_together(control, card, log, limit).inspect_err(|_| drop(take_away(control)))
}

fn put_together(
    control: &Control,
    card: &Candidate,
    log: Option<LogInUse<'_>>,
    limit: Bytes,
) -> Result<DevNo> {
    let mut below = partition(control, Name::Origin, card)?;
    let log_capacity = log.and_then(|(_, log)| log).map_or(Bytes::MAX, FlushLog::capacity);
    if let Some((candidate, log)) = log {
        let number = partition(control, Name::Log, candidate)?;
        if let Some(log) = log.filter(|log| !log.chain.segments.is_empty()) {
            let data = view::Data::of_log(number, &log.chain);
            let cow = view::build(control, Name::LogView, &data, 0)?;
            below = snapshot(control, Name::Logged, card.size, below, cow)?;
        }
    }
    let cow = cow_device::create(control, limit, Bytes(0), log_capacity)?;
    let root = snapshot(control, Name::Root, card.size, below, cow.number())?;
    // Not earlier: loading the table may have loaded the kernel module that has the setting.
    cow_threshold::set(threshold::of(limit));
    Ok(root)
}

/// A device that is a whole partition.
pub fn partition(control: &Control, name: Name, of: &Candidate) -> Result<DevNo> {
    let number = control.create(name)?;
    let linear = Target::Linear { device: of.number, offset: Sectors(0) };
    let table = [Line::whole(of.size, linear)];
    match control.replace(name, &table) {
        Err(_) if block::is_write_protected(of.number) => {
            control.replace_read_only(name, &table)?
        }
        replaced => replaced?,
    }
    Ok(number)
}

fn snapshot(
    control: &Control,
    name: Name,
    length: Sectors,
    origin: DevNo,
    cow: DevNo,
) -> Result<DevNo> {
    let number = control.create(name)?;
    let target = Target::Snapshot { origin, cow, chunk: CHUNK_SECTORS };
    control.replace(name, &[Line::whole(length, target)])?;
    Ok(number)
}

/// The first step of everything that builds a stack: takes the lock, which lasts as long as the
/// returned control device, and takes away what was left of a stack. It refuses a whole stack,
/// since what that holds is in RAM alone, and one that is in use. The inner error means that the
/// kernel has no device-mapper, and so no stack.
pub fn begin(prior: Prior) -> Result<Result<Control>> {
    let control = match Control::open() {
        Ok(control) => control,
        without => return Ok(without),
    };
    lock::take(&control)?;
    let stack = control.stack()?;
    if prior != Prior::StackTried && stack.root.is_some_and(|root| root.live.is_some()) {
        return Err(Error::new("build the stack", "there is one already").advise(
            "Root is its /dev/mapper/cowflush-root. `cowflush attach --plain` takes it away, unless it is in use.",
        ));
    }
    take_away(&control)?;
    Ok(Ok(control))
}

/// Takes the stack away; the COW's memory is freed with its last user.
pub fn dismantle() -> Result<()> {
    Control::open().map_or(Ok(()), |control| take_away(&control))
}

/// Takes the stack's devices away from the top down. A device that is in use stays, with all that
/// it stands on; so does another program's device that only has one of the names. A COW goes with
/// the table that uses it.
pub fn take_away(control: &Control) -> Result<()> {
    let stack = control.stack()?;
    for name in Name::ALL {
        match stack.device(name) {
            Some(device) if device.is_foreign() => return Err(explain(PlanError::Foreign(name))),
            Some(_) => control.remove(name)?,
            None => {}
        }
    }
    cow_device::release_strays(control);
    Ok(())
}
