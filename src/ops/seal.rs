//! Seal: swap root's COW for a fresh one at a moment when it holds a complete filesystem.

use super::cowfile;
use super::valve::Valve;
use super::window::{self, Failed, Restart, Sealed};
use crate::cow::format::CHUNK_SECTORS;
use crate::cow::size;
use crate::dm::{Line, Target};
use crate::error::{Error, Result};
use crate::stack::{Device, Name, Stack};
use crate::sys::dm::Control;
use crate::sys::guard::{self, End};
use crate::sys::signals;
use crate::units::{Bytes, DevNo, Sectors};

/// What root continues on after the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// A fresh COW; together with the sealed one it should stay below `limit`.
    Defer {
        /// The COW's limit.
        limit: Bytes,
        /// What one flush can put into the flush log.
        roof: Bytes,
    },
    /// The card: the sealed COW is merged in its own order, writes go straight through.
    WriteThrough,
}

/// A deferring root: its parts by name.
struct Deferring {
    length: Sectors,
    seat: DevNo,
    cow: DevNo,
}

fn deferring(root: Option<Device>) -> Option<Deferring> {
    let root = root?;
    let Target::Snapshot { origin, cow, .. } = root.target()? else { return None };
    Some(Deferring { length: root.length()?, seat: origin, cow })
}

/// Seals root's COW. The stack must be settled and deferring.
///
/// The process's memory must be locked. All memory is had and all tables are loaded before root is
/// suspended; a kernel that needs memory then might wait for a write to root, for ever. That is why the
/// sealed device takes root's exceptions over (a *handover*) instead of reading them anew.
///
/// `valve` holds writers back until shortly before the window, which needs root awake.
pub fn run(
    control: &Control,
    stack: &Stack,
    after: After,
    valve: &mut Option<Valve>,
) -> Result<Sealed> {
    let root = deferring(stack.root)
        .ok_or_else(|| Error::new("seal root", "its writes already go straight to the card"))?;
    let sealed = control.create(Name::Sealed, None)?;
    let chunk = CHUNK_SECTORS;
    let (origin, cow) = (root.seat, root.cow);
    let (sealed_target, root_target, fresh) = match after {
        After::Defer { limit, roof } => {
            let used = stack.root.and_then(|device| device.usage());
            let used = used.map_or(limit, |usage| usage.allocated.bytes());
            let fresh = cowfile::create(size::fresh_device(limit, used, roof), limit)?;
            let root_target = Target::Snapshot { origin: sealed, cow: fresh.number(), chunk };
            (Target::Snapshot { origin, cow, chunk }, root_target, Some(fresh))
        }
        After::WriteThrough => (
            Target::SnapshotMerge { origin, cow, chunk },
            Target::Linear { device: sealed, offset: Sectors(0) },
            None,
        ),
    };
    let mut requests = window::Seal::prepare();
    let mut for_guard = window::Seal::prepare();
    let guard = guard::post(None, |end| {
        if end == End::Orphaned {
            for_guard.rescue(control);
        }
    })?;
    // From here to the window's end no valve holds writers back: as soon as the sealed device's table is
    // loaded the kernel lets root wake up on another table only.
    *valve = None;
    let loaded = control
        .load(Name::Sealed, &[Line::whole(root.length, sealed_target)])
        .and_then(|()| control.load(Name::Root, &[Line::whole(root.length, root_target)]));
    // Now the loaded table keeps the fresh COW.
    drop(fresh);
    let sealed =
        loaded.and_then(|()| signals::undisturbed(|| requests.run(control)).map_err(explain));
    guard.dismiss();
    sealed
}

/// Lets a failed merge under a write-through root start again.
pub fn restart(control: &Control, sealed: &Device) -> Result<()> {
    let (Some(Target::SnapshotMerge { origin, cow, chunk }), Some(length)) =
        (sealed.target(), sealed.length())
    else {
        return Err(Error::new("restart the merge", "nothing is being merged"));
    };
    control.load(Name::Sealed, &[Line::whole(length, Target::Snapshot { origin, cow, chunk })])?;
    let merge = Line::whole(length, Target::SnapshotMerge { origin, cow, chunk });
    let mut requests = Restart::prepare(merge);
    let mut for_guard = Restart::prepare(merge);
    let guard = guard::post(None, |end| {
        if end == End::Orphaned {
            for_guard.rescue(control);
        }
    })?;
    let restarted = signals::undisturbed(|| requests.run(control));
    guard.dismiss();
    restarted.map_err(explain)
}

fn explain(failed: Failed) -> Error {
    let advice = "Nothing was lost and root goes on as before. Try again; the kernel log (dmesg) \
                  may have more.";
    match failed {
        Failed::Suspend(errno) => Error::new("suspend cowflush-root", errno.desc()),
        Failed::Handover(errno) => {
            Error::new("hand root's changes over to cowflush-sealed", errno.desc())
        }
        Failed::Resume(errno) => Error::new("resume cowflush-root", errno.desc()),
    }
    .advise(advice)
}
