//! Seal: swap root's COW for a fresh one at a moment when it holds a complete filesystem.

use std::fs::File;
use std::time::{Duration, Instant};

use super::cowfile;
use super::valve::Valve;
use super::window::{self, Failed, Freeze, Restart, Sealed};
use crate::cow::format::CHUNK_SECTORS;
use crate::cow::pace;
use crate::dm::{Line, Target};
use crate::error::{Doing, Error, Result};
use crate::stack::{Device, Name, Stack};
use crate::sys::dm::Control;
use crate::sys::guard::{self, End, Guard};
use crate::sys::{block, cow_threshold, signals};
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
/// `valve` holds writers back until shortly before the window, which needs root awake. With
/// [`Freeze::Before`] the filesystem is frozen from then on, until the caller drops what this returns: it
/// gets a valve for the fresh COW first.
pub fn run(
    control: &Control,
    stack: &Stack,
    after: After,
    valve: &mut Valve,
    freeze: Freeze,
) -> Result<(Sealed, Tight)> {
    let root = deferring(stack.root)
        .ok_or_else(|| Error::new("seal root", "its writes already go straight to the card"))?;
    let sealed = control.create(Name::Sealed, None)?;
    let chunk = CHUNK_SECTORS;
    let (origin, cow) = (root.seat, root.cow);
    let (sealed_target, root_target, fresh) = match after {
        After::Defer { limit, roof } => {
            let used = stack.root.and_then(|device| device.usage());
            let used = used.map_or(limit, |usage| usage.allocated.bytes());
            let fresh = cowfile::create(control, limit, used, roof)?;
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
    let root_folder = File::open("/").doing(|| "open /")?;
    let guard = guard::post(&mut |end| {
        if end == End::Orphaned {
            for_guard.rescue(control);
            // What this process froze, or nobody; after root is awake, which may have to be read.
            block::thaw(&root_folder);
        }
    })?;
    // As soon as the sealed device's table is loaded the kernel lets root wake up on another table only, so
    // here the valve's time ends.
    valve.rest();
    let since = Instant::now();
    let unpaced = Unpaced::begin(after);
    let early = freeze == Freeze::Before;
    let frozen = early && block::freeze(&root_folder).is_ok();
    // One that shut down after errors.
    let freeze = if early && !frozen { Freeze::Within } else { freeze };
    // From here on whatever happens thaws it.
    let tight = Tight { frozen: frozen.then_some((root_folder, since)), guard: Some(guard) };
    control.load(Name::Sealed, &[Line::whole(root.length, sealed_target)])?;
    control.load(Name::Root, &[Line::whole(root.length, root_target)])?;
    // Now the loaded table keeps the fresh COW.
    drop(fresh);
    let sealed = signals::undisturbed(|| requests.run(control, freeze)).map_err(explain)?;
    drop(unpaced);
    Ok((sealed, tight))
}

/// To freeze is to write out what the page cache holds while everybody waits, so a small COW may be filled
/// at any speed meanwhile. Dropped, the pace is that of the COW that root has then; should this process
/// die, it stays until the next seal, which the valve can do with.
struct Unpaced {
    then: u64,
}

impl Unpaced {
    fn begin(after: After) -> Self {
        cow_threshold::set(pace::FREE);
        Self {
            then: match after {
                After::Defer { limit, .. } => pace::threshold(limit),
                After::WriteThrough => pace::FREE,
            },
        }
    }
}

impl Drop for Unpaced {
    fn drop(&mut self) {
        cow_threshold::set(self.then);
    }
}

/// A frozen filesystem, if it was; thawed when this is dropped, or this process dies.
pub struct Tight {
    frozen: Option<(File, Instant)>,
    guard: Option<Guard>,
}

impl Tight {
    /// Thaws it. Returns for how long it was frozen.
    pub fn thaw(self) -> Option<Duration> {
        let since = self.frozen.as_ref().map(|(_, since)| *since);
        drop(self);
        since.map(|since| since.elapsed())
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        if let Some((root, _)) = &self.frozen {
            block::thaw(root);
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
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
    let guard = guard::post(&mut |end| {
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
