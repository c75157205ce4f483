//! A machine that is simulated: its root, the commands that are run on it, and what must be true
//! after each of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;

use nix::sys::signal::Signal;

use super::kernel::{CHUNKS, Dead, Fate, LOG, ROOT, Sim};
use crate::boot::bringup;
use crate::boot::messages::BootMessages;
use crate::boot::stacking::Prior;
use crate::error::{Exit, Result};
use crate::flush::flushlog::FlushLog;
use crate::flush::flushlog::make::LogOptions;
use crate::flush::session::{FlushOptions, Session};
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS, Chunk};
use crate::pure::cmdline::Options;
use crate::pure::config::Config;
use crate::pure::disk::reference::Reference;
use crate::pure::flushlog::ownership::Owner;
use crate::pure::stack::{Goal, Name};
use crate::pure::units::{Bytes, DevNo};
use crate::sys::block;
use crate::sys::dm::Request;
use crate::sys::kernel::Kernel;
use crate::sys::signals;
use crate::sys::world::card::Cut;

/// What is done to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Root's filesystem writes these chunks.
    Write(Vec<u64>),
    /// `cowflush flush`, with its options.
    Flush { direct: bool, merge: bool },
    /// `cowflush merge`.
    Merge,
    /// `cowflush stop`.
    Stop,
    /// `cowflush start`.
    Start,
    /// The daemon's last resort.
    GiveUp,
    /// The power goes, and the machine boots again.
    Cut(Cut),
}

/// A machine at work.
pub struct Machine {
    pub sim: Rc<Sim>,
    version: u32,
    /// The oldest state that a boot may find: a later command said that it is durable.
    floor: usize,
    /// Root was, or may have been, written to in no order: what a cut leaves then is not asked.
    torn: bool,
    with_log: bool,
    root: DevNo,
    /// What the last boot said.
    booted: String,
    /// How the last command ended, if it was not killed and did not fail.
    exit: Option<Exit>,
    /// What a cut leaves of the card's cache, and random numbers, follow from it.
    seed: u64,
}

/// What a chunk of root is in that version. The first has a superblock.
fn chunk(number: u64, version: u32) -> Chunk {
    let mut data = [0; CHUNK_BYTES];
    for (index, word) in data.chunks_exact_mut(8).enumerate() {
        word[..4].copy_from_slice(&version.to_le_bytes());
        word[4..].copy_from_slice(&((number as u32) << 16 | index as u32).to_le_bytes());
    }
    if number == 0 {
        // As ext4 has it: its size, when it was written, its sign, its UUID.
        let superblock = &mut data[1024..2048];
        superblock.fill(0);
        superblock[4..8].copy_from_slice(&(CHUNKS as u32).to_le_bytes());
        superblock[24..28].copy_from_slice(&2u32.to_le_bytes());
        superblock[48..52].copy_from_slice(&version.to_le_bytes());
        superblock[56..58].copy_from_slice(&[0x53, 0xEF]);
        superblock[104..120].fill(7);
    }
    data
}

fn version_of(number: u64, data: &Chunk) -> Option<u32> {
    let version = u32::from_le_bytes(data[..4].try_into().unwrap());
    (*data == chunk(number, version)).then_some(version)
}

impl Machine {
    /// A machine whose root is on the stack after its first boot.
    pub fn new(with_log: bool, seed: u64) -> Self {
        let sim = Sim::new(seed);
        for number in 0..CHUNKS {
            let at = number * u64::from(CHUNK_SECTORS);
            sim.world(|world| world.write(ROOT, at, &chunk(number, 0), false)).unwrap();
        }
        if with_log {
            let (start, size) = (block::start(ROOT).unwrap(), block::size(ROOT).unwrap());
            let root = Owner { uuid: [7; 16], start, size };
            let ask = LogOptions { root, erase_block: Bytes(4096), fill: Bytes(0), label: [0; 16] };
            FlushLog::make(&block::path(LOG), &ask).unwrap();
        }
        sim.world(|world| world.flush(ROOT)).unwrap();
        sim.states.borrow_mut().push(vec![0; CHUNKS as usize]);
        let mut machine = Self {
            sim,
            version: 0,
            floor: 0,
            torn: false,
            with_log,
            root: ROOT,
            booted: String::new(),
            exit: None,
            seed,
        };
        machine.boot();
        machine.sim.ordain(&[]);
        machine
    }

