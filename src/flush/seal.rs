//! Seals: swaps root's COW for a fresh one at a moment when it holds a complete filesystem.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use super::context::Context;
use super::cow_device::{self, Cow};
use super::errors;
use super::handover::{self, Failed, Freeze, Moment, Restart, Sealed};
use super::layer::named;
use crate::error::{Doing, Error, Exit, Result};
use crate::notes::run_dir;
use crate::pure::chunks::CHUNK_SECTORS;
use crate::pure::cow::threshold;
use crate::pure::dm::{Line, SnapshotStatus, Target};
use crate::pure::stack::{Device, Name, PlanError, Stack};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::dm::Control;
use crate::sys::node::Node;
use crate::sys::time::Instant;
use crate::sys::{block, cow_threshold, signals};
use crate::throttle::guard::{self, Guard, GuardOutcome};

/// What root continues on after the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// A fresh COW; together with the sealed one it should stay below `limit`.
    Defer {
        /// The COW's limit.
        limit: Bytes,
        /// What one flush can put into the flush log.
        log_capacity: Bytes,
    },
    /// The card: the sealed COW is merged in its own order, writes go straight through.
    WriteThrough,
}

/// The parts of a root that defers.
struct Deferring {
    length: Sectors,
    origin: DevNo,
    cow: DevNo,
    /// What its COW holds, where the kernel counts that.
    used: Option<Bytes>,
}

/// The parts of root, if it can be sealed. A COW that was lost can't: root would go on over the
/// card as it was at the last flush, under a filesystem that knows better, and write to that.
fn deferring(stack: &Stack) -> Result<Deferring> {
    if stack.root.is_some_and(|root| root.status() == SnapshotStatus::Invalid) {
        return Err(errors::explain(PlanError::Lost(Name::Root)));
    }
    let parts = |root: Device| {
        let Target::Snapshot { origin, cow, .. } = root.target()? else { return None };
        let used = root.usage().map(|usage| usage.allocated.bytes());
        Some(Deferring { length: root.length()?, origin, cow, used })
    };
    stack
        .root
        .and_then(parts)
        .ok_or_else(|| Error::new("seal root", "its writes already go straight to the card"))
}

impl Deferring {
    /// The tables of the sealed device and of root with which root goes on deferring, and root's
    /// fresh COW.
    fn defer(
        &self,
        control: &Control,
        sealed: DevNo,
        limit: Bytes,
        log_capacity: Bytes,
    ) -> Result<(Target, Target, Cow)> {
        let chunk = CHUNK_SECTORS;
        let fresh = cow_device::create(control, limit, self.used.unwrap_or(limit), log_capacity)?;
        let below = Target::Snapshot { origin: self.origin, cow: self.cow, chunk };
        let above = Target::Snapshot { origin: sealed, cow: fresh.number(), chunk };
        Ok((below, above, fresh))
    }
}

