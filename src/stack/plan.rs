//! What to do next so that nothing of a flush is left over: the card holds everything that was
//! sealed, root is awake, and no device or memory is kept.
//!
//! One rule table serves the normal end of a flush and the clean-up after a killed one. Every
//! step leaves the stack in a state that this table knows; the caller observes anew after each.

use super::state::{Device, Mode, Name, Stack};
use crate::dm::{SnapshotStatus, Target};

/// One step towards a settled stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the device's I/O go on, with its inactive table if it has one.
    Resume(Name),
    /// Drop the device's inactive table.
    Clear(Name),
    /// Remove the device.
    Remove(Name),
    /// Write a table over the sealed COW in the order of the card, make the view from it, and turn
    /// the sealed device into a `snapshot-merge` of the view.
    StartMerge,
    /// Turn the sealed device into a `snapshot-merge` of its own COW, in the COW's order.
    MergeInPlace,
    /// Wait for the kernel to merge.
    AwaitMerge,
    /// Take the view out of a sealed device whose merge failed: everything is read from the
    /// card and the sealed COW again.
    Unmerge,
    /// Let a failed merge under a write-through root start again.
    RestartMerge,
    /// The merge is done: make the card keep it, and turn the sealed device into a plain `linear`
    /// of the card.
    Unlink,
    /// Give the sealed device the origin's name.
    Rename,
}

/// Why the stack can't be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Root is not on a stack.
    NotActive,
    /// A COW was lost.
    Lost(Name),
    /// A device has a table that cowflush never makes.
    Foreign(Name),
}

/// The next step, or `None` when the stack is settled.
pub fn next(stack: &Stack) -> Result<Option<Step>, Trouble> {
    let root = stack.root.ok_or(Trouble::NotActive)?;
    let mode = stack.mode();
    if root.live.is_some() && mode.is_none() {
        return Err(Trouble::Foreign(Name::Root));
    }
    let seated = stack.sealed.filter(|sealed| stack.seat() == Some(sealed.number));
    if let Some(step) = wake_root(stack, &root, seated.as_ref()) {
        return Ok(Some(step));
    }
    if root.inactive {
        return Ok(Some(Step::Clear(Name::Root)));
    }
    match (seated, stack.sealed) {
        (Some(sealed), _) => finish(stack, &sealed).map(Some),
        // A preparation that never came to its seal: root does not use it.
        (None, Some(_)) => Ok(Some(Step::Remove(Name::Sealed))),
        (None, None) if stack.view.is_some() => Ok(Some(Step::Remove(Name::View))),
        (None, None) => {
            let origin = stack.origin.ok_or(Trouble::Foreign(Name::Root))?;
            Ok(tidy(Name::Origin, &origin))
        }
    }
}

/// Root must not stay suspended; but what it would wake up on has to be right first.
fn wake_root(stack: &Stack, root: &Device, seated: Option<&Device>) -> Option<Step> {
    if !root.suspended {
        return None;
    }
    if let Some(sealed) = seated {
        let plain = matches!(sealed.target(), Some(Target::Snapshot { .. }));
        // Caught in the middle of `RestartMerge`. A store that was merging no longer knows its
        // free chunks, so a write to it as a plain snapshot would destroy data: merge first.
        if plain && stack.mode() == Some(Mode::WriteThrough) {
            return Some(Step::MergeInPlace);
        }
    } else if let Some(sealed) = stack.sealed {
        // The exceptions were handed over: root's own table is void and the loaded one is right.
        if sealed.live.is_some() && !sealed.suspended && root.inactive {
            return Some(Step::Resume(Name::Root));
        }
        // Not handed over: drop both tables, in this order, since root can't be resumed while
        // the kernel sees another table waiting for its exceptions.
        return Some(if root.inactive {
            Step::Clear(Name::Root)
        } else {
            Step::Remove(Name::Sealed)
        });
    }
    Some(if root.inactive { Step::Clear(Name::Root) } else { Step::Resume(Name::Root) })
}

