//! Merge: a view in the order of the card is built over a layer's data, the kernel merges it, and
//! the merged layer becomes the card.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::context::Context;
use super::errors::{explain, refused};
use super::figures::Settled;
use super::layer::{named, replace};
use super::prune::{Policy, prune};
use super::{parts, view, write_cache};
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::compare::{self, Compared};
use crate::flush::flushlog::{FlushLog, READ_AGAIN};
use crate::pure::chunks::{CHUNK_BYTES, PIECE};
use crate::pure::cow::fill::Budget;
use crate::pure::dm::{Line, Target};
use crate::pure::flushlog::agree::Act;
use crate::pure::flushlog::chain::bad_chunks;
use crate::pure::stack::{Live, Name, PlanError, Stack};
use crate::pure::units::Bytes;
use crate::sys::disk::Disk;
use crate::sys::{block, time, watchdog};

/// The pause before the first poll of a merge: short, since most merges are.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LAST_POLL: Duration = Duration::from_millis(64);

/// Builds the view and starts its merge. Returns how much will be merged.
pub fn start(
    context: &mut Context<'_>,
    stack: &Stack,
    name: Name,
    settled: &mut Settled,
) -> Result<Bytes> {
    let layer = named(stack, name)?;
    let mut data = match (name, layer.target()) {
        (Name::Logged, _) => logged_data(context, stack)?,
        (_, Some(Target::Snapshot { origin, cow, .. })) => {
            // Root is about to be written to past the log: nothing in it may count after that, not
            // even a segment that an append left when it failed.
            retire(stack, context.forget, settled.not_emptied)?;
            view::Data::of_cow(origin, cow)?
        }
        _ => return Err(explain(PlanError::Foreign(name))),
    };
    if name == Name::Logged {
        // Whether the log's content was frozen is known only if the filesystem itself shows it.
        let policy = Policy { frozen: false, ..context.policy() };
        settled.log_pruned = prune(policy, &layer, &mut data);
    } else {
        settled.pruned = prune(context.policy(), &layer, &mut data);
    }
    let first = write_free(context, stack, name, &mut data)?;
    let mut copies = view::copy_budget();
    let data = fill_gaps(stack, name, data, &mut copies)?;
    let control = &context.control;
    let view = view::build(control, Name::View, &data, copies)?;
    // Before a chunk of an origin is written, the kernel saves it in every active snapshot of that
    // origin that does not have it, and a table stays active until the next one is. So the log's
    // own table would save what the merge writes besides its entries, which are fillers of gaps,
    // behind its last data, wherever in the ring that is. Therefore another snapshot first takes
    // its place, with the same content and the view as its store, and then hands the view over to
    // the merge. A sealed COW is merged with no more entries than its own table has, so nothing is
    // saved; and a sealed device that is a snapshot of the view is one that reads the log.
    if name == Name::Logged {
        replace(control, name, &layer, |origin, _, chunk| Target::Snapshot {
            origin,
            cow: view,
            chunk,
        })?;
    }
    // Before the first run is merged. No other program sends FLUSHes through the layer's new table.
    write_cache::declare_off(stack);
    replace(control, name, &layer, |origin, _, chunk| Target::SnapshotMerge {
        origin,
        cow: view,
        chunk,
    })
    .inspect_err(|_| drop(write_cache::restore(stack)))?;
    Ok(Bytes(first.0.saturating_add(data.bytes().0)))
}

/// Writes the chunks that are free on the card, and takes them out of `data`: see [`parts`]. The
/// command does it itself, since a FLUSH can't be put into the middle of the kernel's merge. The
/// layer reads these chunks from its own table meanwhile, and from the card when that is another
/// one. Returns how much it was.
///
/// If the command is killed before the end, it has changed nothing that is read, and the next merge
/// begins again. A sealed COW is merged in one part: it is in RAM alone, and the kernel goes on
/// with it when the command is gone.
fn write_free(
    context: &mut Context<'_>,
    stack: &Stack,
    name: Name,
    data: &mut view::Data,
) -> Result<Bytes> {
    let Some((device, _)) = stack.card().filter(|_| name == Name::Logged) else {
        return Ok(Bytes(0));
    };
    let mut card = Disk::open_writable(&block::path(device)).map_err(refused)?;
    let olds = &mut data.table.iter().map(|exception| exception.old);
    let (total, marks) = (data.bytes(), parts::free(&mut card, olds));
    let free = data.take(&marks);
    let (bytes, rest) = (free.bytes(), data.bytes());
    if bytes.0 == 0 {
        return Ok(bytes);
    }
    let free = fill_gaps(stack, name, free, &mut { Budget::MAX })?;
    context.meter.begin("merging", total);
    let watch = |left: Bytes| {
        let left = Bytes(rest.0.saturating_add(left.0)).min(total);
        context.show_progress(left).map_or(Ok(()), |signal| Err(interrupted_before(signal)))
    };
    let copied = parts::copy(&free, &mut card, watch);
    context.meter.clear();
    copied.and_then(|()| block::flush(device).map_err(refused))?;
    Ok(bytes)
}