    /// Boots with the shipped code. Root is the device that it would mount.
    fn boot(&mut self) {
        let options =
            Options { root: Some(Reference::Number(ROOT)), writable: true, ..Options::default() };
        let mut used = None;
        let mut said = BootMessages::default();
        let booted = bringup::root(&options, Prior::Nothing, &mut said, &mut |device: &Path, _| {
            used = Some(device.to_owned());
            Ok("rw")
        });
        self.booted = said.text();
        let booted = booted.map_err(|error| error.to_string());
        self.sim.say(format!("booted: {booted:?}\n{}", self.booted));
        self.sim.ended();
        let number = |path: std::path::PathBuf| DevNo::parse(path.to_str()?.strip_prefix("/dev/")?);
        self.root = used.and_then(number).expect("no root was mounted");
    }

    /// What root reads; `None` for a chunk that is no version of it.
    fn read(&self) -> Vec<Option<u32>> {
        let one = |number| {
            let (mut data, at) = ([0; CHUNK_BYTES], number * u64::from(CHUNK_SECTORS));
            let read = self.sim.world(|world| world.read(self.root, at, &mut data));
            read.ok().and_then(|()| version_of(number, &data))
        };
        (0..CHUNKS).map(one).collect()
    }

    fn deferring(&self) -> bool {
        let root = self.sim.world(|world| world.number_of(Name::Root.text()));
        root == Some(self.root)
    }

    /// Does one thing, with these fates at its calls; then judges. Returns how many calls there
    /// were.
    pub fn act(&mut self, act: &Act, fates: &[(usize, Fate)]) -> usize {
        self.sim.say(format!("--- {act:?} {fates:?}"));
        self.sim.ordain(fates);
        match act {
            Act::Write(chunks) => {
                self.version += 1;
                for number in chunks.iter().map(|number| number % CHUNKS) {
                    let (data, at) =
                        (chunk(number, self.version), number * u64::from(CHUNK_SECTORS));
                    let root = self.root;
                    if self.sim.world(|world| world.write(root, at, &data, false)).is_ok() {
                        self.sim.wrote.borrow_mut()[number as usize] = self.version;
                    }
                }
                // What goes straight to the card may be torn by a cut.
                self.torn |= self.is_written_through();
                self.judge();
                0
            }
            Act::Cut(cut) => {
                self.cut(*cut);
                0
            }
            command => self.command(command),
        }
    }

    fn is_written_through(&self) -> bool {
        let root = Name::Root.text();
        !self.deferring()
            || self.sim.world(|world| {
                let table = world.request(Request::Table, root, &[], "");
                table.is_ok_and(|table| table.targets.iter().all(|row| row.kind == "linear"))
            })
    }

    fn command(&mut self, act: &Act) -> usize {
        let unsafe_now = !self.with_log
            || matches!(
                act,
                Act::Flush { direct: true, .. } | Act::Stop | Act::GiveUp | Act::Start
            );
        let written_through = self.is_written_through();
        let torn_before = self.torn;
        self.torn |= unsafe_now;
        let done = self.run(act);
        self.exit = done.as_ref().and_then(|done| done.as_ref().ok()).copied();
        let calls = self.sim.ordain(&[]);
        match done {
            None if self.sim.is_cut() => {
                self.sim.say("the power has gone".to_owned());
                self.cut(Cut::Any);
                return calls;
            }
            None => self.sim.say("it was killed".to_owned()),
            Some(Ok(exit)) => {
                self.sim.say(format!("exit {exit:?}"));
                if exit == Exit::Done
                    && *act != Act::Merge
                    && (*act != Act::Start || written_through)
                {
                    // All that was written before it began is durable, whatever becomes of the
                    // machine.
                    self.floor = self.sim.states.borrow().len();
                    let now = self.sim.wrote.borrow().clone();
                    self.sim.states.borrow_mut().push(now);
                    self.torn = false;
                } else if exit == Exit::Done {
                    self.torn = torn_before;
                }
            }
            Some(Err(error)) => self.sim.say(format!("it failed: {error}")),
        }
        self.judge();
        calls
    }

