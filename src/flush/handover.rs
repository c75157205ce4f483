//! A handover: root is suspended, and the sealed device takes over what root's COW holds. The code
//! here only sends prepared requests; it allocates nothing, prints nothing and touches no file. The
//! guard process may have to do any of it.
//!
//! Each call may fail, and the kernel may have dropped a loaded table when it does. So after a
//! failure this process, or the guard, reads the tables and asks [`plan::wake`] what to do, as the
//! next command would.

use std::time::Duration;

use nix::errno::Errno;

use crate::pure::dm::{Line, SnapshotStatus, Target};
use crate::pure::stack::plan::{self, Way};
use crate::pure::stack::{Name, Stack, Step};
use crate::sys::dm::{Control, Message, Request};
use crate::sys::time::{self, Instant};

/// How many steps are tried before root is left suspended for the next command to wake up; four are
/// enough where none fails. And the pause after a failed one.
const TURNS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(20);

/// The requests of a seal, prepared.
pub struct Seal(Messages);

/// What becomes of root's filesystem in a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It is frozen already.
    Before,
    /// The suspend freezes it, which writes out what the page cache holds.
    Within,
    /// It can't be frozen: its COW refuses writes, or would before the page cache is written out. A
    /// writer may then wait for that in a system call for good, and a freeze waits for such a
    /// writer.
    Never,
}

/// A seal that was done.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    /// How long root was suspended.
    pub stall: Duration,
    /// The filesystem was frozen, so that the sealed device holds it complete. One that shut
    /// down after errors can't be frozen; then the sealed device is as after a power cut.
    pub frozen: bool,
}

/// The part of a handover that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Another program has frozen root's filesystem.
    Freeze,
    /// Root could not be suspended.
    Suspend,
    /// The sealed device could not take over root's exceptions.
    Handover,
    /// Root did not resume with its new table.
    Resume,
}

/// A handover that failed. Root is awake again on its old table, or suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The first failure.
    pub at: Moment,
    /// The kernel's error there.
    pub errno: Errno,
    /// Root could not be woken up: that failed as well.
    pub asleep: bool,
}

/// A call to the kernel in a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Suspend root.
    Suspend { freeze: bool },
    /// Resume root or the sealed device, with its loaded table if it has one.
    Resume(Name),
    /// Drop its loaded table.
    Clear(Name),
    /// Remove the sealed device.
    Remove(Name),
    /// Load the table that was prepared.
    Load,
}

/// The kernel's device-mapper as a handover sees it.
trait Kernel {
    fn call(&mut self, call: Call) -> Result<(), Errno>;
    /// Root and the sealed device.
    fn observe(&mut self) -> Result<Stack, Errno>;
    /// Before another try.
    fn pause(&mut self);
}

/// The messages of a handover to the kernel, and their answers.
struct Messages {
    root: Box<Message>,
    sealed: Box<Message>,
    /// For reading the tables.
    root_table: Box<Message>,
    sealed_table: Box<Message>,
    /// A table that may have to be loaded.
    load: Box<Message>,
}

impl Messages {
    fn new(load: Box<Message>) -> Self {
        let (root, sealed) = (|| Message::about(Name::Root), || Message::about(Name::Sealed));
        Self { root: root(), sealed: sealed(), root_table: root(), sealed_table: sealed(), load }
    }
}

impl Kernel for (&Control, &mut Messages) {
    fn call(&mut self, call: Call) -> Result<(), Errno> {
        let (control, messages) = self;
        let (request, name) = match call {
            Call::Load => return control.run(Request::Load, &mut messages.load),
            Call::Suspend { freeze } => (Request::Suspend { freeze }, Name::Root),
            // A frozen filesystem of root thaws here; it is never frozen again around a swap.
            Call::Resume(name) => (Request::Resume { freeze: false }, name),
            Call::Clear(name) => (Request::Clear, name),
            Call::Remove(name) => (Request::Remove, name),
        };
        let message = match name {
            Name::Root => &mut messages.root,
            _ => &mut messages.sealed,
        };
        control.run(request, message)
    }