/// What root reads through the log, by the kernel's own table. All of it is read once before
/// anything is written: the log on the card may have been damaged since, or have become unreadable,
/// and wrong data must not get into root. It compares checksums where the log still has them.
fn logged_data(context: &mut Context<'_>, stack: &Stack) -> Result<view::Data> {
    let seen = view::seen(stack)?;
    let Compared { mut log, .. } = compare::check(stack, Act::Merge, context.forget, None)?;
    let store = named(stack, Name::Log)?.number;
    let known = log.as_ref().map_or_else(Vec::new, |log| log.chain.live());
    let mut wanted: Vec<_> = seen
        .iter()
        .map(|seen| {
            let at = known.binary_search_by_key(&seen.old, |live| live.old).ok();
            let live = at.and_then(|at| known.get(at)).filter(|live| live.place == seen.new);
            (seen.new, live.map(|live| live.crc))
        })
        .collect();
    wanted.sort_unstable();
    let mut disk = Disk::open(&block::path(store))?;
    let bytes = |count: usize| Bytes(count as u64 * CHUNK_BYTES as u64);
    // A slow card takes minutes for a full log, and a shutdown may not have them.
    context.meter.begin("checking", bytes(wanted.len()));
    let (mut bad, mut left) = (Vec::new(), wanted.len());
    for piece in wanted.chunks(PIECE) {
        if let Some(signal) = context.show_progress(bytes(left)) {
            context.meter.clear();
            return Err(interrupted_before(signal));
        }
        bad.extend(bad_chunks(&mut disk, piece.to_vec()));
        left = left.saturating_sub(piece.len());
    }
    context.meter.clear();
    // A wrong chunk is reported before one that can't be read.
    let Some(bad) = bad.into_iter().min_by_key(|bad| bad.unreadable) else {
        return Ok(view::Data::of_seen(store, seen));
    };
    if bad.unreadable {
        return Err(Error::new(
            "merge the flush log",
            format!("its chunk {} can't be read", bad.place),
        )
        .advise(READ_AGAIN)
        .exit(Exit::Card));
    }
    // The segment that the chunk belongs to.
    let index = known.iter().find(|live| live.place == bad.place).map_or(0, |live| live.segment);
    let damage = log.as_mut().and_then(|log| {
        log.chain.cut(index, bad);
        log.damage()
    });
    Err(Error::new("merge the flush log", damage.unwrap_or_default())
        .advise(
            "Nothing was written to the card. Copy what you need to another machine, then \
             reboot: the boot goes on from the last flush that is intact.",
        )
        .exit(Exit::Lost))
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
    // If the header can't be read now, no gaps are filled.
    let size = FlushLog::header_at(&block::path(log)).map_or(0, |header| u64::from(header.fill));
    Ok(if size > 1 { data.fill(card, size, copies) } else { data })
}

/// Makes sure that nothing in the log counts, before root is written to past it. Refuses while root
/// reads through the log, or while the log may hold flushes that root does not have. `not_emptied`:
/// root has all of it, and it could not be emptied.
///
/// A log that can't be written to stays as it is: its segments no longer fit root once root's
/// superblock changes, which is about to happen.
pub fn retire_log(stack: &Stack, not_emptied: bool) -> Result<()> {
    retire(stack, false, not_emptied)
}

fn retire(stack: &Stack, forget: bool, not_emptied: bool) -> Result<()> {
    if stack.is_under_root(Name::Logged) {
        return Err(explain(PlanError::Foreign(Name::Logged)));
    }
    // A caller that has just found that it holds nothing more needs no second check.
    let checked = compare::check(stack, Act::Retire, forget || not_emptied, None)?;
    if let Some(mut log) = checked.log.filter(|log| !log.is_unused()) {
        let _ = log.reset(0);
    }
    Ok(())
}

/// Turns the sealed device, under a root that writes through, into a merge of its own COW, in the
/// COW's order.
pub fn start_in_place(context: &Context<'_>, stack: &Stack) -> Result<()> {
    let sealed = named(stack, Name::Sealed)?;
    replace(&context.control, Name::Sealed, &sealed, |origin, cow, chunk| Target::SnapshotMerge {
        origin,
        cow,
        chunk,
    })
}