/// Seals root's COW. The stack must be settled and deferring.
///
/// The process's memory must be locked. All memory is allocated and all tables are loaded before
/// root is suspended: a kernel that needs memory while it is suspended might wait for a write to
/// root, for ever. That is why the sealed device takes root's exceptions over (a *handover*)
/// instead of reading them anew.
///
/// The throttle holds writers back until shortly before the handover, which needs root awake. With
/// [`Freeze::Before`] the filesystem is frozen from then on until the caller drops what this
/// returns. The caller observes the stack before that, which arms the throttle for the fresh COW.
pub fn run(
    context: &mut Context<'_>,
    stack: &Stack,
    after: After,
    freeze: Freeze,
) -> Result<(Sealed, FrozenRoot)> {
    let control = &context.control;
    let root = deferring(stack)?;
    let sealed = control.create(Name::Sealed)?;
    let (sealed_target, root_target, fresh) = match after {
        After::Defer { limit, log_capacity } => {
            let (below, above, fresh) = root.defer(control, sealed, limit, log_capacity)?;
            (below, above, Some(fresh))
        }
        After::WriteThrough => (
            Target::SnapshotMerge { origin: root.origin, cow: root.cow, chunk: CHUNK_SECTORS },
            Target::Linear { device: sealed, offset: Sectors(0) },
            None,
        ),
    };
    let (sealed_line, root_line) =
        (Line::whole(root.length, sealed_target), Line::whole(root.length, root_target));
    let mut requests = handover::Seal::prepare(root_line);
    let mut for_guard = handover::Seal::prepare(root_line);
    let root_folder = Rc::new(open_root().doing(|| "open /")?);
    let early = freeze == Freeze::Before;
    let (of_guard, froze) = (control.clone(), root_folder.clone());
    let at_end = Box::new(move |end: GuardOutcome| {
        // Only if root is awake: a thaw reads root, which would wait for the next command if root
        // is suspended, while that command waits for the guard. The next command thaws then.
        if let GuardOutcome::Orphaned { frozen } = end
            && for_guard.rescue(&of_guard)
            && early
        {
            if frozen {
                block::thaw(&froze);
            }
            // While the note is there, the next command would thaw any freeze that it finds.
            run_dir::end_freeze();
        }
    });
    let mut guard = guard::start(control, early.then_some(&*root_folder), at_end)?;
    // Once the sealed device's table is loaded, the kernel lets root resume only with another
    // table, so the throttle has to be released here.
    context.throttle.release();
    let since = Instant::now();
    let full_speed = FullSpeed::begin(after);
    // cowflush never thaws what another program froze. The guard knows whose freeze it is; the note
    // tells the next command, if both processes are killed. Without the note the suspend freezes
    // instead, which the kernel undoes by itself. Nothing slow may come between the note and the
    // freeze: a command that finds the note can't tell whether the freeze has happened.
    let noted = early && run_dir::note_freeze().is_ok();
    let froze = noted.then(|| guard.freeze());
    let frozen = froze == Some(Ok(()));
    if let Some(Err(errno)) = froze {
        if errno == Errno::EPIPE {
            // The guard died in its call, which has ended by now.
            block::thaw(&root_folder);
        }
        run_dir::end_freeze();
        let error = match errno {
            Errno::EBUSY => Some(explain(Failed { at: Moment::Freeze, errno, asleep: false })),
            Errno::EPIPE => Some(guard::ended()),
            // A filesystem that shut down after errors.
            _ => None,
        };
        if let Some(error) = error {
            guard.dismiss();
            return Err(error);
        }
    }
    let freeze = if freeze == Freeze::Before && !frozen { Freeze::Within } else { freeze };
    // From here on every way out thaws it.
    let frozen_root =
        FrozenRoot { frozen: frozen.then_some((root_folder, since)), guard: Some(guard) };
    control.load(Name::Sealed, &[sealed_line])?;
    control.load(Name::Root, &[root_line])?;
    let sealed = signals::undisturbed(|| requests.run(control, freeze));
    // Kept until here: the loaded table keeps the COW, but the kernel drops a table that it can't
    // swap in.
    drop(fresh);
    drop(full_speed);
    match sealed {
        Ok(sealed) => Ok((sealed, frozen_root)),
        Err(failed) => {
            if failed.asleep {
                frozen_root.leave();
            }
            Err(explain(failed))
        }
    }
}

fn open_root() -> std::io::Result<Node> {
    Node::open(Path::new("/"), false, 0)
}

/// Thaws root's filesystem, if a handover that failed or was killed has left it frozen. Root must
/// be awake and no throttle armed: a thaw writes, and a process that waits at a throttle may hold a
/// lock that the write needs.
pub fn thaw_root() {
    if run_dir::has_frozen()
        && let Ok(root) = open_root()
    {
        block::thaw(&root);
        run_dir::end_freeze();
    }
}

