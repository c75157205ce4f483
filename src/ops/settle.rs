//! Runs the plan of [`crate::stack::plan`] until the stack is settled.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{quiet, seal, view};
use crate::dm::status::Usage;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::error::{Error, Exit, Result};
use crate::report::progress::Meter;
use crate::stack::{self, Device, Live, Name, Stack, Step, Trouble};
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, loopdev};
use crate::units::{Bytes, DevNo, Sectors};

/// How often the merge is looked at: soon at first, since most are short.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LAST_POLL: Duration = Duration::from_millis(64);

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
        match step {
            Step::StartMerge | Step::MergeInPlace | Step::RestartMerge | Step::Unmerge
                if merging_since.is_some() =>
            {
                end_quiet(&stack)?;
                return Err(merge_failed(&stack));
            }
            Step::AwaitMerge => {
                let begin = *merging_since.get_or_insert_with(Instant::now);
                if settled.merged.0 == 0 {
                    settled.merged = sealed_bytes(&stack);
                }
                if let Some(signal) = await_merge(control, meter, signals, settled.merged)? {
                    // The kernel goes on alone, so it had better flush by itself.
                    end_quiet(&stack)?;
                    return Err(interrupted(signal));
                }
                settled.time = begin.elapsed();
            }
            Step::StartMerge => {
                settled.merged = start_merge(control, &stack)?;
                merging_since = Some(Instant::now());
            }
            Step::MergeInPlace | Step::RestartMerge => {
                settled.merged = sealed_bytes(&stack);
                run(control, &stack, step)?;
                merging_since = Some(Instant::now());
            }
            _ => run(control, &stack, step)?,
        }
    }
}

/// Builds the view and starts its merge. Returns how much will be merged.
fn start_merge(control: &Control, stack: &Stack) -> Result<Bytes> {
    let sealed = sealed(stack)?;
    let mark = stack.card().and_then(|(card, _)| quiet::allowed(card));
    let (view, bytes) = view::build(control, &sealed, mark)?;
    // The mark is in the kernel before anything is changed: whoever removes the view undoes it.
    if let Some(mark) = mark {
        quiet::begin(mark);
    }
    replace(control, &sealed, |origin, _, chunk| Target::SnapshotMerge {
        origin,
        cow: view,
        chunk,
    })?;
    Ok(bytes)
}

/// Undoes what the view's mark says, so that FLUSHes reach the card again.
fn end_quiet(stack: &Stack) -> Result<bool> {
    match stack.view.and_then(|view| view.mark) {
        Some(mark) => quiet::end(mark).map(|()| true),
        None => Ok(false),
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

fn sealed_bytes(stack: &Stack) -> Bytes {
    stack.sealed.and_then(|sealed| sealed.usage()).map_or(Bytes(0), |usage| usage.data().bytes())
}

fn sealed(stack: &Stack) -> Result<Device> {
    stack.sealed.ok_or_else(|| Error::new("go on with the flush", "the sealed device is gone"))
}

/// Carries out one step.
fn run(control: &Control, stack: &Stack, step: Step) -> Result<()> {
    match step {
        Step::Resume(name) => control.resume(name),
        Step::Clear(name) => control.clear(name),
        Step::Remove(name) => {
            if name == Name::View {
                end_quiet(stack)?;
            }
            control.remove(name)
        }
        Step::StartMerge | Step::AwaitMerge => Ok(()),
        Step::MergeInPlace => replace(control, &sealed(stack)?, |origin, cow, chunk| {
            Target::SnapshotMerge { origin, cow, chunk }
        }),
        Step::Unmerge => unmerge(control, stack),
        Step::RestartMerge => seal::restart(control, &sealed(stack)?),
        Step::Unlink => unlink(control, stack),
        Step::Rename => control.rename(Name::Sealed, Name::Origin),
    }
}

fn unmerge(control: &Control, stack: &Stack) -> Result<()> {
    // The view's second part is the sealed COW.
    let cow = match stack.view.and_then(|view| view.live) {
        Some(Live::Joined(_, Line { target: Target::Linear { device, .. }, .. })) => device,
        _ => return Err(explain(Trouble::Foreign(Name::View))),
    };
    replace(control, &sealed(stack)?, |origin, _, chunk| Target::Snapshot { origin, cow, chunk })
}

/// The RAM copy goes only when the card has confirmed that it keeps everything.
fn unlink(control: &Control, stack: &Stack) -> Result<()> {
    let sealed = sealed(stack)?;
    let (Some((device, offset)), Some(length)) = (stack.card(), sealed.length()) else {
        return Err(explain(Trouble::Foreign(Name::Origin)));
    };
    // Merged without FLUSHes: one now. Otherwise the kernel flushed after each run.
    if end_quiet(stack)?
        && let Err(error) = block::flush(device)
    {
        unmerge(control, stack)?;
        return Err(error
            .advise(
                "Nothing is lost: all data stay in RAM and can be read. Look for the card's errors \
                 in the kernel log (dmesg), then run `cowflush flush` to try again.",
            )
            .exit(Exit::Card));
    }
    control.replace(Name::Sealed, &[Line::whole(length, Target::Linear { device, offset })])
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

/// Waits until the merge ends, well or badly; the caller looks at the stack to learn which. Or
/// until a signal comes.
fn await_merge(
    control: &Control,
    meter: &mut Meter,
    signals: &mut Held,
    total: Bytes,
) -> Result<Option<Signal>> {
    meter.begin(total);
    let mut pause = FIRST_POLL;
    let signal = loop {
        let usage = observe(control)?.sealed.and_then(|sealed| sealed.usage());
        let left = match usage {
            Some(usage) if usage.data().0 > 0 => usage.data().bytes(),
            _ => break None,
        };
        meter.show(left.min(total));
        if let Some(signal) = signals.arrived() {
            break Some(signal);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_POLL);
    };
    meter.clear();
    Ok(signal)
}

fn interrupted(signal: Signal) -> Error {
    Error::new("wait for the end of the merge", format!("{signal} came"))
        .advise(
            "The kernel goes on merging; `cowflush flush` finishes it, `cowflush status` shows how \
             far it is.",
        )
        .exit(Exit::Interrupted)
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
