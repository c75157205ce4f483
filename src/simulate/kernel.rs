//! The kernel of a simulated machine: devices from [`World`], and beside them what a machine has
//! for one process at a time.
//!
//! Each call that can fail is counted and written down. One of them, by its number, may fail
//! instead, or be the last that its process makes; or the power goes just before it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::error::{Doing, Error, Exit, Result};
use crate::pure::config::is_in;
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::policy::meminfo::MemInfo;
use crate::pure::stack::Name;
use crate::pure::units::{Bytes, DevNo, SECTOR_BYTES, Sectors};
use crate::sys::block::Written;
use crate::sys::devices::Candidate;
use crate::sys::dm::{Control, Message, Request};
use crate::sys::events::Happened;
use crate::sys::kernel::{self, Kernel, Opened};
use crate::sys::watch::Change;
use crate::sys::world::card::{Card, Cut, Refusal};
use crate::sys::world::image::PER_CHUNK;
use crate::sys::world::mapper::Row;
use crate::sys::world::{Chances, Done, Fail, Handle, World};
use crate::throttle::guard::{AtEnd, GuardOutcome};
use crate::throttle::worker::Work;

use super::content::{UNKNOWN, chunk};

pub const DISK: DevNo = DevNo { major: 8, minor: 0 };
pub const ROOT: DevNo = DevNo { major: 8, minor: 1 };
pub const LOG: DevNo = DevNo { major: 8, minor: 2 };
/// Chunks of root, and of the log.
pub const CHUNKS: u64 = 24;
pub const LOG_CHUNKS: u64 = 512;
/// Where the log begins: with an erase block, however large that is here.
const LOG_AT: u64 = 32;
/// A command that makes more calls than this in one step does not end.
const MOST_CALLS: usize = 20_000;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The call fails, with that one of the errors it can return.
    Fails(usize),
    /// The process is killed before the call; its helpers do what they are there for.
    Killed,
    /// The process and all its helpers are killed before the call.
    AllKilled,
    /// The guard is killed before the call.
    GuardKilled,
    /// The throttle's worker is killed before the call.
    WorkerKilled,
    /// A signal comes.
    Signal,
    /// The power goes before the call.
    Cut(Cut),
    /// From this call on the card refuses something.
    Refuses(Refusing),
    /// From this call on the card takes everything again.
    Recovers,
    /// Before the call root's filesystem writes these chunks, a bit each. It waits while root
    /// sleeps.
    Writes(u32),
}

/// What a card refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusing {
    pub place: Place,
    /// To write; otherwise to read.
    pub writes: bool,
    /// So many requests; `None`: until it recovers.
    pub left: Option<u32>,
}

/// Which sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    All,
    Root,
    Log,
    /// One of the two copies of the log's header.
    Header(bool),
    /// Four chunks of the log, from this one on.
    Part(u64),
}

impl Place {
    fn sectors(self) -> std::ops::Range<u64> {
        let log = LOG_AT;
        let chunks = match self {
            Self::All => 0..log + LOG_CHUNKS,
            Self::Root => 1..1 + CHUNKS,
            Self::Log => log..log + LOG_CHUNKS,
            Self::Header(false) => log..log + 1,
            Self::Header(true) => log + LOG_CHUNKS - 1..log + LOG_CHUNKS,
            Self::Part(first) => log + first..log + (first + 4).min(LOG_CHUNKS),
        };
        chunks.start * PER_CHUNK..chunks.end * PER_CHUNK
    }
}

thread_local! {
    /// Whether calls are written down, which takes time.
    pub static TELLS: Cell<bool> = const { Cell::new(true) };
}

/// The process that made the call is no more. What it says is for [`crate::simulate::machine`].
pub struct Dead;

/// What a machine has beside devices.
#[derive(Default)]
struct Rest {
    calls: usize,
    fates: Vec<(usize, Fate)>,
    /// How each call was called, and what came of it.
    trace: Vec<String>,
    dead: bool,
    helpers_dead: bool,
    cut: Option<(Cut, u64)>,
    signal: bool,
    /// Paths on root that changed, and nobody was told of.
    changed: Vec<String>,
    locked: bool,
    frozen: bool,
    guard: Option<(AtEnd, bool)>,
    worker: Option<Box<dyn Work>>,
    works: bool,
    notes: BTreeMap<PathBuf, String>,
    clock: Duration,
    loops: u32,
    seed: u64,
    /// The guard was killed.
    no_guard: bool,
    /// What root's filesystem waits to write.
    held: Vec<u32>,
    /// The kernel was told to refuse writes to root's partition.
    read_only: bool,
}