/// Gives a layer whose merge failed or has not begun its own store back in place of the view.
pub fn take_back(context: &Context<'_>, stack: &Stack, name: Name) -> Result<()> {
    let cow = match (name, stack.view.and_then(|view| view.live)) {
        (Name::Logged, _) => named(stack, Name::LogView)?.number,
        // The view's second part is the sealed COW.
        (_, Some(Live::Joined(_, Line { target: Target::Linear { device, .. }, .. }))) => device,
        _ => return Err(explain(PlanError::Foreign(Name::View))),
    };
    replace(&context.control, name, &named(stack, name)?, |origin, _, chunk| Target::Snapshot {
        origin,
        cow,
        chunk,
    })
}

/// Turns the merged layer into the card. First the card must confirm that everything is durable,
/// then the log is emptied, and only then comes the swap: a boot after a power cut would need the
/// segments until everything is durable, and from the swap on root may be written to.
///
/// If the log can't be written to, this fails, unless root is to be written past the log
/// (`direct`); [`retire_log`] says why that is safe. `merged` is for the log's figures. Returns
/// whether the log could not be emptied.
pub fn unlink(
    context: &Context<'_>,
    stack: &Stack,
    name: Name,
    direct: bool,
    merged: Bytes,
) -> Result<bool> {
    let (control, layer) = (&context.control, named(stack, name)?);
    let (Some((card, offset)), Some(length)) = (stack.card(), layer.length()) else {
        return Err(explain(PlanError::Foreign(Name::Origin)));
    };
    // A merge by way of a view went without FLUSHes, all or in part. So one is sent now, to the
    // card itself, and not to a device that was declared to have no cache. In a merge in place the
    // kernel flushed after each run.
    let kept = if stack.view.is_some() { block::flush(card).map_err(refused) } else { Ok(()) };
    let kept = kept.and_then(|()| match name {
        Name::Logged => match compare::check(stack, Act::Merge, context.forget, None)?.log {
            Some(mut log) => match log.reset(merged.0 / CHUNK_BYTES as u64) {
                Err(error) if !direct => Err(refused(error)),
                emptied => Ok(emptied.is_err()),
            },
            // Nothing in it can count any more.
            None => Ok(true),
        },
        _ => Ok(false),
    });
    if kept.is_err() && stack.view.is_some() {
        take_back(context, stack, name)?;
    }
    let not_emptied = kept?;
    control.replace(name, &[Line::whole(length, Target::Linear { device: card, offset })])?;
    Ok(not_emptied)
}

/// Waits until the merge succeeds or fails, or a signal comes; the caller observes the stack to
/// learn which.
pub fn wait(context: &mut Context<'_>, name: Name, total: Bytes) -> Result<Option<Signal>> {
    context.meter.begin("merging", total);
    let (mut pause, mut before) = (FIRST_POLL, total);
    let signal = loop {
        let left = context.left(name)?;
        if left == Bytes(0) {
            break None;
        }
        if left != before {
            before = left;
            watchdog::progress();
        }
        if let Some(signal) = context.show_progress(left.min(total)) {
            break Some(signal);
        }
        time::pause(pause);
        pause = (pause * 2).min(LAST_POLL);
    };
    context.meter.clear();
    Ok(signal)
}

fn interrupted_before(signal: Signal) -> Error {
    Error::new("begin the merge", format!("{signal} came"))
        .advise(
            "Nothing is lost, and no file on the card was touched: the next merge begins again.",
        )
        .exit(Exit::Interrupted)
}

/// The error of a wait for a merge that a signal ended.
pub fn interrupted(signal: Signal) -> Error {
    Error::new("wait for the end of the merge", format!("{signal} came"))
        .advise(
            "The kernel goes on merging; `cowflush flush` finishes it, `cowflush status` shows how \
             far it is.",
        )
        .exit(Exit::Interrupted)
}

/// The error of a merge that the card has refused.
pub fn failed(stack: &Stack) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_merge_has_its_words_and_its_exit_code() {
        for (error, said, exit) in [
            (
                interrupted_before(Signal::SIGINT),
                "cannot begin the merge: SIGINT came. Nothing is lost",
                Exit::Interrupted,
            ),
            (
                interrupted(Signal::SIGHUP),
                "cannot wait for the end of the merge: SIGHUP came. The kernel goes on",
                Exit::Interrupted,
            ),
            (
                failed(&Stack::default()),
                "cannot merge into the card: a write to the card failed. Nothing is lost",
                Exit::Card,
            ),
        ] {
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.exit_code(), exit, "{error}");
        }
    }
}