    fn observe(&mut self) -> Result<Stack, Errno> {
        let (control, messages) = self;
        let read = |info, table| control.read_device(info, table).map_err(|(_, errno)| errno);
        Ok(Stack {
            root: read(&mut messages.root, &mut messages.root_table)?,
            sealed: read(&mut messages.sealed, &mut messages.sealed_table)?,
            ..Stack::default()
        })
    }

    fn pause(&mut self) {
        time::pause(PAUSE);
    }
}

impl Seal {
    /// Prepares the requests. Both devices must have their new tables loaded when it runs; `root`
    /// is root's. The devices that it reads must exist until the handover is over, in case the
    /// table is loaded again.
    pub fn prepare(root: Line) -> Self {
        Self(Messages::new(Message::load(Name::Root, &[root])))
    }

    /// Suspends root, lets the sealed device take its exceptions over, resumes root on its new
    /// table.
    ///
    /// The order: root's I/O must have ended and its filesystem be frozen before the exceptions
    /// move, since from that moment the sealed device's content is what a flush writes; and
    /// root must not wake up before they have moved, since its new table reads through the
    /// sealed device.
    pub fn run(&mut self, control: &Control, freeze: Freeze) -> Result<Sealed, Failed> {
        let begin = Instant::now();
        let frozen = seal(&mut (control, &mut self.0), freeze)?;
        Ok(Sealed { stall: begin.elapsed(), frozen })
    }

    /// The first half of [`Self::run`]: root stays suspended, until [`Self::rescue`]. As nothing is
    /// frozen the sealed device is as after a power cut: a freeze would change the superblock again
    /// when it ends, and that change would come after what is sealed.
    pub fn hold(&mut self, control: &Control) -> Result<(), Failed> {
        hold(&mut (control, &mut self.0))
    }

    /// Wakes root up on the right table, in the guard. Returns whether root is awake then.
    pub fn rescue(&mut self, control: &Control) -> bool {
        mend(&mut (control, &mut self.0)).is_some()
    }
}

/// The requests that let a failed merge under a write-through root start again, prepared.
///
/// The kernel forgets a merge's failure only with a new table, and moves exceptions from a merge
/// to a merge only by way of a plain snapshot. While the sealed device is one, nothing may be
/// written to it: after a merge its store no longer knows which chunks are free. So root is
/// suspended meanwhile.
pub struct Restart(Messages);

impl Restart {
    /// Prepares the requests. The sealed device must have the plain snapshot loaded; `merge` is
    /// the table that follows.
    pub fn prepare(merge: Line) -> Self {
        Self(Messages::new(Message::load(Name::Sealed, &[merge])))
    }

    /// Suspends root, goes through the plain snapshot to a new merge, resumes root. The filesystem
    /// need not be frozen: its I/O must rest, but nothing is sealed here. Since its card failed
    /// it may have shut down, and could not be frozen.
    pub fn run(&mut self, control: &Control) -> Result<(), Failed> {
        restart(&mut (control, &mut self.0))
    }

    /// Finishes [`Self::run`], in the guard. Returns whether root is awake then.
    pub fn rescue(&mut self, control: &Control) -> bool {
        mend(&mut (control, &mut self.0)).is_some()
    }
}

/// Returns whether the filesystem was frozen.
fn seal(kernel: &mut impl Kernel, freeze: Freeze) -> Result<bool, Failed> {
    let freezes = freeze == Freeze::Within
        && match kernel.call(Call::Suspend { freeze: true }) {
            // The kernel's answer for a filesystem that is frozen (`freeze_super` in fs/super.c);
            // since 6.8 two programs may freeze at once.
            Err(errno @ Errno::EBUSY) => {
                return Err(Failed { at: Moment::Freeze, errno, asleep: false });
            }
            suspended => suspended.is_ok(),
        };
    if !freezes {
        suspend(kernel)?;
    }
    let frozen = freezes || freeze == Freeze::Before;
    let failed = match kernel.call(Call::Resume(Name::Sealed)) {
        Err(errno) => Failed { at: Moment::Handover, errno, asleep: false },
        Ok(()) => match kernel.call(Call::Resume(Name::Root)) {
            Err(errno) => Failed { at: Moment::Resume, errno, asleep: false },
            Ok(()) => return Ok(frozen),
        },
    };
    match mend(kernel) {
        // The seal was completed after all.
        Some(stack) if stack.is_under_root(Name::Sealed) => Ok(frozen),
        stack => Err(Failed { asleep: stack.is_none(), ..failed }),
    }
}