/// A machine's kernel.
pub struct Sim {
    own: Weak<Sim>,
    world: RefCell<World>,
    rest: RefCell<Rest>,
    /// What each chunk of root must read, and what it was whenever it was sealed.
    pub wrote: RefCell<Vec<u32>>,
    pub states: RefCell<Vec<Vec<u32>>>,
    /// The version of the last write.
    pub version: Cell<u32>,
    /// What is mounted as root.
    pub root: Cell<DevNo>,
    /// Root was written to past the COW and the log.
    pub wrote_through: Cell<bool>,
    /// The COW of a root that defers has refused a write.
    pub overflowed: Cell<bool>,
}

impl Sim {
    /// A machine with a card that is all zeros, whose kernel answers in this thread from now on.
    pub fn new(seed: u64, erase_block: Bytes) -> Rc<Self> {
        let mut world = World::default();
        let size = (LOG_AT + LOG_CHUNKS) * PER_CHUNK;
        world.cards.push(Card::new(size, erase_block.0 / SECTOR_BYTES));
        world.add_part(DISK, 0, 0, size);
        world.add_part(ROOT, 0, PER_CHUNK, CHUNKS * PER_CHUNK);
        world.add_part(LOG, 0, LOG_AT * PER_CHUNK, LOG_CHUNKS * PER_CHUNK);
        Self::on(world, seed)
    }

    /// A machine with these cards.
    pub fn on(world: World, seed: u64) -> Rc<Self> {
        let sim = Rc::new_cyclic(|own| Self {
            own: own.clone(),
            world: RefCell::new(world),
            rest: RefCell::new(Rest { seed, ..Rest::default() }),
            wrote: RefCell::new(vec![0; CHUNKS as usize]),
            states: RefCell::default(),
            version: Cell::new(0),
            root: Cell::new(ROOT),
            wrote_through: Cell::new(false),
            overflowed: Cell::new(false),
        });
        kernel::ask(sim.clone());
        sim
    }

