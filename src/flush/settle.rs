//! Runs the plan of [`crate::pure::stack::plan`] until the stack is settled.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::prune::{Policy, Pruned, prune};
use super::trouble::{explain, refused};
use super::{cowfile, parts, quiet, seal, view};
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::append::APPEND_AGAIN;
use crate::flush::flushlog::guard::{self, Guarded};
use crate::flush::flushlog::{Log, READ_AGAIN};
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, PIECE};
use crate::pure::config::Config;
use crate::pure::cow::fill::Budget;
use crate::pure::dm::status::Usage;
use crate::pure::dm::{Line, SnapshotStatus, Target};
use crate::pure::flushlog::agree::{Act, Go};
use crate::pure::flushlog::chain::bad_chunks;
use crate::pure::policy::rule::Rule;
use crate::pure::stack::{self, Device, Live, Name, Stack, Step, Trouble, Wish};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::direct::Direct;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, watchdog};
use crate::throttle::valve::Valve;

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
    /// How long that took, from the check of the log's checksums until they were durable.
    pub merging: Duration,
    /// Bytes that were in RAM only, and are durable by this: appended to the log, or merged without it.
    pub durable: Bytes,
    /// What of the sealed COW needn't reach the log or the card.
    pub pruned: Pruned,
    /// What of the flush log needn't reach root.
    pub log_pruned: Pruned,
    /// Root has all of the flush log, which could not be emptied.
    pub let_be: bool,
}

impl Settled {
    /// It, if something of the flush log was merged: what was merged without the log is left out.
    pub fn of_log(self) -> Option<Self> {
        let direct = self.durable.0.saturating_sub(self.logged.0);
        let merged = Bytes(self.merged.0.saturating_sub(direct));
        (merged.0 > 0 || self.log_pruned.bytes.0 > 0).then_some(Self { merged, ..self })
    }

    /// Adds what was done after it, but for how the log is then.
    pub fn add(&mut self, later: &Self) {
        self.logged.0 += later.logged.0;
        self.logging += later.logging;
        self.merged.0 += later.merged.0;
        self.merging += later.merging;
        self.durable.0 += later.durable.0;
        self.pruned.bytes.0 += later.pruned.bytes.0;
        self.pruned.refused = later.pruned.refused.or(self.pruned.refused);
    }

    /// So much of a layer is being merged. What is sealed was in RAM only.
    fn merge(&mut self, layer: Name, bytes: Bytes) {
        self.merged.0 += bytes.0;
        if layer == Name::Sealed {
            self.durable.0 += bytes.0;
        }
    }
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
    /// What the owner wants.
    pub config: &'a Config,
    /// What root's COW may hold, should it need another.
    pub limit: Bytes,
    /// What one flush can put into the flush log.
    pub roof: Bytes,
    /// The owner has said that flushes may be dropped that the log holds and root does not have.
    pub forget: bool,
}

impl Hands<'_> {
    /// To be called often during what takes long: shows progress. Returns a signal that came.
    fn tend(&mut self, left: Bytes) -> Option<Signal> {
        // While root is suspended, by a valve or for a last step, whoever reads the progress may be waiting for it.
        if !self.valve.is_closed() {
            self.meter.show(left);
        }
        self.signals.arrived()
    }

    /// Root has woken up. Its filesystem may be frozen still; after that writers may need holding back.
    fn woken(&mut self) -> Result<()> {
        seal::thaw_root();
        let stack = self.control.stack()?;
        self.valve.hold_back(&stack, Rule::of(self.config, &stack, self.roof))
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
    // An earlier command may have been killed while they were off.
    let mut quiet = true;
    loop {
        let mut stack = observe(control)?;
        // A valve that is closed suspends root; that is not what the plan is to mend.
        if let (Some(root), true) = (&mut stack.root, hands.valve.works()) {
            root.suspended = false;
        }
        let step = stack::next(&stack, wish);
        // FLUSHes are off while a merge of a view is begun and waited for, and at no other time.
        let off = matches!(step, Ok(Some(Step::AwaitMerge(_)))) && quiet::begin(&stack);
        if quiet && !off {
            quiet::end(&stack)?;
        }
        quiet = off;
        let Some(step) = step.map_err(explain)? else { return Ok(settled) };
        // After these a COW may have no user any more, and its memory is wanted.
        let frees =
            matches!(step, Step::Append | Step::Unlink(_) | Step::Remove(_) | Step::Clear(_));
        match step {
            Step::StartMerge(name) | Step::Unmerge(name) if begun.contains(&name) => {
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
                    settled.merge(name, log_merged);
                }
                let waited = await_merge(hands, name, settled.merged);
                if !matches!(waited, Ok(None)) {
                    // The kernel goes on alone, so it had better flush by itself.
                    quiet::end(&stack)?;
                }
                if let Some(signal) = waited? {
                    return Err(interrupted(signal));
                }
            }
            Step::Append => match append(hands, &stack, &mut settled)? {
                Appended::Done(log) => {
                    read_log(control, &stack, &log)?;
                    wish = wished;
                }
                Appended::NoRoom => wish.merge = true,
                Appended::TooLarge => wish.direct = true,
            },
            Step::Unlink(name) => {
                if !begun.contains(&name) {
                    merging_since = Instant::now();
                }
                settled.let_be |= unlink(hands, &stack, name, wish.direct, log_merged)?;
                settled.merging += merging_since.elapsed();
                begun.retain(|begun| *begun != name);
            }
            Step::StartMerge(name) => {
                quiet = true;
                merging_since = Instant::now();
                log_merged = start_merge(hands, &stack, name, &mut settled)?;
                settled.merge(name, log_merged);
                begun.push(name);
            }
            Step::MergeInPlace | Step::RestartMerge => {
                settled.merge(Name::Sealed, left(&stack, Name::Sealed));
                run(control, &stack, step)?;
                begun.push(Name::Sealed);
                merging_since = Instant::now();
            }
            Step::Reseat => {
                reseat(hands, &stack)?;
                hands.woken()?;
            }
            Step::Resume(Name::Root) => {
                run(control, &stack, step)?;
                hands.woken()?;
            }
            _ => run(control, &stack, step)?,
        }
        if frees {
            cowfile::release_strays(control);
        }
    }
}

