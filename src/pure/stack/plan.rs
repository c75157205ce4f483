//! What to do next so that nothing of a flush is left over: the card holds everything that was
//! sealed, root is awake, and no device or memory is kept.
//!
//! One rule table serves the normal end of a flush and the clean-up after a killed one. Every
//! step leaves the stack in a state that this table knows; the caller observes anew after each.

use super::state::{Device, Mode, Name, Stack, Store};
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::units::DevNo;

/// One step towards a settled stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the device's I/O go on, with its inactive table if it has one.
    Resume(Name),
    /// Drop the device's inactive table.
    Clear(Name),
    /// Remove the device.
    Remove(Name),
    /// Load the table into root that reads through the sealed device, and let root go on with it:
    /// what root's COW holds was handed over, and the table that waited for that is gone.
    MoveRoot,
    /// Append the sealed COW to the flush log, then let the sealed device read it there.
    Append,
    /// Write a table over the layer's data in the order of the card, make the view from it, and
    /// turn the layer into a `snapshot-merge` of the view.
    StartMerge(Name),
    /// Turn the sealed device into a `snapshot-merge` of its own COW, in the COW's order.
    MergeInPlace,
    /// Wait for the kernel to merge this layer.
    AwaitMerge(Name),
    /// Take the view out of a layer whose merge failed: everything is read from the card and
    /// the layer's own store again.
    Unmerge(Name),
    /// Let a failed merge under a write-through root start again.
    RestartMerge,
    /// The merge is done: make the card keep it, and turn the layer into a plain `linear` of
    /// the card.
    Unlink(Name),
    /// Give the device another name.
    Rename(Name, Name),
}

/// Why the stack can't be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Root is not on a stack.
    NotActive,
    /// A COW was lost.
    Lost(Name),
    /// A device has a table that cowflush never makes.
    Foreign(Name),
}

/// What is wanted beyond a settled stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// Merge the flush log's segments into the card.
    pub merge: bool,
    /// Merge a sealed COW into the card without the flush log.
    pub direct: bool,
}

/// The next step, or `None` when the stack is settled.
///
/// Two devices can be a *layer*, with data over what is under it: [`Name::Sealed`], whose data are
/// in RAM or just written to the log, and [`Name::Logged`], whose data are in the log. Both are
/// merged alike. The lower one comes first, since the upper one reads through it.
pub fn next(stack: &Stack, goal: Goal) -> Result<Option<Step>, PlanError> {
    match decide(stack, goal)? {
        Some(step) => harmless(stack, step).map(Some),
        None => Ok(None),
    }
}

/// Refuses a step after which root would no longer read through a layer that holds data, or that
/// writes or drops something past such a layer. No row of the table does that on purpose; but a
/// state that a defect elsewhere or another tool left must cost a command, and no data. So every
/// decision is checked once more here.
fn harmless(stack: &Stack, step: Step) -> Result<Step, PlanError> {
    let wrong = match step {
        Step::Remove(name) => {
            let moved = name == Name::Sealed && stack.has_handed_over();
            (moved || stack.is_under_root(name)).then_some(name)
        }
        Step::Clear(name) => {
            let only = stack.device(name).is_some_and(|device| device.live.is_none());
            let way = name == Name::Root && stack.has_handed_over();
            (way || only && stack.is_under_root(name)).then_some(name)
        }
        // After a handover root goes on with the table that waits; before one, that table must not
        // become live.
        Step::Resume(Name::Root) => {
            let waits = stack.root.is_some_and(|root| root.inactive);
            (waits != stack.has_handed_over()).then_some(Name::Root)
        }
        Step::Resume(Name::Sealed) => {
            let waits = stack.root.is_some_and(|root| root.suspended && root.inactive);
            let serves = stack.is_under_root(Name::Sealed) || stack.has_handed_over();
            (!serves && !waits).then_some(Name::Sealed)
        }
        Step::MoveRoot => (!stack.has_handed_over()).then_some(Name::Root),
        Step::StartMerge(layer) | Step::AwaitMerge(layer) | Step::Unlink(layer) => {
            (!stack.is_on_card(layer)).then_some(layer)
        }
        Step::MergeInPlace | Step::RestartMerge => {
            (!stack.is_on_card(Name::Sealed)).then_some(Name::Sealed)
        }
        Step::Rename(_, to) => stack.device(to).map(|_| to),
        Step::Resume(_) | Step::Append | Step::Unmerge(_) => None,
    };
    wrong.map_or(Ok(step), |name| Err(PlanError::Foreign(name)))
}

fn decide(stack: &Stack, goal: Goal) -> Result<Option<Step>, PlanError> {
    let root = stack.root.ok_or(PlanError::NotActive)?;
    let mode = stack.mode();
    if root.live.is_some() && mode.is_none() {
        return Err(PlanError::Foreign(Name::Root));
    }
    if let Some(step) = wake_root(stack, &root, Way::Back)? {
        return Ok(Some(step));
    }
    let in_use = sealed_in_use(stack);
    if root.inactive {
        return Ok(Some(Step::Clear(Name::Root)));
    }
    if stack.sealed.is_some() && in_use.is_none() {
        // A preparation that never came to its seal: root does not use it.
        return Ok(Some(Step::Remove(Name::Sealed)));
    }
    if stack.log.is_some_and(|log| log.live.is_none()) {
        return Ok(Some(Step::Remove(Name::Log)));
    }
    // Before the layer under it: a table that waits here may hold the view, which has to go first.
    if let Some(step) = in_use.as_ref().and_then(|sealed| tidy(Name::Sealed, sealed)) {
        return Ok(Some(step));
    }
    if let Some(logged) = logged_in_use(stack, in_use.as_ref())
        && let Some(step) = logged_layer(stack, &logged, in_use.as_ref(), goal)?
    {
        return Ok(Some(step));
    }
    match in_use {
        Some(sealed) => finish(stack, &sealed, goal).map(Some),
        None => leftovers(stack),
    }
}

/// What a snapshot is a snapshot of.
fn origin(device: &Device) -> Option<DevNo> {
    match device.target()? {
        Target::Snapshot { origin, .. } | Target::SnapshotMerge { origin, .. } => Some(origin),
        _ => None,
    }
}

