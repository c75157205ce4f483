//! Runs the plan of [`crate::stack::plan`] until the stack is settled.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::prune::{Policy, Pruned, prune};
use super::valve::Valve;
use super::{cowfile, quiet, seal, view};
use crate::cow::format::CHUNK_BYTES;
use crate::cow::view::Budget;
use crate::dm::status::Usage;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::error::{Error, Exit, Result};
use crate::ops::log::Log;
use crate::ops::log::append::APPEND_AGAIN;
use crate::report::progress::Meter;
use crate::stack::{self, Device, Live, Name, Stack, Step, Trouble, Wish};
use crate::sys::direct::Direct;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, watchdog};
use crate::units::{Bytes, DevNo, Sectors};

/// How often the merge is looked at: soon at first, since most are short.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LAST_POLL: Duration = Duration::from_millis(64);

/// What settling took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// The sealed COW was appended to the flush log.
    pub appended: bool,
    /// Bytes appended to the flush log.
    pub logged: Bytes,
    /// How long that took, until they were durable.
    pub logging: Duration,
    /// How much of the log is in use since, in percent.
    pub log_used: u64,
    /// Bytes merged into the card.
    pub merged: Bytes,
    /// How long the kernel merged.
    pub merging: Duration,
    /// What of the sealed COW needn't reach the log or the card.
    pub pruned: Pruned,
    /// What of the flush log needn't reach root.
    pub log_pruned: Pruned,
}

/// A command's hands: the kernel's device-mapper, the progress line, the signals that may come.
pub struct Hands<'a> {
    /// Device-mapper.
    pub control: &'a Control,
    /// Shows progress.
    pub meter: &'a mut Meter,
    /// May end a wait.
    pub signals: &'a mut Held,
    /// Holds writers back when they have no room.
    pub valve: &'a mut Valve,
    /// What may be left out.
    pub policy: Policy,
}

impl Hands<'_> {
    /// To be called often during what takes long: shows progress. Returns a signal that came.
    fn tend(&mut self, left: Bytes) -> Option<Signal> {
        // While root is suspended whoever reads the progress may be waiting for it.
        if !(self.valve.works() && self.valve.is_closed()) {
            self.meter.show(left);
        }
        self.signals.arrived()
    }
}

/// Brings the stack to rest: finishes a flush or a merge, or cleans up after a command that was
/// killed; and does what is wished for beyond that.
pub fn settle(hands: &mut Hands<'_>, wished: Wish) -> Result<Settled> {
    cowfile::release_strays(hands.control);
    // What a flush needs for itself is added until it is done.
    let mut wish = wished;
    let control = hands.control;
    let mut settled = Settled::default();
    // A layer's merge that fails is not begun again by the same command.
    let mut begun = Vec::new();
    let mut merging_since = Instant::now();
    let mut log_merged = Bytes(0);
    loop {
        let mut stack = observe(control)?;
        // A valve that is closed suspends root; that is not what the plan is to mend.
        if let (Some(root), true) = (&mut stack.root, hands.valve.works()) {
            root.suspended = false;
        }
        let Some(step) = stack::next(&stack, wish).map_err(explain)? else { return Ok(settled) };
        match step {
            Step::StartMerge(name) | Step::Unmerge(name) if begun.contains(&name) => {
                end_quiet(&stack)?;
                return Err(merge_failed(&stack));
            }
            Step::MergeInPlace | Step::RestartMerge if begun.contains(&Name::Sealed) => {
                return Err(merge_failed(&stack));
            }
            Step::AwaitMerge(name) => {
                if !begun.contains(&name) {
                    begun.push(name);
                    merging_since = Instant::now();
                    log_merged = left(&stack, name);
                    settled.merged.0 += log_merged.0;
                }
                if let Some(signal) = await_merge(hands, name, settled.merged)? {
                    // The kernel goes on alone, so it had better flush by itself.
                    end_quiet(&stack)?;
                    return Err(interrupted(signal));
                }
                settled.merging += merging_since.elapsed();
            }
            Step::Append => match append(hands, &stack, &mut settled)? {
                Appended::Done => wish = wished,
                Appended::NoRoom => wish.merge = true,
                Appended::TooLarge => wish.direct = true,
            },
            Step::Unlink(name) => {
                unlink(control, &stack, name, wish.direct, log_merged)?;
                begun.retain(|begun| *begun != name);
            }
            Step::StartMerge(name) => {
                log_merged = start_merge(hands, &stack, name, &mut settled)?;
                settled.merged.0 += log_merged.0;
                begun.push(name);
                merging_since = Instant::now();
            }
            Step::MergeInPlace | Step::RestartMerge => {
                settled.merged.0 += left(&stack, Name::Sealed).0;
                run(control, &stack, step)?;
                begun.push(Name::Sealed);
                merging_since = Instant::now();
            }
            _ => run(control, &stack, step)?,
        }
    }
}