/// Puts root on the sealed device, which has taken over what root's COW holds. This process keeps
/// the fresh COW until root uses it: the kernel drops a table that it can't swap in, and a loop
/// device with its last user. Afterwards root is awake and its filesystem thawed.
pub fn move_root(context: &Context<'_>, stack: &Stack) -> Result<()> {
    let (root, sealed) = (named(stack, Name::Root)?, named(stack, Name::Sealed)?);
    let (fresh, target) = match sealed.target() {
        Some(Target::Snapshot { chunk, .. }) => {
            let used = sealed.usage().map_or(context.limit, |usage| usage.allocated.bytes());
            let fresh =
                cow_device::create(&context.control, context.limit, used, context.log_capacity)?;
            let cow = fresh.number();
            (Some(fresh), Target::Snapshot { origin: sealed.number, cow, chunk })
        }
        _ => (None, Target::Linear { device: sealed.number, offset: Sectors(0) }),
    };
    let length = root.length().unwrap_or_default();
    context.control.load(Name::Root, &[Line::whole(length, target)])?;
    let awake = context.control.swap_root();
    drop(fresh);
    awake.inspect(|()| thaw_root())
}

/// Lets a suspended root go on, and thaws its filesystem. No throttle is armed then: see
/// [`thaw_root`].
pub fn wake_root(control: &Control) -> Result<()> {
    control.resume(Name::Root).inspect(|()| thaw_root())
}

/// A root that is suspended for a last step: the sealed device shows what root's COW held, and
/// nothing new comes.
///
/// On drop, or if this process dies, root goes on with the table that waits: at first one with a
/// fresh COW over the sealed device, as after any seal.
pub struct Held {
    control: Control,
    requests: handover::Seal,
    /// Dropped when root goes on.
    _guard: FrozenRoot,
    /// In case root's table has to be loaded again.
    _fresh: Cow,
    length: Sectors,
    origin: DevNo,
    since: Instant,
}

/// Seals root's COW as [`run`] does, and leaves root suspended.
pub fn hold(context: &mut Context<'_>, stack: &Stack) -> Result<Held> {
    let (control, limit, log_capacity) = (&context.control, context.limit, context.log_capacity);
    let root = deferring(stack)?;
    let sealed = control.create(Name::Sealed)?;
    let (below, above, fresh) = root.defer(control, sealed, limit, log_capacity)?;
    let (origin, length) = (root.origin, root.length);
    let (below, above) = (Line::whole(length, below), Line::whole(length, above));
    let mut requests = handover::Seal::prepare(above);
    let mut for_guard = handover::Seal::prepare(above);
    let of_guard = control.clone();
    let at_end = Box::new(move |end: GuardOutcome| {
        if end != GuardOutcome::Dismissed {
            for_guard.rescue(&of_guard);
        }
    });
    let guard = guard::start(control, None, at_end)?;
    let guard = FrozenRoot { frozen: None, guard: Some(guard) };
    context.throttle.release();
    control.load(Name::Sealed, &[below])?;
    control.load(Name::Root, &[above])?;
    let since = Instant::now();
    requests.hold(control).map_err(explain)?;
    let control = control.clone();
    Ok(Held { control, requests, _guard: guard, _fresh: fresh, length, origin, since })
}