    /// The world, to look at or to change.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.borrow_mut())
    }

    /// What is to happen at which of the calls that come, counted from 1 on. Returns how many there
    /// were since the last time.
    pub fn ordain(&self, fates: &[(usize, Fate)]) -> usize {
        let mut rest = self.rest.borrow_mut();
        rest.fates = fates.to_vec();
        std::mem::take(&mut rest.calls)
    }

    /// The calls so far, as they were.
    pub fn trace(&self) -> Vec<String> {
        self.rest.borrow().trace.clone()
    }

    /// Writes something down between the calls.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if TELLS.get() {
            self.rest.borrow_mut().trace.push(text());
        }
    }

    /// A program changes a file on root.
    pub fn change(&self, path: &str) {
        self.rest.borrow_mut().changed.push(path.to_owned());
    }

    /// Whether the power has gone.
    pub fn is_cut(&self) -> bool {
        self.rest.borrow().cut.is_some()
    }

    /// How the power went, where it went in a command.
    pub fn cut(&self) -> Option<Cut> {
        self.rest.borrow().cut.map(|(cut, _)| cut)
    }

    /// The card as the power cut left it. What it had refused it takes again.
    pub fn after_the_cut(&self, cut: Cut) -> World {
        self.recover();
        let (cut, seed) = self.rest.borrow().cut.unwrap_or((cut, self.rest.borrow().seed));
        self.world.borrow().after_a_cut(cut, seed)
    }

    /// From now on the card refuses this.
    pub fn refuse(&self, trouble: Refusing) {
        let Refusing { place, writes, left } = trouble;
        let card = &mut self.world.borrow_mut().cards[0];
        card.refuses.push(Refusal { sectors: place.sectors(), writes, left });
    }

    /// The card takes everything again. A sector that a power cut has torn still has to be
    /// written before it can be read.
    pub fn recover(&self) {
        drop(self.take_refusals());
        self.world.borrow_mut().memory = None;
    }

    fn take_refusals(&self) -> Vec<Refusal> {
        let refuses = &mut self.world.borrow_mut().cards[0].refuses;
        let torn = |refusal: &Refusal| refusal.sectors.end - refusal.sectors.start == 1;
        let (torn, others) = std::mem::take(refuses).into_iter().partition(torn);
        *refuses = torn;
        others
    }

    /// Reads whole sectors of a device, as if the card refused nothing but what is torn.
    pub fn look(&self, device: DevNo, sector: u64, into: &mut [u8]) -> Done {
        let refusals = self.take_refusals();
        let mut world = self.world.borrow_mut();
        let read = world.read(device, sector, into);
        world.cards[0].refuses.extend(refusals);
        read
    }

    /// Root's filesystem writes these chunks, or waits with that.
    pub fn write(&self, chunks: u32) {
        self.rest.borrow_mut().held.push(chunks);
        self.let_go();
    }

    /// Whether root's filesystem waits to write.
    pub fn holds_back(&self) -> bool {
        !self.rest.borrow().held.is_empty()
    }

    /// Writes that wait go on, if root is awake.
    pub fn let_go(&self) {
        let root = self.root.get();
        let stopped = {
            let rest = self.rest.borrow();
            rest.frozen || rest.dead || rest.cut.is_some()
        };
        if !self.holds_back() || stopped || self.world.borrow().waits(root).is_some() {
            return;
        }
        let (held, read_only) = {
            let mut rest = self.rest.borrow_mut();
            (std::mem::take(&mut rest.held), rest.read_only)
        };
        let through = self.is_written_through();
        let mut world = self.world.borrow_mut();
        for chunks in held {
            self.version.set(self.version.get() + 1);
            // A filesystem that has written anything writes its superblock when it is frozen: ext4's
            // has how much was ever written to it, XFS's and Btrfs's a transaction's number. A log
            // that can't be emptied is told from root by that.
            let chunks = chunks | 1;
            for number in (0..CHUNKS).filter(|number| chunks >> number & 1 > 0) {
                let data = chunk(number, self.version.get());
                let refused = root == ROOT && read_only;
                if !refused && world.write(root, number * PER_CHUNK, &data, false).is_ok() {
                    self.wrote.borrow_mut()[number as usize] = self.version.get();
                } else if !through {
                    self.overflowed.set(true);
                }
            }
        }
        self.wrote_through.set(self.wrote_through.get() || through);
    }

    /// Whether root's writes go past COW and log.
    pub fn is_written_through(&self) -> bool {
        let world = &mut *self.world.borrow_mut();
        let name = Name::Root.text();
        world.number_of(name) != Some(self.root.get())
            || world
                .request(Request::Table, name, &[], "")
                .is_ok_and(|table| table.targets.iter().all(|row| row.kind == "linear"))
    }

    /// A chunk whose content nobody can know any more.
    pub fn is_unknown(&self, number: u64) {
        self.wrote.borrow_mut()[number as usize] = UNKNOWN;
    }

    /// The guard freezes root's filesystem or thaws it, unless it was killed.
    fn by_guard(&self, freezes: bool) -> std::result::Result<(), Errno> {
        let mut rest = self.rest.borrow_mut();
        if rest.no_guard {
            return Err(Errno::EPIPE);
        }
        rest.frozen = freezes;
        if let Some((_, frozen)) = &mut rest.guard {
            *frozen = freezes;
        }
        Ok(())
    }

    /// The process has ended, well or not; what it has left is done by its helpers, unless they
    /// were killed with it.
    pub fn ended(&self) {
        let (guard, worker, works) = {
            let mut rest = self.rest.borrow_mut();
            rest.dead = false;
            rest.locked = false;
            rest.signal = false;
            rest.no_guard = false;
            let works = std::mem::take(&mut rest.works);
            (rest.guard.take(), rest.worker.take(), works)
        };
        let helpers_dead = std::mem::take(&mut self.rest.borrow_mut().helpers_dead);
        if !helpers_dead && !self.is_cut() {
            if let Some(mut worker) = worker.filter(|_| works) {
                worker.end();
            }
            if let Some((mut at_end, frozen)) = guard {
                at_end(GuardOutcome::Orphaned { frozen });
            }
        }
        self.world.borrow_mut().release();
        self.let_go();
    }

    /// One call of the interface that can fail. `Some`: it does.
    fn call(&self, what: impl FnOnce() -> String, errors: &[Errno]) -> Option<Errno> {
        self.let_go();
        let fate = {
            let mut rest = self.rest.borrow_mut();
            if rest.dead {
                return Some(Errno::EIO);
            }
            rest.calls += 1;
            let calls = rest.calls;
            if calls > MOST_CALLS {
                rest.dead = true;
                drop(rest);
                panic!("it does not end");
            }
            let fate = rest.fates.iter().find(|(at, _)| *at == calls).map(|(_, fate)| *fate);
            if TELLS.get() {
                let what = what();
                rest.trace.push(match fate {
                    Some(fate) => format!("{calls}: {what}: {fate:?}"),
                    None => format!("{calls}: {what}"),
                });
            }
            fate
        };
        let mut rest = self.rest.borrow_mut();
        match fate {
            None => None,
            Some(Fate::Fails(_)) if errors.is_empty() => None,
            Some(Fate::Fails(which)) => Some(errors[which % errors.len()]),
            Some(Fate::Signal) => {
                rest.signal = true;
                None
            }
            Some(Fate::GuardKilled) => {
                (rest.guard, rest.no_guard) = (None, rest.guard.is_some());
                None
            }
            Some(Fate::WorkerKilled) => {
                (rest.worker, rest.works) = (None, false);
                None
            }
            Some(Fate::Refuses(trouble)) => {
                drop(rest);
                self.refuse(trouble);
                None
            }
            Some(Fate::Recovers) => {
                drop(rest);
                self.recover();
                None
            }
            Some(Fate::Writes(chunks)) => {
                drop(rest);
                self.write(chunks);
                None
            }
            Some(fate) => {
                rest.dead = true;
                rest.helpers_dead = fate != Fate::Killed;
                if let Fate::Cut(cut) = fate {
                    rest.cut = Some((cut, rest.seed));
                }
                drop(rest);
                resume_unwind(Box::new(Dead))
            }
        }
    }

    fn errno<T>(&self, done: Done<T>) -> std::result::Result<T, Errno> {
        done.map_err(|fail| match fail {
            Fail::Errno(errno) => errno,
            Fail::Waits(device) => {
                if std::mem::replace(&mut self.rest.borrow_mut().dead, true) {
                    return Errno::EIO;
                }
                panic!("it waits for {device}, which is suspended, for ever")
            }
        })
    }

    fn io<T>(&self, done: Done<T>) -> io::Result<T> {
        self.errno(done).map_err(|errno| io::Error::from_raw_os_error(errno as i32))
    }

    fn open_as(&self, what: What, handle: Handle) -> Box<dyn Opened> {
        let sim = self.own.upgrade().unwrap();
        Box::new(Open { sim, what, _handle: handle })
    }

    /// Time passes: the kernel merges, the worker looks.
    fn pass(&self) {
        let at_work = self.world.borrow().merging();
        for id in at_work {
            let _ = self.world.borrow_mut().merge(id);
        }
        self.step();
    }

    /// Whether the worker lives to hear what it is told. One that died holds nobody back any more.
    fn worker_hears(&self, what: &str) -> bool {
        let heard = self.call(|| what.to_owned(), &[Errno::EPIPE]).is_none();
        let mut rest = self.rest.borrow_mut();
        if !heard && !rest.dead {
            (rest.worker, rest.works) = (None, false);
        }
        heard
    }

    fn step(&self) {
        let worker = match &mut *self.rest.borrow_mut() {
            rest if rest.works => rest.worker.take(),
            _ => None,
        };
        if let Some(mut worker) = worker {
            worker.step();
            self.rest.borrow_mut().worker = Some(worker);
        }
    }
}