/// What came of an append.
enum Appended {
    /// It is durable.
    Done(Box<Log>),
    /// The log must be merged first.
    NoRoom,
    /// It is larger than the whole log.
    TooLarge,
}

/// Appends the sealed COW to the log, for good.
///
/// Killed after the append, or when the view could not be made, the next command finds it in the log. (Should
/// another share of it be pruned then, it appends once more, which changes nothing.)
fn append(hands: &mut Hands<'_>, stack: &Stack, settled: &mut Settled) -> Result<Appended> {
    let (sealed, begin) = (device(stack, Name::Sealed)?, Instant::now());
    let (Some(Target::Snapshot { origin, cow, .. }), Some((card, _))) =
        (sealed.target(), stack.card())
    else {
        return Err(explain(Trouble::Foreign(Name::Sealed)));
    };
    let mut data = view::Data::of_cow(origin, cow)?;
    let pruned = prune(hands.policy, &sealed, &mut data);
    let mut store = Direct::open(&block::path(cow))?;
    let sealed_data = Some((data.table.as_slice(), &mut store));
    let Guarded { log: Some(mut log), go } = guard::check(stack, Act::Append, false, sealed_data)?
    else {
        return Err(explain(Trouble::Foreign(Name::Log)));
    };
    if go == Go::Anew {
        // Root was written to past them. A segment behind such ones would bring them back to life.
        log.reset(0).map_err(|error| error.advise(APPEND_AGAIN).exit(Exit::Card))?;
    }
    let count = u32::try_from(data.table.len()).unwrap_or(u32::MAX);
    // It was appended, and what came after that failed: its view could not be made, or the command was killed. Where its
    // commit record can't be written, another segment goes behind it.
    let again = go == Go::Again && log.commit_again().is_ok();
    if !again && !log.chain.fits(count) {
        if !log.chain.could_fit(count) {
            return Ok(Appended::TooLarge);
        }
        return Ok(Appended::NoRoom);
    }
    hands.meter.begin("logging", data.bytes());
    let mut watch = |left| match hands.tend(left) {
        Some(signal) => Err(interrupted_append(signal)),
        None => Ok(()),
    };
    let mut card = Direct::open(&block::path(card))?;
    let appended =
        if again { Ok(()) } else { log.append(&data.table, &mut store, &mut card, &mut watch) };
    hands.meter.clear();
    appended?;
    settled.appended = true;
    settled.pruned = pruned;
    settled.logged = data.bytes();
    settled.durable.0 += settled.logged.0;
    settled.logging = begin.elapsed();
    settled.log_used = log.used_percent();
    Ok(Appended::Done(Box::new(log)))
}