    /// Runs a command. `None`: its process was killed.
    fn run(&self, act: &Act) -> Option<Result<Exit>> {
        let config = Config { prune: false, ..Config::default() };
        let work = AssertUnwindSafe(|| -> Result<Exit> {
            let mut signals = signals::hold(&[Signal::SIGTERM], &[])?;
            let session = Session::begin("flush", &config, &mut signals, &mut |_| false)?;
            let session = session.showing(Meter::silent());
            Ok(match act {
                Act::Flush { direct, merge } => {
                    let wish = Goal { direct: *direct, ..Goal::default() };
                    let how = FlushOptions { direct: *direct, merge: *merge, hurry: false };
                    session.settled(wish)?.flush(how)?.exit()
                }
                Act::Merge => session.merged().map(|_| Exit::Done)?,
                Act::Stop => session.settled_anyhow()?.stop()?.exit(),
                Act::Start => session.settled(Goal::default())?.start().map(|_| Exit::Done)?,
                _ => session.settled(Goal::default())?.give_up_deferring().map(|()| Exit::Done)?,
            })
        });
        let done = catch_unwind(work);
        let done = match done {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Dead>() => None,
            Err(payload) => resume_unwind(payload),
        };
        // Its helpers may be killed, too, by a later fate.
        let ended = catch_unwind(AssertUnwindSafe(|| self.sim.ended()));
        if let Err(payload) = ended {
            if !payload.is::<Dead>() {
                resume_unwind(payload);
            }
            self.sim.ended();
        }
        done
    }

    /// Root reads what was last written, unless it sleeps, which the next command mends.
    fn judge(&mut self) {
        let asleep = self.sim.world(|world| world.waits(self.root).is_some());
        if !asleep {
            let expected: Vec<_> =
                self.sim.wrote.borrow().iter().map(|version| Some(*version)).collect();
            assert_eq!(self.read(), expected, "what root reads");
        }
    }

    /// The next command settles, and nothing is left over.
    pub fn settle(&mut self) {
        if self.root == ROOT {
            // No command works on the plain card, which a boot takes for one reason alone here.
            assert!(self.booted.contains("boots in a row on the stack"), "a boot left the stack");
            return;
        }
        self.act(&Act::Flush { direct: false, merge: false }, &[]);
        // What the filesystem could not write out once is told until the next boot.
        let unwritten = self.sim.text(Path::new("/run/cowflush/unwritten")).is_ok();
        let well = self.exit == Some(Exit::Done) || self.exit == Some(Exit::Failed) && unwritten;
        assert!(well, "the next command does not settle");
        let left = self.sim.world(|world| world.devices_by_name());
        let left: Vec<_> = left.into_iter().map(|(name, _)| name).collect();
        for name in [Name::Sealed, Name::View] {
            assert!(!left.iter().any(|left| left == name.text()), "{left:?} is left");
        }
        let most = (CHUNKS + 16) * CHUNK_BYTES as u64;
        assert!(self.sim.world(|world| world.taken()) <= most, "memory leaks");
    }

    /// The power goes, and the machine boots. It finds a state that was flushed, none older than
    /// what a command has said is durable.
    fn cut(&mut self, cut: Cut) {
        let (trace, states) = (self.sim.trace(), self.sim.states.borrow().clone());
        let sim = Sim::on(self.sim.after_the_cut(cut), self.seed);
        self.sim = sim;
        trace.into_iter().for_each(|line| self.sim.say(line));
        self.boot();
        let found = self.read();
        if !self.torn {
            let states = &states[self.floor.min(states.len() - 1)..];
            let is = |state: &Vec<u32>| state.iter().zip(&found).all(|(a, b)| Some(*a) == *b);
            assert!(states.iter().any(is), "a boot finds {found:?}, none of {states:?}");
        }
        // From here on this is what root has.
        let now: Vec<_> = found.iter().map(|version| version.unwrap_or(0)).collect();
        for (number, version) in (0..).zip(&found) {
            if version.is_none() {
                let at = number * u64::from(CHUNK_SECTORS);
                let (root, data) = (self.root, chunk(number, 0));
                let _ = self.sim.world(|world| world.write(root, at, &data, false));
            }
        }
        *self.sim.wrote.borrow_mut() = now.clone();
        *self.sim.states.borrow_mut() = vec![now];
        // A torn chunk is mended in RAM only, until a command makes that durable.
        (self.floor, self.torn) = (0, found.contains(&None));
        self.sim.ordain(&[]);
    }
}