/// What is open.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Device(DevNo),
    File(u64),
    Root,
}

struct Open {
    sim: Rc<Sim>,
    what: What,
    _handle: Handle,
}

impl Open {
    fn name(&self) -> String {
        match self.what {
            What::Device(number) => {
                let name = self.sim.world.borrow().name_of(number).map(str::to_owned);
                name.unwrap_or_else(|| number.to_string())
            }
            What::File(file) => format!("file {file}"),
            What::Root => "/".to_owned(),
        }
    }
}

fn failed<T>(errno: Errno) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno as i32))
}

impl Opened for Open {
    fn size(&self) -> io::Result<Bytes> {
        if let Some(errno) = self.sim.call(|| format!("measure {}", self.name()), &[Errno::EIO]) {
            return failed(errno);
        }
        let world = self.sim.world.borrow();
        Ok(Bytes(match self.what {
            What::Device(device) => world.size(device) * SECTOR_BYTES,
            What::File(file) => world.file_size(file),
            What::Root => 0,
        }))
    }

    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let what = || format!("read {} at {at} + {}", self.name(), into.len());
        if let Some(errno) = self.sim.call(what, &[Errno::EIO, Errno::ENOMEM]) {
            return failed(errno);
        }
        let done = match self.what {
            What::Device(device) => {
                self.sim.world.borrow_mut().read(device, at / SECTOR_BYTES, into)
            }
            What::File(file) => self.sim.world.borrow().read_file(file, at, into),
            What::Root => Err(Errno::EISDIR.into()),
        };
        self.sim.io(done)
    }

    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()> {
        let what = || format!("write {} at {at} + {}", self.name(), from.len());
        let errors: &[Errno] = match self.what {
            What::File(_) => &[Errno::ENOSPC, Errno::ENOMEM],
            _ => &[Errno::EIO, Errno::ENOMEM],
        };
        if let Some(errno) = self.sim.call(what, errors) {
            return failed(errno);
        }
        let mut world = self.sim.world.borrow_mut();
        let done = match self.what {
            What::Device(device) => world.write(device, at / SECTOR_BYTES, from, false),
            What::File(file) => world.write_file(file, at, from),
            What::Root => Err(Errno::EISDIR.into()),
        };
        drop(world);
        self.sim.io(done)
    }

    fn sync_all(&self) -> io::Result<()> {
        if let Some(errno) = self.sim.call(|| format!("FLUSH {}", self.name()), &[Errno::EIO]) {
            return failed(errno);
        }
        let done = match self.what {
            What::Device(device) => self.sim.world.borrow_mut().flush(device),
            _ => Ok(()),
        };
        self.sim.io(done)
    }

    fn file(&self) -> u64 {
        match self.what {
            What::File(file) => file,
            _ => panic!("it is no file"),
        }
    }
}