impl Held {
    /// Lets root go on directly on the card, which has by now what was sealed. Returns how long
    /// root was suspended.
    ///
    /// The plan removes the sealed device, which is no longer read.
    pub fn write_through(mut self) -> Result<Duration> {
        let target = Target::Linear { device: self.origin, offset: Sectors(0) };
        self.control.load(Name::Root, &[Line::whole(self.length, target)])?;
        // Where the kernel drops that table root goes on over the sealed device.
        let asleep = !self.requests.rescue(&self.control);
        let root = self.control.device(Name::Root)?.and_then(|root| root.target());
        match root == Some(target) {
            true => Ok(self.since.elapsed()),
            false => Err(explain(Failed { at: Moment::Resume, errno: Errno::EAGAIN, asleep })),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.requests.rescue(&self.control);
    }
}

/// Lifts the threshold during a freeze: a freeze writes out the page cache while all writers wait,
/// so a small COW may fill at any speed meanwhile. The drop sets the threshold for the COW that
/// root has then. If this process dies, the threshold stays lifted until the next seal; the
/// throttle alone is enough until then.
struct FullSpeed {
    then: u64,
}

impl FullSpeed {
    fn begin(after: After) -> Self {
        cow_threshold::set(threshold::FREE);
        Self {
            then: match after {
                After::Defer { limit, .. } => threshold::of(limit),
                After::WriteThrough => threshold::FREE,
            },
        }
    }
}

impl Drop for FullSpeed {
    fn drop(&mut self) {
        cow_threshold::set(self.then);
    }
}

/// Root's filesystem, frozen or not. If it is frozen, it is thawed when this is dropped or this
/// process dies.
pub struct FrozenRoot {
    frozen: Option<(Rc<Node>, Instant)>,
    guard: Option<Guard>,
}

impl FrozenRoot {
    /// Thaws it. Returns how long it was frozen.
    pub fn thaw(self) -> Option<Duration> {
        let since = self.frozen.as_ref().map(|(_, since)| *since);
        drop(self);
        since.map(|since| since.elapsed())
    }

    /// Leaves it frozen: root is suspended, and a thaw would wait for it. The command that wakes
    /// root up calls [`thaw_root`].
    fn leave(mut self) {
        self.frozen = None;
    }
}

impl Drop for FrozenRoot {
    fn drop(&mut self) {
        if let Some((root, _)) = &self.frozen {
            // The guard has frozen it, and may have been killed since.
            if self.guard.as_mut().is_none_or(|guard| guard.thaw().is_err()) {
                block::thaw(root);
            }
            run_dir::end_freeze();
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
    let of_guard = control.clone();
    let at_end = Box::new(move |end: GuardOutcome| {
        if end != GuardOutcome::Dismissed {
            for_guard.rescue(&of_guard);
        }
    });
    let guard = guard::start(control, None, at_end)?;
    let restarted = signals::undisturbed(|| requests.run(control));
    guard.dismiss();
    restarted.map_err(explain)
}

fn explain(Failed { at, errno, asleep }: Failed) -> Error {
    let why = errno.desc();
    let error = match at {
        Moment::Freeze => {
            return Error::new("freeze root's filesystem", "it is frozen by another program")
                .advise(
                    "Nothing was lost: what was written stays in RAM. Try again when the program that froze it, such as a \
                     hypervisor's snapshot or `fsfreeze`, has thawed it.",
                )
                .exit(Exit::Busy);
        }
        Moment::Suspend => Error::new("suspend cowflush-root", why),
        Moment::Handover => Error::new("hand root's changes over to cowflush-sealed", why),
        Moment::Resume => Error::new("resume cowflush-root", why),
    };
    error.advise(match asleep {
        false => {
            "Nothing was lost and root goes on as before. Try again; the kernel log (dmesg) may \
             have more."
        }
        true => {
            "Nothing was lost, but root may still be suspended: every program that writes to it waits. Try \
             again, which wakes it up; the kernel log (dmesg) may have more."
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_seal_that_failed_is_named_and_whether_root_sleeps() {
        for (at, said) in [
            (Moment::Suspend, "cannot suspend cowflush-root: Out of memory. Nothing was lost"),
            (
                Moment::Handover,
                "cannot hand root's changes over to cowflush-sealed: Out of memory. Nothing was lost",
            ),
            (Moment::Resume, "cannot resume cowflush-root: Out of memory. Nothing was lost"),
        ] {
            for asleep in [false, true] {
                let error = explain(Failed { at, errno: Errno::ENOMEM, asleep }).to_string();
                assert!(error.starts_with(said), "{error}");
                assert_eq!(error.contains("root may still be suspended"), asleep, "{error}");
            }
        }
    }
}