/// Lets the sealed device read the log, which has all of it now: its memory is free then.
fn read_log(control: &Control, stack: &Stack, log: &Log) -> Result<()> {
    let sealed = device(stack, Name::Sealed)?;
    // Both tables have the same content but for what was pruned, which root does not read, and
    // nobody writes to the sealed device: root can read through it while they are swapped. The view reads all of the log, so it takes the origin
    // for what is under it, and what read the log before is no longer needed. What that one's table holds was not read from
    // the card again.
    let number = device(stack, Name::Log)?.number;
    let data = match log.chain.part {
        Some(_) => view::Data::of_both(number, view::seen(stack)?, &log.chain),
        None => view::Data::of_log(number, &log.chain),
    };
    let cow = view::build(control, Name::View, &data, 0)?;
    let origin = device(stack, Name::Origin)?.number;
    replace(control, Name::Sealed, &sealed, |_, _, chunk| Target::Snapshot { origin, cow, chunk })
}

/// Brings what was sealed into the card for a last step, while root is suspended and nothing new comes: first into the
/// log, which until then is empty. Only when that is durable it is copied, and only when all of it is on the card
/// the log is emptied; so a power cut at any moment leaves what was sealed, whole. The sealed device shows the same
/// before and after, from the COW. `None`: the log has no room.
///
/// The log must be emptied: after that root is written to past it, and as nothing was frozen its superblock, by which a
/// boot knows whether a log still fits, need not change for long.
pub fn into_card(hands: &mut Hands<'_>) -> Result<Option<Settled>> {
    let (stack, mut settled) = (hands.control.stack()?, Settled::default());
    let Some((card, _)) = stack.card() else { return Err(explain(Trouble::Foreign(Name::Origin))) };
    let must = |error: Error| error.advise(APPEND_AGAIN).exit(Exit::Card);
    if left(&stack, Name::Sealed).0 == 0 {
        let checked = guard::check(&stack, Act::Retire, hands.forget, None)?;
        // An append that was cut short.
        let left = checked.log.filter(|log| !log.is_unused());
        return left.map_or(Ok(()), |mut log| log.reset(0)).map_err(must).map(|()| Some(settled));
    }
    let Appended::Done(mut log) = append(hands, &stack, &mut settled)? else { return Ok(None) };
    let begin = Instant::now();
    let live = log.verify();
    let bytes = Bytes(live.len() as u64 * CHUNK_BYTES as u64);
    if bytes != settled.logged {
        let why = log.damage().or_else(|| log.hidden()).unwrap_or_default();
        return Err(must(Error::new("merge the flush log", why)));
    }
    let mut root = Direct::open_writable(&block::path(card))?;
    log.apply(&live, &mut root, &mut Meter::silent())
        .and_then(|()| log.reset(live.len() as u64))
        .map_err(must)?;
    (settled.merged, settled.merging) = (bytes, begin.elapsed());
    Ok(Some(settled))
}