fn number_in(path: &Path) -> Option<DevNo> {
    DevNo::parse(path.to_str()?.strip_prefix("/dev/")?)
}

const OPENS: &[Errno] = &[Errno::EIO, Errno::ENOMEM, Errno::ENOENT];

impl Kernel for Sim {
    fn mapper(&self, request: Request, message: &mut Message) -> std::result::Result<(), Errno> {
        let name = message.device().to_owned();
        let errors: &[Errno] = match request {
            Request::Suspend { .. } => &[Errno::EINTR, Errno::ENOMEM],
            Request::Resume { .. } | Request::Load | Request::LoadReadOnly => {
                &[Errno::ENOMEM, Errno::EINVAL]
            }
            Request::Remove => &[Errno::ENOMEM],
            _ => &[Errno::ENOMEM],
        };
        let what = || match request {
            Request::Load => {
                let loads = message.loads().into_iter();
                let loads = loads.map(|(.., kind, params)| format!("{kind} {params}"));
                format!("load {name}: {}", loads.collect::<Vec<_>>().join("; "))
            }
            Request::Rename => format!("rename {name}: {}", message.new_name()),
            other => format!("{other:?} {name}"),
        };
        if let Some(errno) = self.call(what, errors) {
            return Err(errno);
        }
        if matches!(request, Request::Version | Request::ListVersions) {
            return Err(Errno::ENOTTY);
        }
        let loads = matches!(request, Request::Load | Request::LoadReadOnly);
        let rows: Vec<_> = if loads { message.loads() } else { Vec::new() }
            .into_iter()
            .map(|(start, length, kind, params)| Row {
                start: start.0,
                length: length.0,
                kind,
                params,
            })
            .collect();
        let new =
            if request == Request::Rename { message.new_name().to_owned() } else { String::new() };
        let waits = {
            let mut world = self.world.borrow_mut();
            let seals = name == Name::Sealed.text()
                && matches!(request, Request::Resume { .. })
                && world
                    .request(Request::Status, &name, &[], "")
                    .is_ok_and(|is| is.loaded && !is.live);
            let answer = world.request(request, &name, &rows, &new);
            if seals && answer.is_ok() {
                self.states.borrow_mut().push(self.wrote.borrow().clone());
            }
            answer
        };
        let answer = self.errno(waits)?;
        if request == Request::Remove {
            self.world.borrow_mut().release();
            return Ok(());
        }
        self.world.borrow_mut().release();
        message.answer(answer.number, answer.suspended, answer.live, answer.loaded);
        if matches!(request, Request::TargetStatus | Request::Table) {
            let targets: Vec<_> = answer
                .targets
                .iter()
                .map(|row| {
                    (Sectors(row.start), Sectors(row.length), row.kind.as_str(), row.params.clone())
                })
                .collect();
            message.answer_targets(&targets);
        }
        Ok(())
    }