/// What came of an append.
enum Appended {
    /// It is durable.
    Done,
    /// The log must be merged first.
    NoRoom,
    /// It is larger than the whole log.
    TooLarge,
}

/// Appends the sealed COW to the log and lets the sealed device read it there: its memory is free
/// then.
///
/// Killed after the append, the next command appends once more: the log then holds the same twice,
/// which changes nothing.
fn append(hands: &mut Hands<'_>, stack: &Stack, settled: &mut Settled) -> Result<Appended> {
    let control = hands.control;
    let (sealed, begin) = (device(stack, Name::Sealed)?, Instant::now());
    let (Some(Target::Snapshot { origin, cow, .. }), Some(partition), Some((card, _))) =
        (sealed.target(), stack.log_partition(), stack.card())
    else {
        return Err(explain(Trouble::Foreign(Name::Sealed)));
    };
    let mut data = view::Data::of_cow(origin, cow)?;
    let pruned = prune(hands.policy, &sealed, &mut data);
    let mut log = Log::open_in_use(&block::path(partition))?;
    // Without a layer that reads the log nothing in it counts any more: an append that was killed
    // left what is sealed now, or a log that could not be written to what is in root since. A
    // segment behind such ones would bring them back to life.
    if stack.logged.is_none() && !log.chain.segments.is_empty() {
        log.reset(0).map_err(|error| error.advise(APPEND_AGAIN).exit(Exit::Card))?;
    }
    let count = u32::try_from(data.table.len()).unwrap_or(u32::MAX);
    if !log.chain.fits(count) {
        if !log.chain.could_fit(count) {
            return Ok(Appended::TooLarge);
        }
        return Ok(Appended::NoRoom);
    }
    let mut store = Direct::open(&block::path(cow))?;
    hands.meter.begin("logging", data.bytes());
    let mut watch = |left| match hands.tend(left) {
        Some(signal) => Err(interrupted_append(signal)),
        None => Ok(()),
    };
    let mut card = Direct::open(&block::path(card))?;
    let appended = log.append(&data.table, &mut store, &mut card, &mut watch);
    hands.meter.clear();
    appended?;
    settled.appended = true;
    settled.pruned = pruned;
    settled.logged = data.bytes();
    settled.logging = begin.elapsed();
    settled.log_used = log.used_percent();

    // Both tables have the same content but for what was pruned, which root does not read, and
    // nobody writes to the sealed device: root can read through it while they are swapped. The view reads all of the log, so it takes the origin
    // for what is under it, and what read the log before is no longer needed.
    let data = view::Data::of_log(device(stack, Name::Log)?.number, &log.chain);
    let cow = view::build(control, Name::View, &data, None, 0)?;
    let origin = device(stack, Name::Origin)?.number;
    replace(control, Name::Sealed, &sealed, |_, _, chunk| Target::Snapshot { origin, cow, chunk })?;
    Ok(Appended::Done)
}

