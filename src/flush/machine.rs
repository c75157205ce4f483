//! A machine for tests of what changes a stack: root on a card, with or without a flush log, on a
//! simulated kernel ([`Sim`]).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use super::context::{Context, ThrottleOf};
use super::figures::Settled;
use super::handover::Freeze;
use super::settle::settle;
use super::{cow_device, seal};
use crate::error::{Error, Result};
use crate::flush::flushlog::FlushLog;
use crate::flush::flushlog::make::LogOptions;
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS, Chunk};
use crate::pure::config::Config;
use crate::pure::dm::{Line, Target};
use crate::pure::flushlog::ownership::Owner;
use crate::pure::stack::{Goal, Name, Stack};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::simulate::kernel::{DISK, Dead, Fate, Sim};
use crate::sys::disk::Disk;
use crate::sys::dm::Control;
use crate::sys::signals::{self, Held};
use crate::sys::world::World;
use crate::sys::world::card::{Card, Refusal};
use crate::sys::{block, lock};
use crate::throttle::Throttle;

pub const CARD: DevNo = DevNo { major: 8, minor: 1 };
pub const LOG: DevNo = DevNo { major: 8, minor: 2 };
/// Chunks of root.
pub const CHUNKS: u64 = 64;
const LOG_CHUNKS: u64 = 512;
const LIMIT: Bytes = Bytes(1 << 20);
const PER_CHUNK: u64 = CHUNK_SECTORS as u64;

/// What root holds: each chunk is filled with its version.
pub type Content = Vec<u8>;

/// A call that asks for a change, as it was made.
pub struct Change {
    /// Its number among all calls since the last [`Machine::ordain`].
    pub number: usize,
    /// It, with short names.
    pub text: String,
}

pub struct Machine {
    pub sim: Rc<Sim>,
    pub context: Context<'static>,
    /// What root must show.
    pub content: Content,
    with_log: bool,
    /// How much of the trace was told.
    told: Cell<usize>,
}

impl Machine {
    /// A root that defers its writes.
    pub fn new(with_log: bool) -> Self {
        let mut world = World::default();
        let size = (CHUNKS + LOG_CHUNKS + 1) * PER_CHUNK;
        world.cards.push(Card::new(size, 4 * PER_CHUNK));
        world.add_part(DISK, 0, 0, size);
        world.add_part(CARD, 0, PER_CHUNK, CHUNKS * PER_CHUNK);
        if with_log {
            world.add_part(LOG, 0, (1 + CHUNKS) * PER_CHUNK, LOG_CHUNKS * PER_CHUNK);
        }
        let sim = Sim::on(world, 1);
        let control = Control::open().unwrap();
        let linear = |device| Target::Linear { device, offset: Sectors(0) };
        let length = Sectors(CHUNKS * PER_CHUNK);
        let origin = control.create(Name::Origin).unwrap();
        control.replace(Name::Origin, &[Line::whole(length, linear(CARD))]).unwrap();
        if with_log {
            let root = Owner { size: length, ..Owner::default() };
            let ask = LogOptions { root, erase_block: Bytes(4096), fill: Bytes(0), label: [0; 16] };
            FlushLog::make(&block::path(LOG), &ask).unwrap();
            control.create(Name::Log).unwrap();
            let whole = Line::whole(block::size(LOG).unwrap(), linear(LOG));
            control.replace(Name::Log, &[whole]).unwrap();
        }
        control.create(Name::Root).unwrap();
        let cow = cow_device::create(&control, LIMIT, Bytes(0), Bytes::MAX).unwrap();
        let root = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
        control.replace(Name::Root, &[Line::whole(length, root)]).unwrap();
        drop(cow);
        let context = context();
        let content = vec![0; CHUNKS as usize];
        let machine = Self { sim, context, content, with_log, told: Cell::new(0) };
        machine.ordain(&[]);
        machine
    }

    /// What is to happen at which of the calls that come, counted from 1 on.
    pub fn ordain(&self, fates: &[(usize, Fate)]) {
        self.sim.ordain(fates);
        self.told.set(self.sim.trace().len());
    }

    /// The calls that asked for a change since the last [`Self::ordain`].
    pub fn changes(&self) -> Vec<Change> {
        self.calls().iter().filter_map(|call| change(call)).collect()
    }

    /// The changes alone, as they were made.
    pub fn said(&self) -> Vec<String> {
        self.changes().into_iter().map(|change| change.text).collect()
    }

    /// How many requests read a table since the last [`Self::ordain`].
    pub fn looks(&self) -> usize {
        let looks = |call: &&String| {
            let what = call.split(": ").nth(1).unwrap_or_default();
            ["TargetStatus ", "Table ", "Status "].iter().any(|request| what.starts_with(request))
        };
        self.calls().iter().filter(looks).count()
    }

    fn calls(&self) -> Vec<String> {
        self.sim.trace().split_off(self.told.get())
    }

    /// Lets the card refuse writes to root, or take them again.
    pub fn refuse_writes(&self, refuse: bool) {
        self.sim.world(|world| {
            world.card(CARD).unwrap().refuses = Vec::new();
            if refuse {
                let sectors = PER_CHUNK..(1 + CHUNKS) * PER_CHUNK;
                let refusal = Refusal { sectors, writes: true, left: None };
                world.card(CARD).unwrap().refuses.push(refusal);
            }
        });
    }