    fn name(&self, device: DevNo) -> String {
        device.to_string()
    }

    fn path(&self, device: DevNo) -> PathBuf {
        PathBuf::from(format!("/dev/{device}"))
    }

    fn size(&self, device: DevNo) -> Result<Sectors> {
        if let Some(errno) =
            self.call(|| format!("size of {device}"), &[Errno::ENOENT, Errno::ENOMEM])
        {
            return Err(errno).doing(|| "read a size");
        }
        Ok(Sectors(self.world.borrow().size(device)))
    }

    fn start(&self, device: DevNo) -> Option<Sectors> {
        self.world.borrow().place(device).map(|(_, start)| Sectors(start))
    }

    fn flush(&self, device: DevNo) -> Result<()> {
        let failed = self.call(|| format!("FLUSH {device}"), &[Errno::EIO]);
        let done = match failed {
            Some(errno) => Err(errno),
            None => {
                let done = self.world.borrow_mut().flush(device);
                self.errno(done)
            }
        };
        done.doing(|| "flush the write cache").map_err(|error| error.exit(Exit::Card))
    }

    fn write_cache(&self, device: DevNo) -> io::Result<String> {
        if let Some(errno) =
            self.call(|| format!("write cache of {device}"), &[Errno::EIO, Errno::ENOENT])
        {
            return failed(errno);
        }
        Ok(self.world.borrow().write_cache(device).to_owned())
    }

    fn set_write_cache(&self, device: DevNo, mode: &str) -> io::Result<()> {
        if let Some(errno) =
            self.call(|| format!("{mode} for {device}"), &[Errno::EIO, Errno::ENOENT])
        {
            return failed(errno);
        }
        self.world.borrow_mut().set_write_cache(device, mode);
        Ok(())
    }

    fn open(&self, path: &Path, _: bool, flags: libc::c_int) -> io::Result<Box<dyn Opened>> {
        if let Some(errno) = self.call(|| format!("open {}", path.display()), OPENS) {
            return failed(errno);
        }
        if path == Path::new("/") {
            return Ok(self.open_as(What::Root, Handle::default()));
        }
        let number = number_in(path).ok_or(io::ErrorKind::NotFound)?;
        if flags & libc::O_EXCL != 0 && self.world.borrow().is_used(number) {
            return failed(Errno::EBUSY);
        }
        let opened = self.world.borrow().open(number);
        Ok(self.open_as(What::Device(number), self.io(opened)?))
    }

    fn file_in_ram(&self, name: &str, size: Bytes) -> Result<Box<dyn Opened>> {
        if let Some(errno) =
            self.call(|| format!("make a file {name}"), &[Errno::ENOMEM, Errno::ENOSPC])
        {
            return Err(errno).doing(|| format!("make a file in RAM for {name}"));
        }
        let (file, handle) = self.world.borrow_mut().add_file(size.0, size.0 + (64 << 10));
        Ok(self.open_as(What::File(file), handle))
    }

    fn attach(
        &self,
        file: &dyn Opened,
        name: &str,
        limit: Bytes,
    ) -> Result<(Box<dyn Opened>, DevNo)> {
        if let Some(errno) = self.call(|| format!("attach {name}"), &[Errno::ENOMEM, Errno::EBUSY])
        {
            return Err(errno).doing(|| format!("attach {name}"));
        }
        let minor = {
            let mut rest = self.rest.borrow_mut();
            rest.loops += 1;
            rest.loops
        };
        let number = DevNo { major: 7, minor };
        let handle = self.world.borrow_mut().add_loop(number, file.file(), limit.0);
        Ok((self.open_as(What::Device(number), handle), number))
    }

    fn grow(&self, device: DevNo, limit: Bytes) -> Result<()> {
        if let Some(errno) = self.call(|| format!("grow {device}"), &[Errno::ENOMEM]) {
            return Err(errno).doing(|| "change the size of the COW");
        }
        let done = self.world.borrow_mut().set_limit(device, limit.0);
        self.errno(done).doing(|| "change the size of the COW")
    }