/// Builds the view and starts its merge. Returns how much will be merged.
fn start_merge(
    hands: &Hands<'_>,
    stack: &Stack,
    name: Name,
    settled: &mut Settled,
) -> Result<Bytes> {
    let (control, layer) = (hands.control, device(stack, name)?);
    let mut data = match (name, layer.target()) {
        (Name::Logged, _) => logged_data(stack)?,
        (_, Some(Target::Snapshot { origin, cow, .. })) => {
            // Root is about to be written to past the log: nothing in it may count after that, not
            // even a segment that an append left when it failed.
            retire_log(stack)?;
            view::Data::of_cow(origin, cow)?
        }
        _ => return Err(explain(Trouble::Foreign(name))),
    };
    if name == Name::Logged {
        // Whether what the log holds was frozen is known only if it tells by itself.
        let policy = Policy { frozen: false, ..hands.policy };
        settled.log_pruned = prune(policy, &layer, &mut data);
    } else {
        settled.pruned = prune(hands.policy, &layer, &mut data);
    }
    let mut copies = view::copy_budget();
    let data = fill_gaps(stack, name, data, &mut copies)?;
    let mark = quiet::allowed(stack);
    let view = view::build(control, Name::View, &data, mark, copies)?;
    // The mark is in the kernel before anything is changed: whoever removes the view undoes it.
    if let Some(mark) = mark {
        quiet::begin(mark);
    }
    replace(control, name, &layer, |origin, _, chunk| Target::SnapshotMerge {
        origin,
        cow: view,
        chunk,
    })?;
    Ok(data.bytes())
}

/// What the log holds, its checksums compared: what was damaged must not get into root.
fn logged_data(stack: &Stack) -> Result<view::Data> {
    let mut log = log(stack)?;
    log.verify();
    if let Some(damage) = log.damage() {
        return Err(Error::new("merge the flush log", damage)
            .advise(
                "Nothing was written to the card. Copy what you need to another machine, then \
                 reboot: the boot goes on from the last flush that is intact.",
            )
            .exit(Exit::Lost));
    }
    Ok(view::Data::of_log(device(stack, Name::Log)?.number, &log.chain))
}

/// Fills gaps when the log was told to. Only for the lowest layer: what stands
/// between its chunks is on the card.
fn fill_gaps(
    stack: &Stack,
    name: Name,
    data: view::Data,
    copies: &mut Budget,
) -> Result<view::Data> {
    let (Name::Logged, Some(log), Some((card, _))) = (name, stack.log_partition(), stack.card())
    else {
        return Ok(data);
    };
    let size = u64::from(Log::header_at(&block::path(log))?.fill);
    Ok(if size > 1 { data.fill(card, size, copies) } else { data })
}

/// Makes sure that nothing in the log counts, before root is written to past it. Refuses while root reads through
/// the log: what it holds has to be merged first.
///
/// A log that can't be written to is let be: its segments are told by root's superblock, which is
/// about to change.
pub fn retire_log(stack: &Stack) -> Result<()> {
    if stack.is_under_root(Name::Logged) {
        return Err(explain(Trouble::Foreign(Name::Logged)));
    }
    if let Ok(Some(mut log)) = Log::of(stack)
        && !log.is_unused()
    {
        let _ = log.reset(0);
    }
    Ok(())
}

/// The log that the stack uses.
fn log(stack: &Stack) -> Result<Log> {
    Log::of(stack)?.ok_or_else(|| explain(Trouble::Foreign(Name::Log)))
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

fn left(stack: &Stack, name: Name) -> Bytes {
    let usage = stack.device(name).and_then(Device::usage);
    usage.map_or(Bytes(0), |usage| usage.data().bytes())
}

fn device(stack: &Stack, name: Name) -> Result<Device> {
    let found = stack.device(name).copied();
    found.ok_or_else(|| {
        Error::new("go on with the flush", format!("{} is gone", name.text()))
            .advise("Did another tool remove it? Run `cowflush flush` again; all data are in RAM.")
    })
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
        Step::Append | Step::StartMerge(_) | Step::AwaitMerge(_) | Step::Unlink(_) => Ok(()),
        Step::MergeInPlace => {
            let sealed = device(stack, Name::Sealed)?;
            replace(control, Name::Sealed, &sealed, |origin, cow, chunk| Target::SnapshotMerge {
                origin,
                cow,
                chunk,
            })
        }
        Step::Unmerge(name) => unmerge(control, stack, name),
        Step::RestartMerge => seal::restart(control, &device(stack, Name::Sealed)?),
        Step::Rename(from, to) => control.rename(from, to),
    }
}