    /// Root's filesystem writes that version of each of these chunks.
    pub fn write(&mut self, chunks: impl IntoIterator<Item = u64>, version: u8) {
        let root = self.root();
        for chunk in chunks {
            let data = [version; CHUNK_BYTES];
            self.sim.world(|world| world.write(root, chunk * PER_CHUNK, &data, false)).unwrap();
            self.content[chunk as usize] = version;
        }
    }

    fn root(&self) -> DevNo {
        self.sim.world(|world| world.number_of(Name::Root.text())).unwrap()
    }

    /// Seals root's COW.
    pub fn seal(&mut self) -> Result<()> {
        let stack = self.context.observe()?;
        let after = seal::After::Defer { limit: LIMIT, log_capacity: Bytes::MAX };
        seal::run(&mut self.context, &stack, after, Freeze::Never).map(drop)
    }

    /// Settles what is there.
    pub fn settle(&mut self, goal: Goal) -> Result<(Settled, Stack)> {
        let stack = self.context.observe()?;
        settle(&mut self.context, stack, goal)
    }

    /// As [`Self::settle`], by a command that may be killed. The next command is another process.
    pub fn settle_or_be_killed(&mut self, goal: Goal) -> Result<()> {
        let settled = catch_unwind(AssertUnwindSafe(|| self.settle(goal).map(drop)));
        settled.unwrap_or_else(|payload| {
            if !payload.is::<Dead>() {
                resume_unwind(payload);
            }
            self.sim.ended();
            // What the dead process would do at its end is not done.
            std::mem::forget(std::mem::replace(&mut self.context, context()));
            Err(Error::new("settle", "the command was killed"))
        })
    }

    /// Root shows what was written to it last, unless it is suspended, which the next command mends.
    pub fn check_unless_suspended(&self) {
        let root = self.root();
        if self.sim.world(|world| world.waits(root)).is_none() {
            self.check();
        }
    }

    /// Root shows what was written to it last.
    pub fn check(&self) {
        let root = self.root();
        let read = |chunk| {
            let mut data = [0; CHUNK_BYTES];
            self.sim.world(|world| world.read(root, chunk * PER_CHUNK, &mut data)).unwrap();
            data
        };
        assert_eq!(versions((0..CHUNKS).map(read)), self.content, "what root shows");
    }

    /// What a boot after a power cut would find now, were everything on the card that was written to it.
    pub fn after_a_cut(&self) -> Content {
        let mut card = Disk::open(&block::path(CARD)).unwrap();
        let mut found: Vec<_> = (0..CHUNKS).map(|chunk| card.chunk(chunk).unwrap()).collect();
        if self.with_log {
            let path = block::path(LOG);
            let mut log = FlushLog::open_read_only(&path).unwrap();
            let mut disk = Disk::open(&path).unwrap();
            for live in log.verify() {
                found[live.old as usize] = disk.chunk(live.place).unwrap();
            }
        }
        versions(found)
    }
}

/// A command's own, as its session makes it.
fn context() -> Context<'static> {
    let control = Control::open().unwrap();
    lock::take(&control).unwrap();
    let throttle = ThrottleOf::Command(Throttle::ready(&control).unwrap());
    let signals: &'static mut Held = Box::leak(Box::new(signals::hold(&[], &[]).unwrap()));
    let config: &'static Config = Box::leak(Box::default());
    Context {
        control,
        throttle,
        meter: Meter::silent(),
        signals,
        config,
        limit: LIMIT,
        log_capacity: Bytes::MAX,
        frozen: false,
        forget: false,
    }
}

/// What a call of the trace asks for, if that changes something.
fn change(call: &str) -> Option<Change> {
    let (number, what) = call.split_once(": ")?;
    let number = number.parse().ok()?;
    let short = |name: &str| name.trim_start_matches("cowflush-").to_owned();
    let words: Vec<_> = what.split(' ').collect();
    let text = match words[..] {
        ["load", name, ..] => {
            let rows = what.split_once(": ")?.1.split("; ");
            let kinds: Vec<_> = rows.filter_map(|row| row.split(' ').next()).collect();
            format!("load {} {}", short(name), kinds.join(", "))
        }
        ["rename", from, to, ..] => format!("rename {} {}", short(from), short(to)),
        ["write", mode, "for", device, ..] => format!("write {mode} {device}"),
        ["FLUSH", device, ..] => format!("flush {}", DevNo::parse(device)?),
        [request @ ("Create" | "Remove" | "Clear" | "Resume" | "Suspend"), ..] => {
            let name = words.iter().find(|word| word.starts_with("cowflush-"))?;
            format!("{} {}", request.to_lowercase(), short(name))
        }
        _ => return None,
    };
    Some(Change { number, text })
}

fn versions(chunks: impl IntoIterator<Item = Chunk>) -> Content {
    let version = |chunk: Chunk| {
        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "a chunk is torn");
        chunk[0]
    };
    chunks.into_iter().map(version).collect()
}