fn hold(kernel: &mut impl Kernel) -> Result<(), Failed> {
    suspend(kernel)?;
    kernel.call(Call::Resume(Name::Sealed)).map_err(|errno| {
        let asleep = mend(kernel).is_none();
        Failed { at: Moment::Handover, errno, asleep }
    })
}

fn restart(kernel: &mut impl Kernel) -> Result<(), Failed> {
    suspend(kernel)?;
    let restarted = kernel
        .call(Call::Resume(Name::Sealed))
        .and_then(|()| kernel.call(Call::Load))
        .and_then(|()| kernel.call(Call::Resume(Name::Sealed)))
        .map_err(|errno| Failed { at: Moment::Handover, errno, asleep: false })
        .and_then(|()| {
            let resumed = kernel.call(Call::Resume(Name::Root));
            resumed.map_err(|errno| Failed { at: Moment::Resume, errno, asleep: false })
        });
    let Err(failed) = restarted else { return Ok(()) };
    let merges = |stack: &Stack| {
        stack.sealed.is_some_and(|sealed| {
            matches!(sealed.target(), Some(Target::SnapshotMerge { .. }))
                && sealed.status() != SnapshotStatus::MergeFailed
        })
    };
    match mend(kernel) {
        Some(stack) if merges(&stack) => Ok(()),
        stack => Err(Failed { asleep: stack.is_none(), ..failed }),
    }
}

fn suspend(kernel: &mut impl Kernel) -> Result<(), Failed> {
    kernel.call(Call::Suspend { freeze: false }).map_err(|errno| Failed {
        at: Moment::Suspend,
        errno,
        asleep: false,
    })
}

/// Lets root go on, from whatever state the devices are in. Returns their state then; `None` when
/// root is still suspended.
fn mend(kernel: &mut impl Kernel) -> Option<Stack> {
    let mut way = Way::Back;
    for _ in 0..TURNS {
        let taken = kernel.observe().map(|stack| (stack, plan::wake(&stack, way)));
        let done = match taken {
            Ok((stack, Ok(None))) => return Some(stack),
            Ok((_, Ok(Some(step)))) => take(kernel, step),
            // Another tool has changed something.
            Ok((stack, Err(_))) => return stack.root.filter(|root| !root.suspended).map(|_| stack),
            Err(errno) => Err(errno),
        };
        if done.is_err() {
            // A table that can't be dropped can be used, and the other way round.
            way = match way {
                Way::Back => Way::Forward,
                Way::Forward => Way::Back,
            };
            kernel.pause();
        }
    }
    None
}

