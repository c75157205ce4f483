//! Runs the plan of [`crate::stack::plan`] until the stack is settled.

use std::time::{Duration, Instant};

use super::{seal, view};
use crate::dm::status::Usage;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::error::{Error, Exit, Result};
use crate::report::progress::Meter;
use crate::stack::{self, Device, Live, Name, Stack, Step, Trouble};
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, loopdev};
use crate::units::{Bytes, DevNo, Sectors};

/// How often the merge is looked at.
const POLL: Duration = Duration::from_millis(40);

/// What settling took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// Bytes merged into the card.
    pub merged: Bytes,
    /// How long the kernel merged.
    pub time: Duration,
}

/// Brings the stack to rest: finishes a merge, or cleans up after a command that was killed.
pub fn settle(control: &Control, meter: &mut Meter, signals: &mut Held) -> Result<Settled> {
    loopdev::release_strays();
    let mut settled = Settled::default();
    let mut merging_since = None;
    loop {
        let stack = observe(control)?;
        let Some(step) = stack::next(&stack).map_err(explain)? else { return Ok(settled) };
        // Counted before the kernel begins to empty the view.
        let left = match (step, stack.view) {
            (Step::StartMerge, Some(view)) => view::left_of_view(&view)?,
            _ => stack.sealed.map_or(Bytes(0), sealed_bytes),
        };
        match step {
            Step::StartMerge | Step::MergeInPlace | Step::RestartMerge | Step::Unmerge
                if merging_since.is_some() =>
            {
                return Err(merge_failed(&stack));
            }
            Step::AwaitMerge => {
                let begin = *merging_since.get_or_insert_with(Instant::now);
                if settled.merged.0 == 0 {
                    settled.merged = left;
                }
                await_merge(control, meter, signals, settled.merged)?;
                settled.time = begin.elapsed();
            }
            _ => {
                run(control, &stack, step)?;
                if matches!(step, Step::StartMerge | Step::MergeInPlace | Step::RestartMerge) {
                    settled.merged = left;
                    merging_since = Some(Instant::now());
                }
            }
        }
    }
}

/// The stack as it is, with the one thing that the kernel does not tell: how much is left of a
/// merge whose COW overflowed before it was sealed.
fn observe(control: &Control) -> Result<Stack> {
    let mut stack = control.stack()?;
    if let Some(Device { live: Some(Live::Single { target, status, .. }), .. }) = &mut stack.sealed
        && let (Target::SnapshotMerge { cow, .. }, SnapshotStatus::Overflow) = (*target, *status)
    {
        let (allocated, nothing) = (view::left(cow)?.sectors(), Sectors(0));
        *status =
            SnapshotStatus::Used(Usage { allocated, total: block::size(cow)?, metadata: nothing });
    }
    Ok(stack)
}

fn sealed_bytes(sealed: Device) -> Bytes {
    sealed.usage().map_or(Bytes(0), |usage| usage.data().bytes())
}

/// Carries out one step.
fn run(control: &Control, stack: &Stack, step: Step) -> Result<()> {
    let sealed = || {
        stack.sealed.ok_or_else(|| Error::new("go on with the flush", "the sealed device is gone"))
    };
    match step {
        Step::Resume(name) => control.resume(name),
        Step::Clear(name) => control.clear(name),
        Step::Remove(name) => control.remove(name),
        Step::BuildView => view::build(control, &sealed()?),
        Step::StartMerge => {
            let view = stack.view.map(|view| view.number);
            replace(control, &sealed()?, |origin, cow, chunk| Target::SnapshotMerge {
                origin,
                cow: view.unwrap_or(cow),
                chunk,
            })
        }
        Step::MergeInPlace => replace(control, &sealed()?, |origin, cow, chunk| {
            Target::SnapshotMerge { origin, cow, chunk }
        }),
        Step::Unmerge => {
            // The view's second part is the sealed COW.
            let sealed_cow = match stack.view.and_then(|view| view.live) {
                Some(Live::Joined(_, Line { target: Target::Linear { device, .. }, .. })) => device,
                _ => return Err(explain(Trouble::Foreign(Name::View))),
            };
            replace(control, &sealed()?, |origin, _, chunk| Target::Snapshot {
                origin,
                cow: sealed_cow,
                chunk,
            })
        }
        Step::RestartMerge => seal::restart(control, &sealed()?),
        Step::AwaitMerge => Ok(()),
        Step::Unlink => {
            let sealed = sealed()?;
            let (Some((device, offset)), Some(length)) = (stack.card(), sealed.length()) else {
                return Err(explain(Trouble::Foreign(Name::Origin)));
            };
            control.replace(Name::Sealed, &[Line::whole(length, Target::Linear { device, offset })])
        }
        Step::Rename => control.rename(Name::Sealed, Name::Origin),
    }
}

