//! A machine for tests of what changes a stack: root on a card, with or without a flush log, on [`Model`].

use std::path::PathBuf;
use std::rc::Rc;

use super::context::{Context, ThrottleOf};
use super::handover::Freeze;
use super::settle::settle;
use super::settled::Settled;
use super::{cow_device, seal};
use crate::error::Result;
use crate::flush::flushlog::FlushLog;
use crate::flush::flushlog::make::LogOptions;
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS, Chunk};
use crate::pure::config::Config;
use crate::pure::dm::{Line, Target};
use crate::pure::flushlog::ownership::Owner;
use crate::pure::stack::{Goal, Name, Stack};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::disk::Disk;
use crate::sys::model::Model;
use crate::sys::signals::{self, Held};
use crate::sys::{block, lock};
use crate::throttle::Throttle;

pub const CARD: DevNo = DevNo { major: 8, minor: 1 };
pub const LOG: DevNo = DevNo { major: 8, minor: 2 };
/// Chunks of root.
pub const CHUNKS: u64 = 64;
const LOG_CHUNKS: u64 = 512;
const LIMIT: Bytes = Bytes(1 << 20);

/// What root holds: each chunk is filled with its version.
pub type Content = Vec<u8>;

pub struct Machine {
    pub model: Rc<Model>,
    pub context: Context<'static>,
    /// What root must show.
    pub content: Content,
    log: Option<PathBuf>,
    card: PathBuf,
}

impl Machine {
    /// A root that defers its writes.
    pub fn new(with_log: bool) -> Self {
        let model = Model::new();
        let control = model.control();
        let card = model.disk(CARD, CHUNKS);
        let linear = |device| Target::Linear { device, offset: Sectors(0) };
        let length = Sectors(CHUNKS * u64::from(CHUNK_SECTORS));
        let origin = control.create(Name::Origin).unwrap();
        control.replace(Name::Origin, &[Line::whole(length, linear(CARD))]).unwrap();
        let log = with_log.then(|| {
            let path = model.disk(LOG, LOG_CHUNKS);
            let root = Owner { size: length, ..Owner::default() };
            let ask = LogOptions { root, erase_block: Bytes(4096), fill: Bytes(0), label: [0; 16] };
            FlushLog::make(&path, &ask).unwrap();
            control.create(Name::Log).unwrap();
            let whole = Line::whole(block::size(LOG).unwrap(), linear(LOG));
            control.replace(Name::Log, &[whole]).unwrap();
            path
        });
        control.create(Name::Root).unwrap();
        let cow = cow_device::create(&control, LIMIT, Bytes(0), Bytes::MAX).unwrap();
        let root = Target::Snapshot { origin, cow: cow.number(), chunk: CHUNK_SECTORS };
        control.replace(Name::Root, &[Line::whole(length, root)]).unwrap();
        lock::take(&control).unwrap();
        let throttle = ThrottleOf::Command(Throttle::ready(&control).unwrap());
        let signals: &'static mut Held = Box::leak(Box::new(signals::hold(&[], &[]).unwrap()));
        let config: &'static Config = Box::leak(Box::default());
        let context = Context {
            control,
            throttle,
            meter: Meter::silent(),
            signals,
            config,
            limit: LIMIT,
            log_capacity: Bytes::MAX,
            frozen: false,
            forget: false,
        };
        model.said();
        model.looks();
        model.ordain(None);
        Self { model, context, content: vec![0; CHUNKS as usize], log, card }
    }

    /// Root's filesystem writes that version of each of these chunks.
    pub fn write(&mut self, chunks: impl IntoIterator<Item = u64>, version: u8) {
        for chunk in chunks {
            self.model.write(Name::Root.text(), chunk, &[version; CHUNK_BYTES]);
            self.content[chunk as usize] = version;
        }
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

    /// Root shows what was written to it last.
    pub fn check(&self) {
        let root = self.context.control.device(Name::Root).unwrap().unwrap();
        let shown: Vec<_> = (0..CHUNKS).map(|chunk| self.model.read(root.number, chunk)).collect();
        assert_eq!(versions(&shown), self.content, "what root shows");
    }

    /// What a boot after a power cut would find now, were everything on the card that was written to it.
    pub fn after_a_cut(&self) -> Content {
        let mut card = Disk::open(&self.card).unwrap();
        let mut found: Vec<_> = (0..CHUNKS).map(|chunk| card.chunk(chunk).unwrap()).collect();
        if let Some(path) = &self.log {
            let mut log = FlushLog::open_read_only(path).unwrap();
            let mut disk = Disk::open(path).unwrap();
            for live in log.verify() {
                found[live.old as usize] = disk.chunk(live.place).unwrap();
            }
        }
        versions(&found)
    }
}

fn versions(chunks: &[Chunk]) -> Content {
    let version = |chunk: &Chunk| {
        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "a chunk is torn");
        chunk[0]
    };
    chunks.iter().map(version).collect()
}