    fn stores(&self) -> Vec<(u32, bool)> {
        Vec::new()
    }

    fn store_number(&self, _: DevNo) -> Option<u32> {
        None
    }

    fn number_at(&self, path: &Path) -> Option<DevNo> {
        number_in(path).filter(|number| self.world.borrow().place(*number).is_some())
    }

    fn disk_of(&self, device: DevNo) -> Option<DevNo> {
        self.world.borrow().disk_of(device)
    }

    fn is_write_protected(&self, device: DevNo) -> bool {
        device == ROOT && self.rest.borrow().read_only
    }

    fn refuse_writes(&self, device: DevNo, refuse: bool) -> Result<()> {
        if let Some(errno) = self.call(|| format!("refuse writes: {refuse}"), &[Errno::EACCES]) {
            return Err(errno).doing(|| "refuse writes");
        }
        assert_eq!(device, ROOT, "whose writes are refused");
        self.rest.borrow_mut().read_only = refuse;
        Ok(())
    }

    fn disks(&self) -> Vec<Candidate> {
        let world = self.world.borrow();
        let candidate = |number: DevNo| {
            Candidate::of_model(&number.to_string(), number, Sectors(world.size(number)))
        };
        [DISK, ROOT, LOG].map(candidate).into()
    }

    fn pause(&self, time: Duration) {
        self.call(|| "pause".to_owned(), &[]);
        self.rest.borrow_mut().clock += time;
        self.pass();
    }

    fn clock(&self) -> Duration {
        self.rest.borrow().clock
    }

    fn written(&self, device: DevNo) -> Option<Written> {
        // The whole card's, which is more than a partition's.
        let requests = self.world.borrow_mut().card(device)?.requests[1];
        Some(Written { requests, sectors: requests })
    }

    fn mapped(&self, name: &str) -> Option<DevNo> {
        self.world.borrow().number_of(name)
    }

    fn wait(&self, millis: u64) -> Happened {
        self.call(|| format!("wait {millis} ms"), &[]);
        self.rest.borrow_mut().clock += Duration::from_millis(millis);
        self.pass();
        let rest = self.rest.borrow();
        Happened { any: rest.signal || !rest.changed.is_empty(), ..Happened::default() }
    }

    fn changed(&self, paths: &[String]) -> Option<(PathBuf, Change)> {
        let mut rest = self.rest.borrow_mut();
        let is_watched = |changed: &String| paths.iter().any(|path| is_in(changed, path));
        let found = rest.changed.iter().position(is_watched)?;
        Some((PathBuf::from(rest.changed.remove(found)), Change { on_root: true }))
    }

    fn random(&self) -> Result<u64> {
        if let Some(errno) = self.call(|| "random".to_owned(), &[Errno::ENOENT]) {
            return Err(errno).doing(|| "read /dev/urandom");
        }
        let mut rest = self.rest.borrow_mut();
        rest.seed = rest.seed.wrapping_add(1);
        let seed = rest.seed;
        Ok(Chances::new(seed).below(1 << 31) << 20 | seed)
    }

    fn control(&self) -> Result<Control> {
        if let Some(errno) = self.call(|| "open the control device".to_owned(), &[Errno::ENOMEM]) {
            return Err(errno).doing(|| "open /dev/mapper/control");
        }
        let file = std::fs::File::open("/dev/null").doing(|| "open /dev/null")?;
        Ok(Control::of(file))
    }

    fn lock(&self) -> Result<()> {
        if let Some(errno) = self.call(|| "lock".to_owned(), &[Errno::EAGAIN, Errno::ENOLCK]) {
            return match errno {
                Errno::EAGAIN => {
                    Err(Error::new("begin", "another process is at work").exit(Exit::Busy))
                }
                _ => Err(Error::new("lock", errno.desc())),
            };
        }
        self.rest.borrow_mut().locked = true;
        Ok(())
    }

    fn unlock(&self) {
        self.rest.borrow_mut().locked = false;
    }

    fn post_guard(&self, at_end: AtEnd) -> Result<()> {
        if let Some(errno) = self.call(|| "post a guard".to_owned(), &[Errno::ENOMEM]) {
            return Err(errno).doing(|| "start the guard process");
        }
        let mut rest = self.rest.borrow_mut();
        (rest.guard, rest.no_guard) = (Some((at_end, false)), false);
        Ok(())
    }