/// Builds the view and starts its merge. Returns how much will be merged.
fn start_merge(
    hands: &mut Hands<'_>,
    stack: &Stack,
    name: Name,
    settled: &mut Settled,
) -> Result<Bytes> {
    let (control, layer) = (hands.control, device(stack, name)?);
    let mut data = match (name, layer.target()) {
        (Name::Logged, _) => logged_data(hands, stack)?,
        (_, Some(Target::Snapshot { origin, cow, .. })) => {
            // Root is about to be written to past the log: nothing in it may count after that, not
            // even a segment that an append left when it failed.
            retire(stack, hands.forget, settled.let_be)?;
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
    let first = write_free(hands, stack, name, &mut data)?;
    let mut copies = view::copy_budget();
    let data = fill_gaps(stack, name, data, &mut copies)?;
    let view = view::build(control, Name::View, &data, copies)?;
    // Before a chunk of an origin is written the kernel saves it in every snapshot of that origin that is at
    // work and has not got it, and a table is at work until the next one is: the log's own table would take what the
    // merge writes besides, fillers of gaps, and put it behind its last data, wherever in the ring that is.
    // So first another snapshot takes its place, with the same content and the view for a store, and then hands
    // the view over to the merge. A sealed COW is merged by no more than its own table has, which is saved nowhere; and
    // a sealed device that is a snapshot of the view is one that reads the log.
    if name == Name::Logged {
        replace(control, name, &layer, |origin, _, chunk| Target::Snapshot {
            origin,
            cow: view,
            chunk,
        })?;
    }
    // Before the first run is merged. The layer's new table has nobody's FLUSHes to pass on.
    quiet::begin(stack);
    replace(control, name, &layer, |origin, _, chunk| Target::SnapshotMerge {
        origin,
        cow: view,
        chunk,
    })
    .inspect_err(|_| drop(quiet::end(stack)))?;
    Ok(Bytes(first.0.saturating_add(data.bytes().0)))
}

/// Writes what is free on the card, and takes it out of `data`: see [`parts`]. The command does it itself, since the kernel's
/// merge knows no place for a FLUSH. The layer reads these chunks from its own table meanwhile, and from the card when
/// that is another one. Returns how much it was.
///
/// Killed before the end it has changed nothing that anybody reads; the next merge begins again. What was sealed is
/// merged in one part: it is in RAM alone, and the kernel goes on with it when the command is gone.
fn write_free(
    hands: &mut Hands<'_>,
    stack: &Stack,
    name: Name,
    data: &mut view::Data,
) -> Result<Bytes> {
    let Some((device, _)) = stack.card().filter(|_| name == Name::Logged) else {
        return Ok(Bytes(0));
    };
    let mut card = Direct::open_writable(&block::path(device)).map_err(refused)?;
    let olds = &mut data.table.iter().map(|exception| exception.old);
    let (total, marks) = (data.bytes(), parts::free(&mut card, olds));
    let free = data.take(&marks);
    let (bytes, rest) = (free.bytes(), data.bytes());
    if bytes.0 == 0 {
        return Ok(bytes);
    }
    let free = fill_gaps(stack, name, free, &mut { Budget::MAX })?;
    hands.meter.begin("merging", total);
    let watch = |left: Bytes| match hands.tend(Bytes(rest.0.saturating_add(left.0)).min(total)) {
        Some(signal) => Err(interrupted_before(signal)),
        None => Ok(()),
    };
    let copied = parts::copy(&free, &mut card, watch);
    hands.meter.clear();
    copied.and_then(|()| block::flush(device).map_err(refused))?;
    Ok(bytes)
}

/// What root reads through the log, by the kernel's own table, read once before anything is written: the
/// log on the card may be damaged or not readable since, and what is not right must not get into root. Checksums are
/// compared where the log still has them.
fn logged_data(hands: &mut Hands<'_>, stack: &Stack) -> Result<view::Data> {
    let seen = view::seen(stack)?;
    let Guarded { mut log, .. } = guard::check(stack, Act::Merge, hands.forget, None)?;
    let store = device(stack, Name::Log)?.number;
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
    let mut disk = Direct::open(&block::path(store))?;
    let bytes = |count: usize| Bytes(count as u64 * CHUNK_BYTES as u64);
    // A slow card takes minutes for a full log, and a shutdown may not have them.
    hands.meter.begin("checking", bytes(wanted.len()));
    let (mut bad, mut left) = (Vec::new(), wanted.len());
    for piece in wanted.chunks(PIECE) {
        if let Some(signal) = hands.tend(bytes(left)) {
            hands.meter.clear();
            return Err(interrupted_before(signal));
        }
        bad.extend(bad_chunks(&mut disk, piece.to_vec()));
        left = left.saturating_sub(piece.len());
    }
    hands.meter.clear();
    // One that is wrong says most.
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
    // Of the segment that it belongs to.
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
    // One that can't be read now asks for nothing.
    let size = Log::header_at(&block::path(log)).map_or(0, |header| u64::from(header.fill));
    Ok(if size > 1 { data.fill(card, size, copies) } else { data })
}

/// Makes sure that nothing in the log counts, before root is written to past it. Refuses while root reads through
/// the log, or while the log may hold flushes that root does not have. `let_be`: root has all of it, and it could not be
/// emptied.
///
/// A log that can't be written to is let be: its segments are told by root's superblock, which is
/// about to change.
pub fn retire_log(stack: &Stack, let_be: bool) -> Result<()> {
    retire(stack, false, let_be)
}

fn retire(stack: &Stack, forget: bool, let_be: bool) -> Result<()> {
    if stack.is_under_root(Name::Logged) {
        return Err(explain(Trouble::Foreign(Name::Logged)));
    }
    // Whoever has just seen that it holds nothing more needs no second look.
    let checked = guard::check(stack, Act::Retire, forget || let_be, None)?;
    if let Some(mut log) = checked.log.filter(|log| !log.is_unused()) {
        let _ = log.reset(0);
    }
    Ok(())
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
        Step::Remove(name) => control.remove(name),
        Step::Append
        | Step::StartMerge(_)
        | Step::AwaitMerge(_)
        | Step::Unlink(_)
        | Step::Reseat => Ok(()),
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

/// Puts root on the sealed device, which has taken over what its COW holds. The fresh COW is kept until root
/// has it: the kernel drops a table that it can't swap in, and a loop device with its last user.
fn reseat(hands: &Hands<'_>, stack: &Stack) -> Result<()> {
    let (root, sealed) = (device(stack, Name::Root)?, device(stack, Name::Sealed)?);
    let (fresh, target) = match sealed.target() {
        Some(Target::Snapshot { chunk, .. }) => {
            let used = sealed.usage().map_or(hands.limit, |usage| usage.allocated.bytes());
            let fresh = cowfile::create(hands.control, hands.limit, used, hands.roof)?;
            let cow = fresh.number();
            (Some(fresh), Target::Snapshot { origin: sealed.number, cow, chunk })
        }
        _ => (None, Target::Linear { device: sealed.number, offset: Sectors(0) }),
    };
    let length = root.length().unwrap_or_default();
    hands.control.load(Name::Root, &[Line::whole(length, target)])?;
    let awake = hands.control.swap_root();
    drop(fresh);
    awake
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
/// (`direct`), for the reason that [`retire_log`] has. `merged` is for the log's figures. Returns whether that was so.
fn unlink(
    hands: &Hands<'_>,
    stack: &Stack,
    name: Name,
    direct: bool,
    merged: Bytes,
) -> Result<bool> {
    let control = hands.control;
    let layer = device(stack, name)?;
    let (Some((card, offset)), Some(length)) = (stack.card(), layer.length()) else {
        return Err(explain(Trouble::Foreign(Name::Origin)));
    };
    // By way of a view it was merged without FLUSHes, all or in part. So one now, and of the card itself, not of a
    // device that may have been told to have no cache. In place the kernel flushed after each run.
    let kept = if stack.view.is_some() { block::flush(card).map_err(refused) } else { Ok(()) };
    let kept = kept.and_then(|()| match name {
        Name::Logged => match guard::check(stack, Act::Merge, hands.forget, None)?.log {
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
        unmerge(control, stack, name)?;
    }
    let let_be = kept?;
    control.replace(name, &[Line::whole(length, Target::Linear { device: card, offset })])?;
    Ok(let_be)
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

fn interrupted_before(signal: Signal) -> Error {
    Error::new("begin the merge", format!("{signal} came"))
        .advise(
            "Nothing is lost, and no file on the card was touched: the next merge begins again.",
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_without_the_log_is_no_merge_of_the_log() {
        let mut settled = Settled::default();
        settled.merge(Name::Sealed, Bytes(4096));
        assert_eq!((settled.durable, settled.of_log().is_none()), (Bytes(4096), true));
        settled.merge(Name::Logged, Bytes(8192));
        assert_eq!((settled.durable, settled.merged), (Bytes(4096), Bytes(12_288)));
        assert_eq!(settled.of_log().unwrap().merged, Bytes(8192));
    }

    #[test]
    fn what_a_command_found_and_what_it_did_add_up() {
        let appended = |bytes| Settled {
            logged: Bytes(bytes),
            durable: Bytes(bytes),
            logging: Duration::from_millis(bytes),
            ..Settled::default()
        };
        let mut both = appended(3);
        both.add(&appended(4));
        assert_eq!((both.logged, both.durable), (Bytes(7), Bytes(7)));
        assert_eq!(both.logging, Duration::from_millis(7));
        both.merge(Name::Sealed, Bytes(5));
        assert_eq!((both.durable, both.merged), (Bytes(12), Bytes(5)));
    }

    #[test]
    fn each_error_of_a_flush_has_its_words_and_its_exit_code() {
        let sealed = || device(&Stack::default(), Name::Sealed).unwrap_err();
        for (error, said, exit) in [
            (
                explain(Trouble::NotActive),
                "cannot find cowflush's devices: root is not on a cowflush stack. Boot with",
                Exit::NotActive,
            ),
            (
                explain(Trouble::Lost(Name::Root)),
                "cannot read cowflush-root: its COW was lost (the kernel calls it Invalid), because \
                 memory ran out or a write to it failed. What was written",
                Exit::Lost,
            ),
            (
                explain(Trouble::Foreign(Name::Logged)),
                "cannot go on with cowflush-logged: its table is none that cowflush makes. Has",
                Exit::Failed,
            ),
            (
                sealed(),
                "cannot go on with the flush: cowflush-sealed is gone. Did another tool",
                Exit::Failed,
            ),
            (
                interrupted_append(Signal::SIGTERM),
                "cannot append to the flush log: SIGTERM came. Nothing is lost",
                Exit::Interrupted,
            ),
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
                merge_failed(&Stack::default()),
                "cannot merge into the card: a write to the card failed. Nothing is lost",
                Exit::Card,
            ),
        ] {
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.exit_code(), exit, "{error}");
        }
    }
}