/// One step of [`plan::wake`].
fn take(kernel: &mut impl Kernel, step: Step) -> Result<(), Errno> {
    match step {
        Step::Resume(name) => kernel.call(Call::Resume(name)),
        Step::Clear(name) => kernel.call(Call::Clear(name)),
        Step::Remove(name) => kernel.call(Call::Remove(name)),
        Step::MoveRoot => {
            kernel.call(Call::Load)?;
            kernel.call(Call::Resume(Name::Root))
        }
        Step::MergeInPlace => {
            kernel.call(Call::Load)?;
            kernel.call(Call::Resume(Name::Sealed))
        }
        // Steps that root asleep does not need.
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::dm::status::Usage;
    use crate::pure::stack::fixtures::*;
    use crate::pure::stack::{Device, Goal, Live};
    use crate::pure::units::{DevNo, Sectors};

    /// The COW that another command would make.
    const THIRD_COW: DevNo = DevNo { major: 7, minor: 2 };

    /// A table as drivers/md/dm-snap.c keeps it.
    #[derive(Clone, Copy, Debug)]
    struct Table {
        target: Target,
        valid: bool,
        /// It was resumed.
        active: bool,
        /// It has the table of the old COW's chunks.
        holds: bool,
        merge_failed: bool,
    }

    impl Table {
        fn new(target: Target) -> Self {
            Self { target, valid: true, active: false, holds: false, merge_failed: false }
        }

        fn live(target: Target) -> Self {
            Self { active: true, holds: true, ..Self::new(target) }
        }

        fn parts(&self) -> Option<(DevNo, DevNo)> {
            match self.target {
                Target::Snapshot { origin, cow, .. }
                | Target::SnapshotMerge { origin, cow, .. } => Some((origin, cow)),
                _ => None,
            }
        }

        fn merges(&self) -> bool {
            matches!(self.target, Target::SnapshotMerge { .. })
        }

        fn reads_sealed(&self) -> bool {
            match self.target {
                Target::Linear { device, .. } => device == SEALED,
                _ => self.parts().is_some_and(|(origin, _)| origin == SEALED),
            }
        }
    }

    #[derive(Clone, Copy, Debug, Default)]
    struct Mapped {
        live: Option<Table>,
        loaded: Option<Table>,
        suspended: bool,
    }

    /// What becomes of a call.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        /// It fails, and nothing else.
        Fails,
        /// The kernel can't swap the loaded table in, and drops it (`do_resume` in
        /// drivers/md/dm-ioctl.c).
        Drops,
        /// Its process is killed before it.
        Killed,
        /// Another program has frozen the filesystem.
        Frozen,
    }

    /// The kernel.
    #[derive(Clone, Debug)]
    struct Model {
        root: Mapped,
        sealed: Option<Mapped>,
        /// What a load loads, and where.
        prepared: (Name, Target),
        faults: Vec<(usize, Fate)>,
        calls: usize,
        killed: bool,
        said: Vec<String>,
    }

    impl Model {
        fn mapped(&mut self, name: Name) -> Option<&mut Mapped> {
            match name {
                Name::Root => Some(&mut self.root),
                _ => self.sealed.as_mut(),
            }
        }

        fn tables(&mut self) -> Vec<(Name, bool, &mut Table)> {
            let Mapped { live, loaded, suspended } = &mut self.root;
            let mut all = vec![(Name::Root, *suspended, live), (Name::Root, *suspended, loaded)];
            if let Some(Mapped { live, loaded, suspended }) = &mut self.sealed {
                all.push((Name::Sealed, *suspended, live));
                all.push((Name::Sealed, *suspended, loaded));
            }
            all.into_iter()
                .filter_map(|(name, held, table)| Some((name, held, table.as_mut()?)))
                .collect()
        }

        fn sharing(&mut self, with: &Table) -> Vec<(Name, bool, &mut Table)> {
            let parts = with.parts();
            let same = |table: &Table| parts.is_some() && table.parts() == parts;
            self.tables().into_iter().filter(|(.., table)| same(table)).collect()
        }

        /// `snapshot_dtr`: a handover that waits is cancelled. `table` is no device's any more.
        fn destroy(&mut self, table: Option<Table>) {
            let Some(table) = table.filter(|table| table.active) else { return };
            let mut others = self.sharing(&table);
            if others.iter().any(|(.., other)| other.active) {
                return;
            }
            for (.., other) in &mut others {
                other.valid = false;
            }
        }

        fn load(&mut self) -> Result<(), Errno> {
            let (name, target) = self.prepared;
            let table = Table::new(target);
            let sharing = self.sharing(&table);
            let waits = sharing.iter().any(|(.., other)| !other.active);
            let merging = sharing.iter().any(|(.., other)| other.merges());
            if sharing.len() > 1 || waits || table.merges() && merging {
                return Err(Errno::EINVAL);
            }
            let mapped = self.mapped(name).ok_or(Errno::ENXIO)?;
            let before = mapped.loaded.replace(table);
            self.destroy(before);
            Ok(())
        }

        fn resume(&mut self, name: Name, drops: bool) -> Result<(), Errno> {
            let mapped = self.mapped(name).ok_or(Errno::ENXIO)?;
            let mut before = None;
            if let Some(table) = mapped.loaded.take() {
                mapped.suspended = true;
                if drops {
                    self.destroy(Some(table));
                    return Err(Errno::EINVAL);
                }
                before = mapped.live.replace(table);
            }
            if drops {
                return Err(Errno::EINVAL);
            }
            let live = mapped.live.ok_or(Errno::EINVAL)?;
            let held = mapped.suspended;
            // What was live before is in the kernel's list until it is destroyed.
            let own =
                before.filter(|before| before.parts().is_some() && before.parts() == live.parts());
            if held {
                let mut sharing = self.sharing(&live);
                let source = sharing.iter().position(|(.., table)| table.active);
                let waiting = sharing.iter().position(|(.., table)| !table.active);
                match (own, source, waiting) {
                    (Some(own), None, Some(waiting)) if own.active => {
                        let to = &mut sharing[waiting].2;
                        (to.holds, to.valid) = (own.holds, own.valid);
                        before = Some(Table { valid: false, active: false, ..own });
                    }
                    (None, Some(source), Some(waiting)) => {
                        if sharing[source].0 == name || !sharing[source].1 {
                            self.destroy(before);
                            return Err(Errno::EINVAL);
                        }
                        let from = *sharing[source].2;
                        (sharing[source].2.holds, sharing[source].2.valid) = (false, false);
                        (sharing[waiting].2.holds, sharing[waiting].2.valid) =
                            (from.holds, from.valid);
                    }
                    _ => {}
                }
                let mapped = self.mapped(name).unwrap();
                mapped.live.as_mut().unwrap().active = true;
                mapped.suspended = false;
            }
            self.destroy(before);
            Ok(())
        }

        fn carry_out(&mut self, call: Call, drops: bool) -> Result<(), Errno> {
            match call {
                Call::Suspend { .. } => self.root.suspended = true,
                Call::Load => self.load()?,
                Call::Resume(name) => self.resume(name, drops)?,
                Call::Clear(name) => {
                    let loaded = self.mapped(name).ok_or(Errno::ENXIO)?.loaded.take();
                    self.destroy(loaded);
                }
                Call::Remove(_) => {
                    let root = [self.root.live, self.root.loaded];
                    if root.into_iter().flatten().any(|table| table.reads_sealed()) {
                        return Err(Errno::EBUSY);
                    }
                    let sealed = self.sealed.take().ok_or(Errno::ENXIO)?;
                    self.destroy(sealed.loaded);
                    self.destroy(sealed.live);
                }
            }
            Ok(())
        }

        /// Nothing that root wrote is lost, and root reads nothing else.
        fn check(&mut self) {
            let history = self.said.join("\n");
            let held = self.tables().iter().any(|(.., table)| table.holds && table.valid);
            assert!(held, "what root wrote is lost:\n{history}\n{self:#?}");
            let live = self.root.live.unwrap();
            let below = self.sealed.and_then(|sealed| sealed.live);
            if !self.root.suspended {
                let right = match live.reads_sealed() {
                    true => live.valid && below.is_some_and(|below| below.valid && below.holds),
                    false => live.valid && live.holds,
                };
                assert!(right, "root woke up on something else:\n{history}\n{self:#?}");
                let plain = matches!(below, Some(Table { target: Target::Snapshot { .. }, .. }));
                let writes = matches!(live.target, Target::Linear { .. });
                assert!(!(plain && writes), "root writes to a store that merged:\n{history}");
            }
        }

        fn fate(&mut self) -> Option<Fate> {
            let fate = self.faults.iter().find(|(at, _)| *at == self.calls).map(|(_, fate)| *fate);
            self.calls += 1;
            self.killed |= fate == Some(Fate::Killed);
            if self.killed { Some(Fate::Killed) } else { fate }
        }

        /// Does what the next command does. Returns whether it finished.
        fn settle(&mut self) -> bool {
            let origin = Mapped { live: Some(Table::live(linear(CARD))), ..Mapped::default() };
            loop {
                let Ok(stack) = self.observe() else { return false };
                let stack = Stack { origin: Some(device(ORIGIN, &origin)), ..stack };
                match plan::next(&stack, Goal::default()).unwrap() {
                    Some(
                        step @ (Step::Resume(_)
                        | Step::Clear(_)
                        | Step::Remove(_)
                        | Step::MoveRoot
                        | Step::MergeInPlace),
                    ) => {
                        if take(self, step).is_err() {
                            return false;
                        }
                    }
                    _ => return true,
                }
            }
        }
    }

    fn device(number: DevNo, mapped: &Mapped) -> Device {
        let live = mapped.live.map(|table| {
            let (total, metadata) = (Sectors(1 << 15), Sectors(16));
            let usage = Usage { allocated: Sectors(24), total, metadata };
            let status = match table {
                Table { target: Target::Linear { .. }, .. } => SnapshotStatus::Unknown,
                Table { valid: false, .. } => SnapshotStatus::Invalid,
                Table { merge_failed: true, .. } => SnapshotStatus::MergeFailed,
                _ => SnapshotStatus::Used(usage),
            };
            Live::Single { length: LENGTH, target: table.target, status }
        });
        let (suspended, inactive) = (mapped.suspended, mapped.loaded.is_some());
        Device { number, suspended, live, inactive }
    }

    impl Kernel for Model {
        fn call(&mut self, call: Call) -> Result<(), Errno> {
            let fate = self.fate();
            let drops = matches!(call, Call::Resume(_)) && fate == Some(Fate::Drops);
            let answer = match fate {
                None => self.carry_out(call, false),
                Some(Fate::Drops) if drops => self.carry_out(call, true),
                Some(Fate::Frozen) => Err(Errno::EBUSY),
                Some(_) => Err(Errno::EIO),
            };
            self.said.push(format!("{call:?}: {fate:?}, {answer:?}"));
            self.check();
            answer
        }

        fn observe(&mut self) -> Result<Stack, Errno> {
            if self.fate().is_some() {
                return Err(Errno::ENOMEM);
            }
            let root = Some(device(ROOT, &self.root));
            let sealed = self.sealed.map(|sealed| device(SEALED, &sealed));
            Ok(Stack { root, sealed, ..Stack::default() })
        }

        fn pause(&mut self) {}
    }

    /// A handover that was prepared, and what runs it. Returns whether that says that all was done.
    type Handover = (Model, fn(&mut Model) -> Result<(), Failed>);

    fn prepared(sealed: Target, root: Target) -> Handover {
        let root_before =
            Mapped { live: Some(Table::live(snapshot(ORIGIN, OLD_COW))), ..Mapped::default() };
        let mut model = Model {
            root: root_before,
            sealed: Some(Mapped::default()),
            prepared: (Name::Sealed, sealed),
            faults: Vec::new(),
            calls: 0,
            killed: false,
            said: Vec::new(),
        };
        model.load().unwrap();
        model.prepared = (Name::Root, root);
        model.load().unwrap();
        (model, |model| seal(model, Freeze::Within).map(drop))
    }

    fn deferring() -> Handover {
        prepared(snapshot(ORIGIN, OLD_COW), snapshot(SEALED, NEW_COW))
    }

    fn writing_through() -> Handover {
        prepared(merge(ORIGIN, OLD_COW), linear(SEALED))
    }

    fn restarting() -> Handover {
        let (mut model, _) = writing_through();
        seal(&mut model, Freeze::Never).unwrap();
        model.sealed.as_mut().unwrap().live.as_mut().unwrap().merge_failed = true;
        model.prepared = (Name::Sealed, snapshot(ORIGIN, OLD_COW));
        model.load().unwrap();
        model.prepared = (Name::Sealed, merge(ORIGIN, OLD_COW));
        (Model { calls: 0, said: Vec::new(), ..model }, restart)
    }

    /// Held, and let go without anything that a last step does in between.
    fn holding() -> Handover {
        let (model, _) = deferring();
        (model, |model| {
            hold(model)?;
            match mend(model) {
                Some(stack) if stack.is_under_root(Name::Sealed) => Ok(()),
                stack => {
                    Err(Failed { at: Moment::Resume, errno: Errno::EIO, asleep: stack.is_none() })
                }
            }
        })
    }

    /// Runs a process in a handover, its guard if it is killed, and then commands until one
    /// finishes. Returns how many calls there were.
    fn live_through((start, handover): &Handover, faults: &[(usize, Fate)]) -> usize {
        let mut model = Model { faults: faults.to_vec(), ..start.clone() };
        let ended = handover(&mut model);
        let history = |model: &Model| format!("{faults:?} {ended:?}\n{}", model.said.join("\n"));
        if !model.killed {
            let asleep = ended.is_err_and(|failed| failed.asleep);
            assert_eq!(model.root.suspended, asleep, "{}", history(&model));
            let moved = model.root.live.unwrap().reads_sealed();
            assert!(moved || ended.is_err(), "{}", history(&model));
        } else {
            model.killed = false;
            let woken = mend(&mut model).is_some();
            assert!(model.killed || woken != model.root.suspended, "{}", history(&model));
        }
        if model.prepared.0 == Name::Root && !matches!(model.prepared.1, Target::Linear { .. }) {
            model.prepared.1 = snapshot(SEALED, THIRD_COW);
        }
        // Each fault ends a command, at most.
        let commands = (0..=faults.len()).position(|_| {
            model.killed = false;
            model.settle()
        });
        assert!(commands.is_some(), "{}\n{model:#?}", history(&model));
        assert!(!model.root.suspended && model.root.loaded.is_none(), "{}", history(&model));
        if let Some(sealed) = model.sealed {
            assert!(model.root.live.unwrap().reads_sealed(), "{}", history(&model));
            assert!(!sealed.suspended && sealed.loaded.is_none(), "{}", history(&model));
        }
        model.calls
    }

    fn every_fault(handover: &Handover, faults: &mut Vec<(usize, Fate)>, more: usize) -> usize {
        let calls = live_through(handover, faults);
        let mut runs = 1;
        if more > 0 {
            let first = faults.last().map_or(0, |(at, _)| at + 1);
            for at in first..calls {
                for fate in [Fate::Fails, Fate::Drops, Fate::Killed] {
                    faults.push((at, fate));
                    runs += every_fault(handover, faults, more - 1);
                    faults.pop();
                }
            }
        }
        runs
    }

    /// Each call of a handover, of what mends it, of its guard and of the commands after it fails
    /// in turn, or its process is killed, up to three times in a run.
    #[test]
    fn whatever_fails_in_a_handover_nothing_is_lost_and_root_wakes_up_on_what_it_wrote() {
        for (handover, least) in [
            (deferring(), 5_000),
            (writing_through(), 5_000),
            (restarting(), 5_000),
            (holding(), 5_000),
        ] {
            let runs = every_fault(&handover, &mut Vec::new(), 3);
            assert!(runs > least, "{runs}");
        }
    }

    #[test]
    fn where_nothing_fails_a_handover_makes_no_other_call() {
        for (handover, calls) in [
            (deferring(), &["Suspend", "Resume(Sealed)", "Resume(Root)"][..]),
            (writing_through(), &["Suspend", "Resume(Sealed)", "Resume(Root)"]),
            (
                restarting(),
                &["Suspend", "Resume(Sealed)", "Load", "Resume(Sealed)", "Resume(Root)"],
            ),
        ] {
            let (mut model, run) = handover;
            run(&mut model).unwrap();
            assert_eq!(model.calls, calls.len());
            assert!(model.said.iter().zip(calls).all(|(said, call)| said.starts_with(call)));
        }
    }

    #[test]
    fn a_filesystem_that_another_program_froze_is_left_frozen() {
        for (mut model, run) in [deferring(), writing_through()] {
            model.faults = vec![(0, Fate::Frozen)];
            let failed = Failed { at: Moment::Freeze, errno: Errno::EBUSY, asleep: false };
            assert_eq!((run(&mut model), model.calls), (Err(failed), 1));
            assert!(model.settle() && model.sealed.is_none() && !model.root.suspended);
        }
    }

    /// A loaded table that the kernel drops is loaded again, by the process, the guard or the next
    /// command.
    #[test]
    fn a_seal_whose_last_table_is_dropped_is_done_all_the_same() {
        for (mut model, run) in [deferring(), writing_through()] {
            model.faults = vec![(2, Fate::Drops)];
            assert_eq!(run(&mut model), Ok(()));
            assert!(!model.root.suspended && model.root.live.unwrap().reads_sealed());
        }
        for (mut model, run) in [deferring(), writing_through()] {
            model.faults = vec![(2, Fate::Drops), (3, Fate::Killed)];
            assert!(run(&mut model).is_err() && model.root.suspended);
            model.killed = false;
            assert!(mend(&mut model).is_some() && model.root.live.unwrap().reads_sealed());
        }
    }
}