    fn guard_freezes(&self) -> std::result::Result<(), Errno> {
        if let Some(errno) = self.call(|| "freeze".to_owned(), &[Errno::EBUSY, Errno::EIO]) {
            return Err(errno);
        }
        self.by_guard(true)
    }

    fn guard_thaws(&self) -> std::result::Result<(), Errno> {
        if let Some(errno) = self.call(|| "thaw".to_owned(), &[Errno::EPIPE]) {
            return Err(errno);
        }
        self.by_guard(false)
    }

    fn dismiss_guard(&self) {
        let mut rest = self.rest.borrow_mut();
        if !rest.dead {
            rest.guard = None;
        }
    }

    fn start_worker(&self, work: Box<dyn Work>) -> Result<()> {
        if let Some(errno) = self.call(|| "start a worker".to_owned(), &[Errno::ENOMEM]) {
            return Err(errno).doing(|| "start the guard process");
        }
        let mut rest = self.rest.borrow_mut();
        (rest.worker, rest.works) = (Some(work), false);
        Ok(())
    }

    fn worker_works(&self, order: CowLimits) -> bool {
        if !self.worker_hears("the worker works") {
            return false;
        }
        {
            let mut rest = self.rest.borrow_mut();
            let Some(worker) = &mut rest.worker else { return false };
            worker.take(order);
            rest.works = true;
        }
        self.step();
        true
    }

    fn worker_rests(&self) -> bool {
        if !self.worker_hears("the worker rests") {
            return false;
        }
        let worker = {
            let mut rest = self.rest.borrow_mut();
            rest.works = false;
            rest.worker.take()
        };
        let Some(mut worker) = worker else { return false };
        worker.end();
        self.rest.borrow_mut().worker = Some(worker);
        true
    }

    fn dismiss_worker(&self) {
        if self.rest.borrow().dead {
            return;
        }
        let worker = self.rest.borrow_mut().worker.take();
        if let Some(mut worker) = worker {
            worker.end();
        }
        self.rest.borrow_mut().works = false;
    }

    fn thaw(&self) {
        let mut rest = self.rest.borrow_mut();
        if !rest.dead {
            rest.frozen = false;
        }
    }

    fn begin_to_write_out(&self) -> Result<()> {
        match self.call(|| "begin to write out".to_owned(), &[Errno::ENOMEM]) {
            Some(errno) => Err(errno).doing(|| "start a process that syncs"),
            None => Ok(()),
        }
    }

    fn write_out(&self) -> std::result::Result<(), Errno> {
        if let Some(errno) = self.call(|| "write out".to_owned(), &[Errno::EIO]) {
            return Err(errno);
        }
        let root = self.world.borrow().number_of(Name::Root.text());
        let done = root.map_or(Ok(()), |root| self.world.borrow_mut().flush(root));
        self.errno(done)
    }

    fn signal(&self) -> Option<Signal> {
        let mut rest = self.rest.borrow_mut();
        std::mem::take(&mut rest.signal).then_some(Signal::SIGTERM)
    }

    fn memory(&self) -> Result<MemInfo> {
        if let Some(errno) = self.call(|| "memory".to_owned(), &[Errno::ENOMEM]) {
            return Err(errno).doing(|| "read /proc/meminfo");
        }
        let all = Bytes(64 << 20);
        let world = self.world.borrow();
        let available = world.memory.map_or(all.0, |most| most.saturating_sub(world.taken()));
        Ok(MemInfo { total: all, available: Bytes(available), ..MemInfo::default() })
    }

    fn keep_in_memory(&self) -> Result<()> {
        match self.call(|| "lock memory".to_owned(), &[Errno::ENOMEM]) {
            Some(errno) => Err(errno).doing(|| "lock memory"),
            None => Ok(()),
        }
    }

    fn text(&self, path: &Path) -> io::Result<String> {
        let note = self.rest.borrow().notes.get(path).cloned();
        note.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put_text(&self, path: &Path, text: &str) -> io::Result<()> {
        if let Some(errno) = self.call(|| format!("write {}", path.display()), &[Errno::ENOSPC]) {
            return failed(errno);
        }
        self.rest.borrow_mut().notes.insert(path.to_owned(), text.to_owned());
        Ok(())
    }

    fn remove_text(&self, path: &Path) -> io::Result<()> {
        let mut rest = self.rest.borrow_mut();
        if rest.dead {
            return failed(Errno::EIO);
        }
        rest.notes.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