/// A device that was left with a loaded table or suspended.
fn tidy(name: Name, device: &Device) -> Option<Step> {
    if device.inactive {
        Some(Step::Clear(name))
    } else if device.suspended {
        Some(Step::Resume(name))
    } else {
        None
    }
}

/// Root sits on the sealed device: bring its merge to the end.
fn finish(stack: &Stack, sealed: &Device) -> Result<Step, Trouble> {
    if let Some(step) = tidy(Name::Sealed, sealed) {
        return Ok(step);
    }
    let write_through = stack.mode() == Some(Mode::WriteThrough);
    match sealed.target() {
        Some(Target::Linear { .. }) => Ok(if stack.view.is_some() {
            Step::Remove(Name::View)
        } else if stack.origin.is_some() {
            Step::Remove(Name::Origin)
        } else {
            Step::Rename
        }),
        Some(Target::Snapshot { .. }) if sealed.status() == SnapshotStatus::Invalid => {
            Err(Trouble::Lost(Name::Sealed))
        }
        Some(Target::Snapshot { .. }) if write_through => Ok(Step::MergeInPlace),
        // A view that is there was left by a killed command or a failed merge. It may be half
        // merged, and what was merged may have been lost with the card's cache: build another.
        Some(Target::Snapshot { .. }) if stack.view.is_some() => Ok(Step::Remove(Name::View)),
        Some(Target::Snapshot { .. }) => Ok(Step::StartMerge),
        Some(Target::SnapshotMerge { .. }) => match sealed.status() {
            SnapshotStatus::Used(usage) if usage.data().0 == 0 => Ok(Step::Unlink),
            SnapshotStatus::Used(_) => Ok(Step::AwaitMerge),
            SnapshotStatus::MergeFailed if write_through => Ok(Step::RestartMerge),
            SnapshotStatus::MergeFailed => Ok(Step::Unmerge),
            SnapshotStatus::Invalid => Err(Trouble::Lost(Name::Sealed)),
            // The kernel does not count a store that overflowed; the observer must.
            SnapshotStatus::Overflow | SnapshotStatus::Unknown => {
                Err(Trouble::Foreign(Name::Sealed))
            }
        },
        _ => Err(Trouble::Foreign(Name::Sealed)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Live;
    use super::*;
    use crate::dm::Line;
    use crate::dm::status::Usage;
    use crate::units::{DevNo, Sectors};

    const CARD: DevNo = DevNo { major: 8, minor: 1 };
    const ORIGIN: DevNo = DevNo { major: 253, minor: 0 };
    const ROOT: DevNo = DevNo { major: 253, minor: 1 };
    const SEALED: DevNo = DevNo { major: 253, minor: 2 };
    const VIEW: DevNo = DevNo { major: 253, minor: 3 };
    const OLD_COW: DevNo = DevNo { major: 7, minor: 0 };
    const NEW_COW: DevNo = DevNo { major: 7, minor: 1 };
    const LENGTH: Sectors = Sectors(1 << 18);

    fn used(data: u64) -> SnapshotStatus {
        let (total, metadata) = (Sectors(1 << 15), Sectors(16));
        SnapshotStatus::Used(Usage { allocated: Sectors(16 + data), total, metadata })
    }

    fn device(number: DevNo, target: Target, status: SnapshotStatus) -> Option<Device> {
        let live = Some(Live::Single { length: LENGTH, target, status });
        Some(Device { number, suspended: false, live, inactive: false, mark: None })
    }

    /// A sealed device that has its table loaded and was never resumed.
    fn loaded() -> Option<Device> {
        let (number, live, mark) = (SEALED, None, None);
        Some(Device { number, suspended: true, live, inactive: true, mark })
    }

    fn linear(device: DevNo) -> Target {
        Target::Linear { device, offset: Sectors(0) }
    }

    fn snapshot(origin: DevNo, cow: DevNo) -> Target {
        Target::Snapshot { origin, cow, chunk: 8 }
    }

    fn merge(origin: DevNo, cow: DevNo) -> Target {
        Target::SnapshotMerge { origin, cow, chunk: 8 }
    }

    fn view() -> Option<Device> {
        let line = Line::whole(LENGTH, linear(OLD_COW));
        let live = Some(Live::Joined(line, line));
        Some(Device { number: VIEW, suspended: false, live, inactive: false, mark: None })
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
        assert_eq!(next(&deferring()), Ok(None));
        let through = edit(deferring(), |s| {
            s.root = device(ROOT, linear(ORIGIN), SnapshotStatus::Unknown);
        });
        assert_eq!(next(&through), Ok(None));
        assert_eq!(through.mode(), Some(Mode::WriteThrough));
        assert_eq!(through.card(), Some((CARD, Sectors(0))));
    }

    #[test]
    fn a_flush_goes_through_its_steps_in_order() {
        assert_eq!(next(&sealed()), Ok(Some(Step::StartMerge)));
        assert_eq!(next(&merging(used(40))), Ok(Some(Step::AwaitMerge)));
        assert_eq!(next(&merging(used(0))), Ok(Some(Step::Unlink)));
        let merged = Stack {
            sealed: device(SEALED, linear(CARD), SnapshotStatus::Unknown),
            ..merging(used(0))
        };
        assert_eq!(next(&merged), Ok(Some(Step::Remove(Name::View))));
        let no_view = Stack { view: None, ..merged };
        assert_eq!(next(&no_view), Ok(Some(Step::Remove(Name::Origin))));
        let no_origin = Stack { origin: None, ..no_view };
        assert_eq!(next(&no_origin), Ok(Some(Step::Rename)));
        assert_eq!(no_origin.card(), Some((CARD, Sectors(0))));
    }

    #[test]
    fn a_failed_merge_is_taken_back_and_tried_again() {
        let failed = merging(SnapshotStatus::MergeFailed);
        assert_eq!(next(&failed), Ok(Some(Step::Unmerge)));
        let taken_back = Stack { view: view(), ..sealed() };
        assert_eq!(next(&taken_back), Ok(Some(Step::Remove(Name::View))));
        assert_eq!(next(&stopping(SnapshotStatus::MergeFailed)), Ok(Some(Step::RestartMerge)));
        assert_eq!(next(&stopping(used(8))), Ok(Some(Step::AwaitMerge)));
        assert_eq!(next(&stopping(used(0))), Ok(Some(Step::Unlink)));
    }

    #[test]
    fn killed_before_the_seal_the_preparation_is_dropped() {
        let prepared = edit(deferring(), |s| {
            root(s).inactive = true;
            s.sealed = loaded();
        });
        assert_eq!(next(&prepared), Ok(Some(Step::Clear(Name::Root))));
        let cleared = edit(prepared, |s| root(s).inactive = false);
        assert_eq!(next(&cleared), Ok(Some(Step::Remove(Name::Sealed))));
    }

    #[test]
    fn killed_after_the_suspend_root_wakes_on_its_old_table() {
        let suspended = edit(deferring(), |s| {
            root(s).suspended = true;
            root(s).inactive = true;
            s.sealed = loaded();
        });
        assert_eq!(next(&suspended), Ok(Some(Step::Clear(Name::Root))));
        let cleared = edit(suspended, |s| root(s).inactive = false);
        assert_eq!(next(&cleared), Ok(Some(Step::Remove(Name::Sealed))));
        let removed = edit(cleared, |s| s.sealed = None);
        assert_eq!(next(&removed), Ok(Some(Step::Resume(Name::Root))));
    }

    #[test]
    fn killed_after_the_handover_root_wakes_on_its_new_table() {
        let handed = edit(deferring(), |s| {
            root(s).suspended = true;
            root(s).inactive = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), used(80));
        });
        assert_eq!(next(&handed), Ok(Some(Step::Resume(Name::Root))));
        let refused = edit(handed, |s| seal(s).suspended = true);
        assert_eq!(next(&refused), Ok(Some(Step::Clear(Name::Root))));
    }

    #[test]
    fn a_restart_that_was_killed_merges_before_root_wakes() {
        let between = edit(stopping(used(8)), |s| {
            root(s).suspended = true;
            s.sealed = device(SEALED, snapshot(ORIGIN, NEW_COW), used(8));
        });
        assert_eq!(next(&between), Ok(Some(Step::MergeInPlace)));
        let awake = edit(between, |s| root(s).suspended = false);
        assert_eq!(next(&awake), Ok(Some(Step::MergeInPlace)));
        let merging = edit(stopping(used(8)), |s| root(s).suspended = true);
        assert_eq!(next(&merging), Ok(Some(Step::Resume(Name::Root))));
    }

    #[test]
    fn leftovers_are_cleared_one_by_one() {
        let half_view = edit(sealed(), |s| {
            s.view = Some(Device {
                number: VIEW,
                suspended: true,
                live: None,
                inactive: false,
                mark: None,
            });
        });
        assert_eq!(next(&half_view), Ok(Some(Step::Remove(Name::View))));
        let stray_view = Stack { view: view(), ..deferring() };
        assert_eq!(next(&stray_view), Ok(Some(Step::Remove(Name::View))));
        let loaded = edit(merging(used(0)), |s| seal(s).inactive = true);
        assert_eq!(next(&loaded), Ok(Some(Step::Clear(Name::Sealed))));
        let held = edit(merging(used(0)), |s| seal(s).suspended = true);
        assert_eq!(next(&held), Ok(Some(Step::Resume(Name::Sealed))));
    }

    #[test]
    fn what_cannot_be_settled_is_named() {
        assert_eq!(next(&Stack::default()), Err(Trouble::NotActive));
        let lost = merging(SnapshotStatus::Invalid);
        assert_eq!(next(&lost), Err(Trouble::Lost(Name::Sealed)));
        let foreign = edit(deferring(), |s| root(s).live = Some(Live::Foreign));
        assert_eq!(next(&foreign), Err(Trouble::Foreign(Name::Root)));
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
                settles(stack);
            }
        }
    }

    fn settles(start: Stack) {
        let mut stack = start;
        for _ in 0..20 {
            match next(&stack).unwrap() {
                None => return,
                Some(step) => apply(&mut stack, step),
            }
        }
        panic!("does not settle: {start:?}, stuck at {:?}", next(&stack));
    }

    fn slot(stack: &mut Stack, name: Name) -> &mut Option<Device> {
        match name {
            Name::Root => &mut stack.root,
            Name::Origin => &mut stack.origin,
            Name::Sealed => &mut stack.sealed,
            Name::View => &mut stack.view,
        }
    }

    fn apply(stack: &mut Stack, step: Step) {
        let through = stack.mode() == Some(Mode::WriteThrough);
        let cow = if through { NEW_COW } else { VIEW };
        match step {
            Step::Resume(name) => {
                let device = slot(stack, name).as_mut().unwrap();
                device.suspended = false;
                device.inactive = false;
            }
            Step::Clear(name) => slot(stack, name).as_mut().unwrap().inactive = false,
            Step::Remove(name) => *slot(stack, name) = None,
            Step::StartMerge => {
                stack.view = view();
                stack.sealed = device(SEALED, merge(ORIGIN, VIEW), used(8));
            }
            Step::MergeInPlace | Step::RestartMerge => {
                stack.sealed = device(SEALED, merge(ORIGIN, cow), used(8));
            }
            Step::AwaitMerge => stack.sealed = device(SEALED, merge(ORIGIN, cow), used(0)),
            Step::Unmerge => stack.sealed = device(SEALED, snapshot(ORIGIN, OLD_COW), used(8)),
            Step::Unlink => {
                stack.sealed = device(SEALED, linear(CARD), SnapshotStatus::Unknown);
            }
            Step::Rename => {
                stack.origin = stack.sealed.take();
            }
        }
    }
}