/// The sealed device, if root reads through it.
fn sealed_in_use(stack: &Stack) -> Option<Device> {
    stack.sealed.filter(|sealed| stack.roots_origin() == Some(sealed.number))
}

/// The logged device, if root reads through it.
fn logged_in_use(stack: &Stack, in_use: Option<&Device>) -> Option<Device> {
    let under = in_use.and_then(origin).or_else(|| stack.roots_origin());
    stack.logged.filter(|logged| under == Some(logged.number))
}

/// What the logged layer needs before anything above it can go on.
fn logged_layer(
    stack: &Stack,
    logged: &Device,
    in_use: Option<&Device>,
    goal: Goal,
) -> Result<Option<Step>, PlanError> {
    if let Some(step) = tidy(Name::Logged, logged) {
        return Ok(Some(step));
    }
    match logged.target() {
        // A merge was being prepared and had not begun: the layer reads the view, and its own table
        // is untouched.
        Some(Target::Snapshot { .. }) if stack.store(logged) == Some(Store::View) => {
            Ok(Some(Step::Unmerge(Name::Logged)))
        }
        Some(Target::Snapshot { .. }) if logged.status() == SnapshotStatus::Invalid => {
            Err(PlanError::Lost(Name::Logged))
        }
        Some(Target::Snapshot { .. }) if stack.view.is_some() => Ok(Some(Step::Remove(Name::View))),
        Some(Target::Snapshot { .. }) => {
            let for_sealed = in_use.is_some() && (goal.direct || stack.log.is_none());
            let wanted = goal.merge || for_sealed;
            Ok(wanted.then_some(Step::StartMerge(Name::Logged)))
        }
        _ => merging(stack, Name::Logged, logged).map(Some),
    }
}

/// Removes what is left over when root stands on the device that it stands on between flushes.
fn leftovers(stack: &Stack) -> Result<Option<Step>, PlanError> {
    let used = logged_in_use(stack, None).is_some();
    for (name, left) in [
        (Name::View, stack.view.is_some()),
        (Name::Logged, stack.logged.is_some() && !used),
        (Name::LogView, stack.log_view.is_some() && !used),
    ] {
        if left {
            return Ok(Some(Step::Remove(name)));
        }
    }
    let origin = stack.origin.ok_or(PlanError::Foreign(Name::Root))?;
    Ok(tidy(Name::Origin, &origin))
}

/// Where to go from a seal that stopped before the handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Drop both new tables: root wakes up on the one that it had.
    Back,
    /// Hand over, as the seal meant to, where all is prepared for that.
    Forward,
}

/// The step that wakes root up on a table that is right; `None`: root is awake on one. It needs
/// only root and the sealed device. A handover in which a call failed ([`crate::flush::handover`]),
/// its guard and the next command all decide by this.
pub fn wake(stack: &Stack, way: Way) -> Result<Option<Step>, PlanError> {
    let root = stack.root.ok_or(PlanError::NotActive)?;
    match wake_root(stack, &root, way)? {
        Some(step) => harmless(stack, step).map(Some),
        None => Ok(None),
    }
}

/// As [`wake`], unchecked: root must not stay suspended, but the table that it wakes up on has to
/// be right first.
fn wake_root(stack: &Stack, root: &Device, way: Way) -> Result<Option<Step>, PlanError> {
    let (sealed, in_use) = (stack.sealed.as_ref(), sealed_in_use(stack));
    if let Some(sealed) = sealed
        && stack.has_handed_over()
    {
        // There is no way back: root's own table is void, even if root is awake on it. The kernel
        // hands over only between tables that have the same origin; anything else that looks like a
        // handover is refused.
        if stack.roots_origin() != origin(sealed) {
            return Err(PlanError::Foreign(Name::Sealed));
        }
        return Ok(Some(match tidy(Name::Sealed, sealed) {
            Some(step) => step,
            None if root.suspended && root.inactive => Step::Resume(Name::Root),
            None => Step::MoveRoot,
        }));
    }
    if !root.suspended {
        return Ok(None);
    }
    if let Some(sealed) = in_use {
        let plain = matches!(sealed.target(), Some(Target::Snapshot { .. }));
        // Caught in the middle of `RestartMerge`. A store that was merging no longer knows its free
        // chunks, so a write to it as a plain snapshot would destroy data: merge first. The kernel
        // accepts only one waiting table for a store.
        if plain && !sealed.inactive && stack.mode() == Some(Mode::WriteThrough) {
            return Ok(Some(Step::MergeInPlace));
        }
        if let Some(step) = tidy(Name::Sealed, &sealed) {
            return Ok(Some(step));
        }
    }
    if root.inactive {
        // Root's table is cleared first: root can't be resumed while the kernel sees another table
        // that waits for its exceptions, and must not wake up on a device that has no table.
        let ready = |sealed: &Device| sealed.inactive || sealed.suspended && sealed.live.is_some();
        let forward = way == Way::Forward && in_use.is_none() && sealed.is_some_and(ready);
        return Ok(Some(match forward {
            true => Step::Resume(Name::Sealed),
            false => Step::Clear(Name::Root),
        }));
    }
    Ok(Some(match sealed {
        Some(sealed) if in_use.is_none() && sealed.inactive => Step::Clear(Name::Sealed),
        Some(_) if stack.shares_cow() => Step::Remove(Name::Sealed),
        // An empty sealed device is removed once root is awake: a process that has it open delays
        // only the removal.
        _ => Step::Resume(Name::Root),
    }))
}

/// The step for a device that was left with a loaded table or suspended.
fn tidy(name: Name, device: &Device) -> Option<Step> {
    if device.inactive {
        Some(Step::Clear(name))
    } else if device.suspended {
        Some(Step::Resume(name))
    } else {
        None
    }
}