/// Gives the sealed device another table made from the parts of its present one.
fn replace(
    control: &Control,
    sealed: &Device,
    target: impl FnOnce(DevNo, DevNo, u32) -> Target,
) -> Result<()> {
    let (origin, cow, chunk) = match sealed.target() {
        Some(
            Target::Snapshot { origin, cow, chunk } | Target::SnapshotMerge { origin, cow, chunk },
        ) => (origin, cow, chunk),
        _ => return Err(explain(Trouble::Foreign(Name::Sealed))),
    };
    let length = sealed.length().unwrap_or_default();
    control.replace(Name::Sealed, &[Line::whole(length, target(origin, cow, chunk))])
}

/// Waits until the merge ends, well or badly; the caller looks at the stack to learn which.
fn await_merge(
    control: &Control,
    meter: &mut Meter,
    signals: &mut Held,
    total: Bytes,
) -> Result<()> {
    meter.begin(total);
    loop {
        let usage = observe(control)?.sealed.and_then(|sealed| sealed.usage());
        let left = match usage {
            Some(usage) if usage.data().0 > 0 => usage.data().bytes(),
            _ => break,
        };
        meter.show(left.min(total));
        if let Some(signal) = signals.arrived() {
            meter.clear();
            return Err(Error::new("wait for the end of the merge", format!("{signal} came"))
                .advise(
                    "The kernel goes on merging; `cowflush flush` finishes it, `cowflush status` \
                     shows how far it is.",
                )
                .exit(Exit::Interrupted));
        }
        std::thread::sleep(POLL);
    }
    meter.clear();
    Ok(())
}

fn merge_failed(stack: &Stack) -> Error {
    let card = stack.card().map_or_else(|| "the card".to_owned(), |(card, _)| block::name(card));
    let range = stack.view.and_then(|view| view::failed_sectors(&view).ok().flatten());
    let cause = match range {
        Some((first, last)) => format!("writing sectors {first} to {last} of {card} failed"),
        None => format!("a write to {card} failed"),
    };
    Error::new(format!("merge into {card}"), cause)
        .advise(
            "Nothing is lost: all data stay in RAM and can be read, and root goes on. Look for \
             the card's errors in the kernel log (dmesg), then run `cowflush flush` to try \
             again. If the card is dying, copy your files to another machine before you reboot.",
        )
        .exit(Exit::Card)
}

/// The planner's trouble as an error.
pub fn explain(trouble: Trouble) -> Error {
    match trouble {
        Trouble::NotActive => Error::new(
            "find cowflush's devices",
            "root is not on a cowflush stack",
        )
        .advise(
            "Boot with the cowflush initramfs and without `cowflush=off`; /run/cowflush/boot \
                 tells what the boot did.",
        )
        .exit(Exit::NotActive),
        Trouble::Lost(name) => Error::new(
            format!("read {}", name.text()),
            "its COW was lost (the kernel calls it Invalid), because memory ran out or a write \
             to it failed",
        )
        .advise(
            "What was written since the last flush can't be had any more. The card holds the \
             last flush: reboot.",
        )
        .exit(Exit::Lost),
        Trouble::Foreign(name) => Error::new(
            format!("go on with {}", name.text()),
            "its table is none that cowflush makes",
        )
        .advise("Has another tool changed it? `dmsetup table` shows it; a reboot clears it."),
    }
}