/// Lets the layer read its own store again.
fn unmerge(control: &Control, stack: &Stack, name: Name) -> Result<()> {
    let cow = match (name, stack.view.and_then(|view| view.live)) {
        (Name::Logged, _) => device(stack, Name::LogView)?.number,
        // The view's second part is the sealed COW.
        (_, Some(Live::Joined(_, Line { target: Target::Linear { device, .. }, .. }))) => device,
        _ => return Err(explain(Trouble::Foreign(Name::View))),
    };
    replace(control, name, &device(stack, name)?, |origin, _, chunk| Target::Snapshot {
        origin,
        cow,
        chunk,
    })
}

/// The merged layer becomes the card, once the card has confirmed that it keeps everything, and
/// the log that its segments don't count any more. In this order: until then the segments are
/// what a boot after a power cut would need; and from the swap on root may be written to.
///
/// A log that can't be written to is no reason to fail when root shall be written past it
/// (`direct`), for the reason that [`retire_log`] has. `merged` is for the log's figures.
fn unlink(control: &Control, stack: &Stack, name: Name, direct: bool, merged: Bytes) -> Result<()> {
    let layer = device(stack, name)?;
    let (Some((card, offset)), Some(length)) = (stack.card(), layer.length()) else {
        return Err(explain(Trouble::Foreign(Name::Origin)));
    };
    // Merged without FLUSHes: one now. Otherwise the kernel flushed after each run.
    let quiet = end_quiet(stack)?;
    let kept = if quiet { block::flush(card) } else { Ok(()) };
    let kept = kept.and_then(|()| match name {
        Name::Logged => {
            let mut log = log(stack)?;
            let merged = merged.0 / CHUNK_BYTES as u64;
            log.reset(merged).or_else(|error| if direct { Ok(()) } else { Err(error) })
        }
        _ => Ok(()),
    });
    if let Err(error) = kept {
        if stack.view.is_some() {
            unmerge(control, stack, name)?;
        }
        return Err(error
            .advise(
                "Nothing is lost: all data are still where they were and can be read. Look for \
                 the card's errors in the kernel log (dmesg), then run the command again.",
            )
            .exit(Exit::Card));
    }
    control.replace(name, &[Line::whole(length, Target::Linear { device: card, offset })])
}

/// Gives a layer another table made from the parts of its present one.
fn replace(
    control: &Control,
    name: Name,
    layer: &Device,
    target: impl FnOnce(DevNo, DevNo, u32) -> Target,
) -> Result<()> {
    let (origin, cow, chunk) = match layer.target() {
        Some(
            Target::Snapshot { origin, cow, chunk } | Target::SnapshotMerge { origin, cow, chunk },
        ) => (origin, cow, chunk),
        _ => return Err(explain(Trouble::Foreign(name))),
    };
    let length = layer.length().unwrap_or_default();
    control.replace(name, &[Line::whole(length, target(origin, cow, chunk))])
}

/// Waits until the merge ends, well or badly; the caller looks at the stack to learn which. Or
/// until a signal comes.
fn await_merge(hands: &mut Hands<'_>, name: Name, total: Bytes) -> Result<Option<Signal>> {
    let control = hands.control;
    hands.meter.begin("merging", total);
    let (mut pause, mut before) = (FIRST_POLL, total);
    let signal = loop {
        let usage = observe(control)?.device(name).and_then(Device::usage);
        let left = match usage {
            Some(usage) if usage.data().0 > 0 => usage.data().bytes(),
            _ => break None,
        };
        if left != before {
            before = left;
            watchdog::progress();
        }
        if let Some(signal) = hands.tend(left.min(total)) {
            break Some(signal);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_POLL);
    };
    hands.meter.clear();
    Ok(signal)
}

fn interrupted_append(signal: Signal) -> Error {
    Error::new("append to the flush log", format!("{signal} came"))
        .advise("Nothing is lost: what was sealed stays in RAM, and the next flush appends it.")
        .exit(Exit::Interrupted)
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
            "Nothing is lost: all data stay in RAM or in the flush log and can be read, and root \
             goes on. Look for the card's errors in the kernel log (dmesg), then run `cowflush \
             flush` to try again. If the card is dying, copy your files to another machine before you reboot.",
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