/// The next step that brings the sealed device's data to the log or the card; root reads through
/// the device.
fn finish(stack: &Stack, sealed: &Device, goal: Goal) -> Result<Step, PlanError> {
    let Some(Target::Snapshot { .. }) = sealed.target() else {
        return merging(stack, Name::Sealed, sealed);
    };
    if sealed.status() == SnapshotStatus::Invalid {
        return Err(PlanError::Lost(Name::Sealed));
    }
    Ok(match stack.store(sealed) {
        // It reads the log: it takes the place of what read the log before it.
        Some(Store::View) if stack.logged.is_some() => Step::Remove(Name::Logged),
        Some(Store::View) if stack.log_view.is_some() => Step::Remove(Name::LogView),
        Some(Store::View) => Step::Rename(Name::View, Name::LogView),
        Some(Store::LogView) => Step::Rename(Name::Sealed, Name::Logged),
        _ if stack.mode() == Some(Mode::WriteThrough) => Step::MergeInPlace,
        // A view that is there was left by a killed command or a failed merge. It may be half
        // merged, and what was merged may have been lost with the card's cache: build another.
        _ if stack.view.is_some() => Step::Remove(Name::View),
        _ if stack.log.is_some() && !goal.direct => Step::Append,
        _ => Step::StartMerge(Name::Sealed),
    })
}

/// The next step for a layer that is being merged, or was.
fn merging(stack: &Stack, name: Name, layer: &Device) -> Result<Step, PlanError> {
    let in_place = name == Name::Sealed && stack.mode() == Some(Mode::WriteThrough);
    match (layer.target(), layer.status()) {
        (Some(Target::Linear { .. }), _) => Ok(if stack.view.is_some() {
            Step::Remove(Name::View)
        } else if stack.log_view.is_some() {
            Step::Remove(Name::LogView)
        } else if stack.origin.is_some() {
            Step::Remove(Name::Origin)
        } else {
            Step::Rename(name, Name::Origin)
        }),
        (Some(Target::SnapshotMerge { .. }), status) => match status {
            SnapshotStatus::Used(usage) if usage.data().0 == 0 => Ok(Step::Unlink(name)),
            SnapshotStatus::Used(_) => Ok(Step::AwaitMerge(name)),
            SnapshotStatus::MergeFailed if in_place => Ok(Step::RestartMerge),
            SnapshotStatus::MergeFailed => Ok(Step::Unmerge(name)),
            SnapshotStatus::Invalid => Err(PlanError::Lost(name)),
            // The kernel does not count a store that overflowed; the observer must.
            SnapshotStatus::Overflow | SnapshotStatus::Unknown => Err(PlanError::Foreign(name)),
        },
        _ => Err(PlanError::Foreign(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::super::state::Live;
    use super::*;
    use crate::pure::dm::Line;
    use crate::pure::units::{DevNo, Sectors};

    const VIEW: DevNo = DevNo { major: 253, minor: 3 };
    const LOG: DevNo = DevNo { major: 253, minor: 4 };
    const LOGGED: DevNo = DevNo { major: 253, minor: 5 };
    const LOG_VIEW: DevNo = DevNo { major: 253, minor: 6 };
    const LOG_PARTITION: DevNo = DevNo { major: 8, minor: 2 };

    fn device(number: DevNo, target: Target, status: SnapshotStatus) -> Option<Device> {
        let live = Some(Live::Single { length: LENGTH, target, status });
        Some(Device { number, suspended: false, live, inactive: false })
    }

    /// A sealed device that has its table loaded and was never resumed.
    fn loaded() -> Option<Device> {
        let (number, live) = (SEALED, None);
        Some(Device { number, suspended: true, live, inactive: true })
    }

    fn view() -> Option<Device> {
        let line = Line::whole(LENGTH, linear(OLD_COW));
        let live = Some(Live::Joined(line, line));
        Some(Device { number: VIEW, suspended: false, live, inactive: false })
    }

    fn plan(stack: &Stack) -> Result<Option<Step>, PlanError> {
        next(stack, Goal::default())
    }

    fn with_log(stack: Stack) -> Stack {
        Stack { log: device(LOG, linear(LOG_PARTITION), SnapshotStatus::Unknown), ..stack }
    }

    /// Root over a log with segments in it.
    fn logged() -> Stack {
        Stack {
            root: device(ROOT, snapshot(LOGGED, OLD_COW), used(80)),
            logged: device(LOGGED, snapshot(ORIGIN, LOG_VIEW), used(40)),
            log_view: Some(Device { number: LOG_VIEW, ..view().unwrap() }),
            ..with_log(deferring())
        }
    }

    fn sealed_over_log() -> Stack {
        Stack {
            root: device(ROOT, snapshot(SEALED, NEW_COW), used(8)),
            sealed: device(SEALED, snapshot(LOGGED, OLD_COW), used(80)),
            ..logged()
        }
    }

    fn merging_log(status: SnapshotStatus) -> Stack {
        Stack { logged: device(LOGGED, merge(ORIGIN, VIEW), status), view: view(), ..logged() }
    }

    fn deferring() -> Stack {
        Stack {
            root: device(ROOT, snapshot(ORIGIN, OLD_COW), used(80)),
            origin: device(ORIGIN, linear(CARD), SnapshotStatus::Unknown),
            ..Stack::default()
        }
    }

    fn sealed() -> Stack {
        Stack {
            root: device(ROOT, snapshot(SEALED, NEW_COW), used(8)),
            sealed: device(SEALED, snapshot(ORIGIN, OLD_COW), used(80)),
            ..deferring()
        }
    }

    fn merging(status: SnapshotStatus) -> Stack {
        Stack { sealed: device(SEALED, merge(ORIGIN, VIEW), status), view: view(), ..sealed() }
    }

    fn stopping(status: SnapshotStatus) -> Stack {
        Stack {
            root: device(ROOT, linear(SEALED), SnapshotStatus::Unknown),
            sealed: device(SEALED, merge(ORIGIN, NEW_COW), status),
            ..deferring()
        }
    }

    fn edit(mut stack: Stack, change: impl FnOnce(&mut Stack)) -> Stack {
        change(&mut stack);
        stack
    }

    fn root(stack: &mut Stack) -> &mut Device {
        stack.root.as_mut().unwrap()
    }

    fn seal(stack: &mut Stack) -> &mut Device {
        stack.sealed.as_mut().unwrap()
    }

    #[test]
    fn a_settled_stack_needs_nothing() {
        assert_eq!(plan(&deferring()), Ok(None));
        let through = edit(deferring(), |s| {
            s.root = device(ROOT, linear(ORIGIN), SnapshotStatus::Unknown);
        });
        assert_eq!(plan(&through), Ok(None));
        assert_eq!(through.mode(), Some(Mode::WriteThrough));
        assert_eq!(through.card(), Some((CARD, Sectors(0))));
    }

    #[test]
    fn a_flush_goes_through_its_steps_in_order() {
        assert_eq!(plan(&sealed()), Ok(Some(Step::StartMerge(Name::Sealed))));
        assert_eq!(plan(&merging(used(40))), Ok(Some(Step::AwaitMerge(Name::Sealed))));
        assert_eq!(plan(&merging(used(0))), Ok(Some(Step::Unlink(Name::Sealed))));
        let merged = Stack {
            sealed: device(SEALED, linear(CARD), SnapshotStatus::Unknown),
            ..merging(used(0))
        };
        assert_eq!(plan(&merged), Ok(Some(Step::Remove(Name::View))));
        let no_view = Stack { view: None, ..merged };
        assert_eq!(plan(&no_view), Ok(Some(Step::Remove(Name::Origin))));
        let no_origin = Stack { origin: None, ..no_view };
        assert_eq!(plan(&no_origin), Ok(Some(Step::Rename(Name::Sealed, Name::Origin))));
        assert_eq!(no_origin.card(), Some((CARD, Sectors(0))));
    }

    #[test]
    fn a_failed_merge_is_taken_back_and_tried_again() {
        let failed = merging(SnapshotStatus::MergeFailed);
        assert_eq!(plan(&failed), Ok(Some(Step::Unmerge(Name::Sealed))));
        let taken_back = Stack { view: view(), ..sealed() };
        assert_eq!(plan(&taken_back), Ok(Some(Step::Remove(Name::View))));
        assert_eq!(plan(&stopping(SnapshotStatus::MergeFailed)), Ok(Some(Step::RestartMerge)));
        assert_eq!(plan(&stopping(used(8))), Ok(Some(Step::AwaitMerge(Name::Sealed))));
        assert_eq!(plan(&stopping(used(0))), Ok(Some(Step::Unlink(Name::Sealed))));
    }

    #[test]
    fn killed_before_the_seal_the_preparation_is_dropped() {
        let prepared = edit(deferring(), |s| {
            root(s).inactive = true;
            s.sealed = loaded();
        });
        assert_eq!(plan(&prepared), Ok(Some(Step::Clear(Name::Root))));
        let cleared = edit(prepared, |s| root(s).inactive = false);
        assert_eq!(plan(&cleared), Ok(Some(Step::Remove(Name::Sealed))));
    }

    #[test]
    fn killed_after_the_suspend_root_wakes_on_its_old_table() {
        let suspended = edit(deferring(), |s| {
            root(s).suspended = true;
            root(s).inactive = true;
            s.sealed = loaded();
        });
        assert_eq!(plan(&suspended), Ok(Some(Step::Clear(Name::Root))));
        // A process that has the sealed device open, so that it can't be removed, does not keep
        // root asleep.
        let steps =
            [Step::Clear(Name::Sealed), Step::Resume(Name::Root), Step::Remove(Name::Sealed)];
        assert_eq!(path(suspended, Goal::default())[1..], steps);
    }

    #[test]
    fn killed_after_the_handover_root_wakes_on_its_new_table() {
        let handed = edit(deferring(), |s| {
            root(s).suspended = true;
            root(s).inactive = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), used(80));
        });
        assert_eq!(plan(&handed), Ok(Some(Step::Resume(Name::Root))));
        let refused = edit(handed, |s| seal(s).suspended = true);
        assert_eq!(plan(&refused), Ok(Some(Step::Clear(Name::Root))));
    }

    #[test]
    fn a_restart_that_was_killed_merges_before_root_wakes() {
        let between = edit(stopping(used(8)), |s| {
            root(s).suspended = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, NEW_COW), used(8));
        });
        assert_eq!(plan(&between), Ok(Some(Step::MergeInPlace)));
        let awake = edit(between, |s| root(s).suspended = false);
        assert_eq!(plan(&awake), Ok(Some(Step::MergeInPlace)));
        let merging = edit(stopping(used(8)), |s| root(s).suspended = true);
        assert_eq!(plan(&merging), Ok(Some(Step::Resume(Name::Root))));
        // Two tables that wait for one store are one too many for the kernel.
        let loaded = edit(between, |s| seal(s).inactive = true);
        assert_eq!(plan(&loaded), Ok(Some(Step::Clear(Name::Sealed))));
    }

    #[test]
    fn leftovers_are_cleared_one_by_one() {
        let half_view = edit(sealed(), |s| {
            s.view = Some(Device { number: VIEW, suspended: true, live: None, inactive: false });
        });
        assert_eq!(plan(&half_view), Ok(Some(Step::Remove(Name::View))));
        let stray_view = Stack { view: view(), ..deferring() };
        assert_eq!(plan(&stray_view), Ok(Some(Step::Remove(Name::View))));
        let loaded = edit(merging(used(0)), |s| seal(s).inactive = true);
        assert_eq!(plan(&loaded), Ok(Some(Step::Clear(Name::Sealed))));
        let held = edit(merging(used(0)), |s| seal(s).suspended = true);
        assert_eq!(plan(&held), Ok(Some(Step::Resume(Name::Sealed))));
    }

    /// The steps from a stack to its end, by the model of [`apply`].
    fn path(start: Stack, goal: Goal) -> Vec<Step> {
        let (mut stack, mut steps) = (start, Vec::new());
        while let Some(step) = next(&stack, goal).unwrap() {
            apply(&mut stack, step);
            steps.push(step);
            assert!(steps.len() < 30, "{steps:?}");
        }
        steps
    }

    #[test]
    fn a_flush_into_the_log_replaces_the_logged_layer() {
        assert_eq!(plan(&logged()), Ok(None));
        let sealed_first = Stack { logged: None, log_view: None, ..with_log(sealed()) };
        let adopt =
            [Step::Rename(Name::View, Name::LogView), Step::Rename(Name::Sealed, Name::Logged)];
        assert_eq!(path(sealed_first, Goal::default()), [&[Step::Append][..], &adopt].concat());
        let replace = [Step::Append, Step::Remove(Name::Logged), Step::Remove(Name::LogView)];
        assert_eq!(path(sealed_over_log(), Goal::default()), [&replace[..], &adopt].concat());
    }

    #[test]
    fn a_merge_of_the_log_ends_on_the_plain_card() {
        let goal = Goal { merge: true, ..Goal::default() };
        let merge = [
            Step::StartMerge(Name::Logged),
            Step::AwaitMerge(Name::Logged),
            Step::Unlink(Name::Logged),
            Step::Remove(Name::View),
            Step::Remove(Name::LogView),
            Step::Remove(Name::Origin),
            Step::Rename(Name::Logged, Name::Origin),
        ];
        assert_eq!(path(logged(), goal), merge);
        // Any command finishes a merge that was begun.
        assert_eq!(path(merging_log(used(8)), Goal::default()), merge[1..]);
        // Without room in the log a sealed COW waits for the merge under it.
        let steps = path(sealed_over_log(), goal);
        assert_eq!(steps[..7], merge);
        assert_eq!(steps[7], Step::Append);
        // And without the log it follows into the card.
        let steps = path(sealed_over_log(), Goal { direct: true, ..Goal::default() });
        assert_eq!(steps[..7], merge);
        assert_eq!(steps[7], Step::StartMerge(Name::Sealed));
    }

    #[test]
    fn a_table_that_waits_lets_go_of_the_view_before_the_view_is_removed() {
        let killed = edit(Stack { view: view(), ..sealed_over_log() }, |s| seal(s).inactive = true);
        let steps = path(killed, Goal::default());
        assert_eq!(steps[..2], [Step::Clear(Name::Sealed), Step::Remove(Name::View)]);
    }

    /// The view takes the place of the log's own table before the merge begins; killed in between,
    /// the log's own table has to come back before the view goes.
    #[test]
    fn a_merge_of_the_log_that_had_not_begun_is_taken_back() {
        let between = Stack {
            logged: device(LOGGED, snapshot(ORIGIN, VIEW), used(40)),
            view: view(),
            ..logged()
        };
        let back = [Step::Unmerge(Name::Logged), Step::Remove(Name::View)];
        assert_eq!(path(between, Goal::default()), back);
        let goal = Goal { merge: true, ..Goal::default() };
        let steps = path(between, goal);
        assert_eq!((&steps[..2], steps[2]), (&back[..], Step::StartMerge(Name::Logged)));
        // Whatever became of the view: what the log holds is in the log.
        let lost = edit(between, |s| {
            s.logged = device(LOGGED, snapshot(ORIGIN, VIEW), SnapshotStatus::Invalid);
        });
        assert_eq!(path(lost, Goal::default()), back);
    }

    #[test]
    fn a_failed_merge_of_the_log_reads_the_log_again() {
        let failed = merging_log(SnapshotStatus::MergeFailed);
        assert_eq!(plan(&failed), Ok(Some(Step::Unmerge(Name::Logged))));
        let taken_back = Stack { view: view(), ..logged() };
        assert_eq!(path(taken_back, Goal::default()), [Step::Remove(Name::View)]);
    }

    #[test]
    fn what_cannot_be_settled_is_named() {
        assert_eq!(plan(&Stack::default()), Err(PlanError::NotActive));
        let lost = merging(SnapshotStatus::Invalid);
        assert_eq!(plan(&lost), Err(PlanError::Lost(Name::Sealed)));
        let foreign = edit(deferring(), |s| root(s).live = Some(Live::Foreign));
        assert_eq!(plan(&foreign), Err(PlanError::Foreign(Name::Root)));
    }

    /// From any mix of states the steps lead to an end: a model of what each step does to the
    /// tables is run until it settles.
    #[test]
    fn every_state_settles_in_a_few_steps() {
        let bases = [
            deferring(),
            sealed(),
            merging(used(40)),
            merging(used(0)),
            stopping(used(8)),
            merging(SnapshotStatus::MergeFailed),
            Stack { view: view(), ..sealed() },
            logged(),
            sealed_over_log(),
            merging_log(used(40)),
            merging_log(SnapshotStatus::MergeFailed),
            Stack { sealed: sealed_over_log().sealed, root: sealed().root, ..merging_log(used(0)) },
            Stack { view: view(), ..sealed_over_log() },
            Stack {
                logged: device(LOGGED, snapshot(ORIGIN, VIEW), used(40)),
                view: view(),
                ..sealed_over_log()
            },
            Stack { log_view: logged().log_view, ..with_log(deferring()) },
            Stack {
                sealed: device(SEALED, snapshot(ORIGIN, VIEW), used(8)),
                view: view(),
                ..sealed_over_log()
            },
        ];
        for base in bases {
            for bits in 0..32 {
                let stack = edit(base, |s| {
                    root(s).suspended = bits & 1 != 0;
                    root(s).inactive = bits & 2 != 0;
                    if let Some(device) = s.sealed.as_mut() {
                        device.suspended = bits & 4 != 0;
                        device.inactive = bits & 8 != 0;
                    }
                    if let Some(device) = s.view.as_mut() {
                        device.inactive = bits & 16 != 0;
                    }
                });
                for (merge, direct) in [(false, false), (true, false), (false, true)] {
                    path(stack, Goal { merge, direct });
                }
            }
        }
    }

    fn apply(stack: &mut Stack, step: Step) {
        let through = stack.mode() == Some(Mode::WriteThrough);
        let cow = if through { NEW_COW } else { VIEW };
        let number = |name| if name == Name::Logged { LOGGED } else { SEALED };
        let own = |name| if name == Name::Logged { LOG_VIEW } else { OLD_COW };
        match step {
            Step::Resume(name) => {
                let device = stack.slot(name).as_mut().unwrap();
                device.suspended = false;
                device.inactive = false;
            }
            Step::Clear(name) => stack.slot(name).as_mut().unwrap().inactive = false,
            Step::Remove(name) => *stack.slot(name) = None,
            Step::MoveRoot => {
                let merges = matches!(seal(stack).target(), Some(Target::SnapshotMerge { .. }));
                stack.root = match merges {
                    true => device(ROOT, linear(SEALED), SnapshotStatus::Unknown),
                    false => device(ROOT, snapshot(SEALED, NEW_COW), used(0)),
                };
            }
            Step::Append => {
                stack.view = view();
                stack.sealed = device(SEALED, snapshot(ORIGIN, VIEW), used(8));
            }
            Step::StartMerge(name) => {
                stack.view = view();
                *stack.slot(name) = device(number(name), merge(ORIGIN, VIEW), used(8));
            }
            Step::MergeInPlace | Step::RestartMerge => {
                stack.sealed = device(SEALED, merge(ORIGIN, cow), used(8));
            }
            Step::AwaitMerge(name) => {
                *stack.slot(name) = device(number(name), merge(ORIGIN, cow), used(0));
            }
            Step::Unmerge(name) => {
                *stack.slot(name) = device(number(name), snapshot(ORIGIN, own(name)), used(8));
            }
            Step::Unlink(name) => {
                *stack.slot(name) = device(number(name), linear(CARD), SnapshotStatus::Unknown);
            }
            Step::Rename(Name::View, Name::LogView) => {
                // The view keeps its number; the model's store is named by it.
                let number = LOG_VIEW;
                stack.log_view = stack.view.take().map(|view| Device { number, ..view });
                stack.sealed = device(SEALED, snapshot(ORIGIN, LOG_VIEW), used(8));
            }
            Step::Rename(from, to) => *stack.slot(to) = stack.slot(from).take(),
        }
    }

    /// What `step` would do to data that root reads or that exist nowhere else; `None`: nothing. An
    /// independent statement of what must never happen, by following the live tables from root
    /// down.
    fn harm(stack: &Stack, step: Step) -> Option<&'static str> {
        let under = under_root(stack);
        let reads = |name: Name| stack.device(name).is_some_and(|d| under.contains(&d.number));
        let card_below = |layer: Name| {
            let origin = parts(stack.device(layer)?)?.0;
            let below = Name::ALL.into_iter().find(|name| {
                *name != layer && stack.device(*name).is_some_and(|device| device.number == origin)
            });
            Some(below.is_none_or(|name| {
                matches!(stack.device(name).unwrap().target(), Some(Target::Linear { .. }))
            }))
        };
        let harm = |is: bool, what| is.then_some(what);
        let waits = stack.root.is_some_and(|root| root.inactive);
        if handed_over(stack, &under) {
            let right = match step {
                Step::MoveRoot | Step::Resume(Name::Sealed) | Step::Clear(Name::Sealed) => true,
                Step::Resume(Name::Root) => waits,
                _ => false,
            };
            return harm(!right, "does something else to what root was handed over to");
        }
        match step {
            Step::Remove(name) if reads(name) => Some("removes what root reads through"),
            Step::Clear(name) => harm(
                reads(name) && stack.device(name).unwrap().live.is_none(),
                "drops the only table of what root reads through",
            ),
            Step::MoveRoot => Some("puts root on what was not handed over"),
            Step::Resume(Name::Root) if waits => {
                Some("lets a table in before what it reads is there")
            }
            Step::Resume(Name::Root) => harm(
                root_asleep(stack)
                    && stack.mode() == Some(Mode::WriteThrough)
                    && reads(Name::Sealed)
                    && matches!(seal(&mut stack.clone()).target(), Some(Target::Snapshot { .. })),
                "lets root write to a store that does not know its free chunks",
            ),
            Step::Resume(Name::Sealed) => {
                harm(!reads(Name::Sealed), "hands over when a seal did not ask for it")
            }
            Step::StartMerge(layer) | Step::AwaitMerge(layer) => {
                harm(card_below(layer) != Some(true), "merges into a layer that holds data")
            }
            Step::MergeInPlace | Step::RestartMerge => {
                harm(card_below(Name::Sealed) != Some(true), "merges into a layer that holds data")
            }
            Step::Unlink(layer) => {
                let device = stack.device(layer).unwrap();
                let done = matches!(device.target(), Some(Target::SnapshotMerge { .. }))
                    && device.usage().is_some_and(|usage| usage.data().0 == 0);
                harm(!done, "drops a layer that is not merged").or(harm(
                    card_below(layer) != Some(true),
                    "drops a layer with what is under it",
                ))
            }
            Step::Rename(_, to) => harm(stack.device(to).is_some(), "takes a name that is in use"),
            _ => None,
        }
    }

    /// The kernel has moved root's exceptions to the sealed device; what root's own table had is
    /// there alone. Two tables that are awake can't have the same COW otherwise.
    fn handed_over(stack: &Stack, under: &[DevNo]) -> bool {
        stack.root.zip(stack.sealed).is_some_and(|(root, sealed)| {
            let cow = |device: &Device| parts(device).map(|(_, cow)| cow);
            let same = cow(&root).is_some() && cow(&root) == cow(&sealed);
            let moved = !sealed.suspended || root.status() == SnapshotStatus::Invalid;
            same && moved && !under.contains(&sealed.number)
        })
    }

    fn root_asleep(stack: &Stack) -> bool {
        stack.root.is_some_and(|root| root.suspended)
    }

    /// Origin and store of a snapshot, merging or not.
    fn parts(device: &Device) -> Option<(DevNo, DevNo)> {
        match device.target()? {
            Target::Snapshot { origin, cow, .. } | Target::SnapshotMerge { origin, cow, .. } => {
                Some((origin, cow))
            }
            _ => None,
        }
    }

    /// The numbers of all devices that root's live table reads through.
    fn under_root(stack: &Stack) -> Vec<DevNo> {
        let mut found: Vec<DevNo> = Vec::new();
        let mut left = vec![ROOT];
        while let Some(number) = left.pop() {
            for device in stack.devices().filter(|device| device.number == number) {
                let below = match device.target() {
                    Some(Target::Linear { device, .. }) => vec![device],
                    _ => parts(device).map_or(Vec::new(), |(origin, cow)| vec![origin, cow]),
                };
                left.extend(below.iter().filter(|number| !found.contains(number)));
                found.extend(below);
            }
        }
        found
    }

    /// Every stack that can be written down with cowflush's names and kinds of tables, whether or
    /// not cowflush can get there; `check` gets each with every goal. Disturbed (suspended, with a
    /// table that waits) is root in all ways, and one layer at a time; the sealed device, which
    /// root shares a COW with during a seal, in all ways.
    fn every_stack(mut check: impl FnMut(&Stack, Goal)) {
        let disturbed = |device: Option<Device>, suspended, inactive| {
            device.map(|device| Device { suspended, inactive, ..device })
        };
        let origins = [ORIGIN, SEALED, LOGGED];
        let mut roots = vec![
            Some(Device { live: None, ..device(ROOT, Target::Other, used(0)).unwrap() }),
            Some(Device {
                live: Some(Live::Foreign),
                ..device(ROOT, Target::Other, used(0)).unwrap()
            }),
        ];
        for origin in origins {
            for cow in [OLD_COW, NEW_COW] {
                roots.push(device(ROOT, snapshot(origin, cow), used(80)));
            }
            roots.push(device(ROOT, snapshot(origin, OLD_COW), SnapshotStatus::Invalid));
            roots.push(device(ROOT, linear(origin), SnapshotStatus::Unknown));
        }
        let merges = [
            used(0),
            used(8),
            SnapshotStatus::Overflow,
            SnapshotStatus::Invalid,
            SnapshotStatus::MergeFailed,
        ];
        let snapshots = [used(8), SnapshotStatus::Invalid];
        let layers = |number, origins: &[DevNo], cows: &[DevNo]| {
            let mut layers = vec![None, device(number, linear(CARD), SnapshotStatus::Unknown)];
            layers.push(Some(Device {
                live: None,
                ..device(number, Target::Other, used(0)).unwrap()
            }));
            for origin in origins {
                for cow in cows {
                    let merges = merges.map(|status| device(number, merge(*origin, *cow), status));
                    let plain =
                        snapshots.map(|status| device(number, snapshot(*origin, *cow), status));
                    layers.extend(merges.into_iter().chain(plain));
                }
            }
            layers
        };
        let sealed = layers(SEALED, &[ORIGIN, LOGGED], &[OLD_COW, VIEW, LOG_VIEW]);
        let logged = layers(LOGGED, &[ORIGIN], &[LOG_VIEW, VIEW]);
        let origin = device(ORIGIN, linear(CARD), SnapshotStatus::Unknown);
        let log = device(LOG, linear(LOG_PARTITION), SnapshotStatus::Unknown);
        let log_view = Some(Device { number: LOG_VIEW, ..view().unwrap() });
        for root in roots {
            for sealed in &sealed {
                for logged in &logged {
                    for bits in 0..256_u32 {
                        let bit = |n: u32| bits & (1 << n) != 0;
                        let with = |there, device: Option<Device>| device.filter(|_| there);
                        let base = Stack {
                            root: disturbed(root, bit(0), bit(1)),
                            sealed: disturbed(*sealed, bit(6), bit(7)),
                            logged: *logged,
                            view: with(bit(2), view()),
                            log_view: with(bit(3), log_view),
                            log: with(bit(4), log),
                            origin: with(bit(5), origin),
                        };
                        // A device that is not there can't be disturbed; for one that is, what else
                        // is there is of less interest.
                        let telling = [0, 0b10_0000, 0b11_1000, 0b11_1100];
                        if bits >= 64
                            && (sealed.is_none() || !telling.contains(&(bits & 0b11_1100)))
                        {
                            continue;
                        }
                        let logged = Stack { logged: disturbed(*logged, false, true), ..base };
                        // A table that waits under root is cleared before anything else is looked
                        // at.
                        let whole = [base, logged];
                        let whole = if bits & 0xc2 != 0 { &whole[..1] } else { &whole[..] };
                        for stack in whole {
                            for (merge, direct) in [(false, false), (true, false), (false, true)] {
                                check(stack, Goal { merge, direct });
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whatever a crash, another tool or a defect elsewhere leaves, the plan never takes a step
    /// that loses data. It leaves the stack as it is and reports an error.
    #[test]
    fn no_step_ever_takes_away_what_root_reads_or_what_is_nowhere_else() {
        let (mut harms, mut looked) = (std::collections::BTreeMap::new(), 0_u64);
        every_stack(|stack, goal| {
            looked += 1;
            if let Ok(Some(step)) = next(stack, goal)
                && let Some(harm) = harm(stack, step)
            {
                let seen = harms.entry((harm, format!("{step:?}"))).or_insert((0_u64, *stack));
                seen.0 += 1;
            }
        });
        for ((harm, step), (count, stack)) in &harms {
            println!("{harm}: {step}, {count} times, such as {stack:#?}");
        }
        let names: Vec<_> =
            harms.iter().map(|((harm, step), (count, _))| (harm, step, count)).collect();
        assert!(harms.is_empty(), "of {looked}: {names:#?}");
    }

    /// No row of the table decides this, so it is asked without one.
    #[test]
    fn a_wrong_decision_is_refused_before_it_does_harm() {
        let refused = |stack: &Stack, step| harmless(stack, step).is_err();
        let handed = edit(deferring(), |s| {
            root(s).suspended = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), used(80));
        });
        assert!(refused(&handed, Step::Remove(Name::Sealed)), "it has what root had written");
        assert!(!refused(&handed, Step::Remove(Name::View)));
        assert!(refused(&sealed(), Step::Remove(Name::Sealed)), "root reads it");
        assert!(!refused(&deferring(), Step::Remove(Name::Sealed)));
        assert!(refused(&handed, Step::Clear(Name::Root)), "root goes on with that table alone");
        assert!(!refused(&handed, Step::Clear(Name::Origin)));
        assert!(!refused(&deferring(), Step::Clear(Name::Root)));
        let bare = edit(sealed(), |s| seal(s).live = None);
        assert!(refused(&bare, Step::Clear(Name::Sealed)), "root stands on that table alone");
        assert!(!refused(&sealed(), Step::Clear(Name::Sealed)));
        let asleep = edit(deferring(), |s| {
            root(s).suspended = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, NEW_COW), used(0));
        });
        let (both, awake) = (
            edit(asleep, |s| root(s).inactive = true),
            edit(asleep, |s| (root(s).suspended, root(s).inactive) = (false, true)),
        );
        let resumes = [asleep, both, awake].map(|s| !refused(&s, Step::Resume(Name::Sealed)));
        assert_eq!(resumes, [false, true, false], "only for a root that waits with a table");
    }

    /// The kernel drops a loaded table when a swap fails. After the handover root's COW is the
    /// sealed device's, so that one must stay; and to refuse alone would leave root asleep.
    #[test]
    fn what_was_handed_over_stays_when_roots_loaded_table_is_gone() {
        let handed = edit(deferring(), |s| {
            root(s).suspended = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), used(80));
        });
        assert_eq!(plan(&handed), Ok(Some(Step::MoveRoot)));
        let direct = Goal { direct: true, ..Goal::default() };
        assert_eq!(path(handed, direct)[..2], [Step::MoveRoot, Step::StartMerge(Name::Sealed)]);
        // A stop: the kernel merges meanwhile, and may be done.
        for status in [used(8), used(0), SnapshotStatus::MergeFailed] {
            let stopping =
                Stack { sealed: device(SEALED, merge(ORIGIN, OLD_COW), status), ..handed };
            let steps = path(stopping, Goal::default());
            assert_eq!(steps[0], Step::MoveRoot);
            assert!(steps.contains(&Step::Unlink(Name::Sealed)), "{steps:?}");
        }
        // Root was let go on before it had its table: what it reads is void.
        let void = edit(handed, |s| {
            s.root = device(ROOT, snapshot(ORIGIN, OLD_COW), SnapshotStatus::Invalid);
        });
        assert_eq!(plan(&void), Ok(Some(Step::MoveRoot)));
        // Another tool suspended the sealed device.
        let held = edit(void, |s| seal(s).suspended = true);
        assert_eq!(path(held, direct)[..2], [Step::Resume(Name::Sealed), Step::MoveRoot]);
    }

    /// From every stack with root asleep, what a seal's handover and its guard do comes to an end,
    /// in both directions. Where it succeeds, root is awake, and not on a void table.
    #[test]
    fn either_way_root_wakes_up_and_never_on_a_void_table() {
        let (mut woken, mut handed) = (0_u64, 0_u64);
        every_stack(|start, goal| {
            let others = [start.view, start.log_view, start.log];
            if goal != Goal::default() || others.iter().any(Option::is_some) {
                return;
            }
            for way in [Way::Back, Way::Forward] {
                let (mut stack, mut steps) = (*start, Vec::new());
                while let Ok(Some(step)) = wake(&stack, way) {
                    if let Some(harm) = harm(&stack, step) {
                        // The seal meant to hand over; the plan does not.
                        let means = way == Way::Forward && step == Step::Resume(Name::Sealed);
                        assert!(
                            means && root_asleep(&stack) && root(&mut stack).inactive,
                            "{harm}: {step:?}, {stack:#?}"
                        );
                        return;
                    }
                    apply(&mut stack, step);
                    steps.push(step);
                    assert!(steps.len() < 8, "{steps:?} {start:#?}");
                }
                let sane = start.sealed.as_ref().and_then(origin) == start.roots_origin();
                if sane && handed_over(start, &under_root(start)) {
                    assert_eq!(wake(&stack, way), Ok(None), "{steps:?} {start:#?}");
                }
                if wake(&stack, way).is_ok() {
                    assert!(!root_asleep(&stack), "{steps:?} {start:#?}");
                    assert!(!handed_over(&stack, &under_root(&stack)), "{steps:?} {start:#?}");
                    woken += u64::from(root_asleep(start));
                    handed += u64::from(steps.contains(&Step::MoveRoot));
                }
            }
        });
        assert!(woken > 10_000 && handed > 1_000, "{woken} {handed}");
    }

    #[test]
    fn where_all_is_prepared_a_handover_is_the_other_way() {
        let prepared = edit(deferring(), |s| {
            root(s).suspended = true;
            root(s).inactive = true;
            s.sealed = loaded();
        });
        assert_eq!(wake(&prepared, Way::Back), Ok(Some(Step::Clear(Name::Root))));
        assert_eq!(wake(&prepared, Way::Forward), Ok(Some(Step::Resume(Name::Sealed))));
        // The kernel dropped the sealed device's table: there is no other way.
        let dropped = edit(prepared, |s| seal(s).inactive = false);
        assert_eq!(wake(&dropped, Way::Forward), Ok(Some(Step::Clear(Name::Root))));
        // Without root's table nothing may be handed over.
        let halfway = edit(prepared, |s| root(s).inactive = false);
        for way in [Way::Back, Way::Forward] {
            assert_eq!(wake(&halfway, way), Ok(Some(Step::Clear(Name::Sealed))));
            assert_eq!(
                wake(&edit(halfway, |s| seal(s).inactive = false), way),
                Ok(Some(Step::Resume(Name::Root)))
            );
        }
    }

    /// What a last resort left that went past a log with flushes in it: root's COW is merged into
    /// the layer that reads the log, and then root would be put on the bare card.
    #[test]
    fn a_merge_into_the_layer_that_reads_the_log_is_never_waited_for_nor_ended() {
        for status in [used(8), used(0), SnapshotStatus::MergeFailed] {
            let astray = Stack {
                root: device(ROOT, linear(SEALED), SnapshotStatus::Unknown),
                sealed: device(SEALED, merge(LOGGED, OLD_COW), status),
                ..logged()
            };
            for (merge, direct) in [(false, false), (false, true)] {
                let goal = Goal { merge, direct };
                let step = next(&astray, goal);
                assert!(
                    matches!(
                        step,
                        Err(PlanError::Foreign(Name::Sealed))
                            | Ok(Some(Step::StartMerge(Name::Logged)))
                    ),
                    "{step:?}"
                );
            }
        }
    }

    #[test]
    fn a_layer_whose_store_was_lost_is_named_and_never_merged() {
        let gone = |s: &mut Stack| {
            s.logged = device(LOGGED, snapshot(ORIGIN, LOG_VIEW), SnapshotStatus::Invalid)
        };
        for goal in [
            Goal::default(),
            Goal { merge: true, direct: false },
            Goal { merge: true, direct: true },
        ] {
            for base in [logged(), sealed_over_log()] {
                assert_eq!(next(&edit(base, gone), goal), Err(PlanError::Lost(Name::Logged)));
            }
            let sealed = edit(sealed(), |s| {
                s.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), SnapshotStatus::Invalid);
            });
            assert_eq!(next(&sealed, goal), Err(PlanError::Lost(Name::Sealed)));
        }
    }

    #[test]
    fn a_view_that_was_left_is_never_merged_from() {
        let goal = Goal { merge: true, ..Goal::default() };
        let left = Stack { view: view(), ..logged() };
        assert_eq!(next(&left, goal), Ok(Some(Step::Remove(Name::View))));
        assert_eq!(next(&logged(), goal), Ok(Some(Step::StartMerge(Name::Logged))));
    }
}
