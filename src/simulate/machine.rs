//! A machine that is simulated: its root, the commands that are run on it, and what must be true
//! after each of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;

use nix::sys::signal::Signal;

use super::content::{RENAMED, UNKNOWN, chunk, version_of};
use super::kernel::{CHUNKS, Dead, Fate, LOG, LOG_CHUNKS, ROOT, Refusing, Sim};
use crate::boot::bringup;
use crate::boot::messages::BootMessages;
use crate::boot::stacking::Prior;
use crate::error::{Exit, Result};
use crate::flush::flushlog::FlushLog;
use crate::flush::flushlog::make::LogOptions;
use crate::flush::session::{FlushOptions, Session};
use crate::notes::hold;
use crate::output::progress::Meter;
use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS};
use crate::pure::cmdline::Options;
use crate::pure::config::Config;
use crate::pure::disk::reference::Reference;
use crate::pure::dm::Target;
use crate::pure::flushlog::ownership::Owner;
use crate::pure::stack::{Goal, Name};
use crate::pure::units::{Bytes, DevNo};
use crate::sys::block;
use crate::sys::dm::Request;
use crate::sys::kernel::Kernel;
use crate::sys::signals;
use crate::sys::world::card::Cut;
use crate::sys::world::image::SECTOR;

/// What is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Root's filesystem writes these chunks, a bit each.
    Write(u32),
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
    /// The power goes, and the machine boots again. What happens meanwhile happens to the boot.
    Cut(Cut),
    /// The card refuses something from now on.
    Refuses(Refusing),
    /// The card takes everything again, and there is memory.
    Recovers,
    /// The card loses something that is in the log: which of its chunks that are no zeros, and what
    /// is there then.
    Garbles(u64, Garble),
    /// Root's COW has no room for more.
    Fills,
    /// Memory for so many chunks more is left.
    Shrinks(u64),
    /// The owner gives root another UUID.
    Renames,
    /// Nothing is done for a while.
    Waits,
}

/// What a card has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garble {
    /// One byte of the chunk's first sector.
    Byte,
    /// The first sector is as if it was erased.
    Erased,
    /// The chunk is zeros.
    Zeros,
}

/// A machine at work.
pub struct Machine {
    pub sim: Rc<Sim>,
    /// The oldest state that a boot may find: a later command said that it is durable.
    floor: usize,
    /// Root was, or may have been, written to in no order: what a cut leaves then is not asked.
    torn: bool,
    with_log: bool,
    /// What the last boot said.
    booted: String,
    /// The last boot met a fault.
    troubled: bool,
    /// How the last command ended, if it was not killed.
    exit: Option<Exit>,
    /// The card has lost something of the log since the last boot.
    garbled: bool,
    /// A command that merges did not come to its end, or came after the card had lost something.
    half_merged: bool,
    /// There was too little memory in this boot.
    shrunk: bool,
    /// All states that were sealed before the last boot.
    ever: Vec<Vec<u32>>,
    /// Boots that found less than what was durable, and said so, after a cut that had damaged more
    /// than what was being written.
    pub lost: usize,
    /// What a cut leaves of the card's cache, and random numbers, follow from it.
    seed: u64,
}

impl Machine {
    /// A machine whose root is on the stack after its first boot.
    pub fn new(with_log: bool, seed: u64) -> Self {
        Self::on_card(with_log, seed, Bytes(4 * CHUNK_BYTES as u64), Bytes(CHUNK_BYTES as u64))
    }

    /// The same, with a card that erases so much at once, and a log whose segments begin at a
    /// multiple of `align`.
    pub fn on_card(with_log: bool, seed: u64, erase_block: Bytes, align: Bytes) -> Self {
        let sim = Sim::new(seed, erase_block);
        for number in 0..CHUNKS {
            let at = number * u64::from(CHUNK_SECTORS);
            sim.world(|world| world.write(ROOT, at, &chunk(number, 0), false)).unwrap();
        }
        if with_log {
            let (start, size) = (block::start(ROOT).unwrap(), block::size(ROOT).unwrap());
            let root = Owner { uuid: [7; 16], start, size };
            let ask = LogOptions { root, erase_block: align, fill: Bytes(0), label: [0; 16] };
            let mut log = FlushLog::make(&block::path(LOG), &ask).unwrap();
            // Some begin near the end of the ring.
            if seed.is_multiple_of(3) {
                log.chain.next.position = LOG_CHUNKS - 30;
                log.reset(0).unwrap();
            }
        }
        sim.world(|world| world.flush(ROOT)).unwrap();
        sim.states.borrow_mut().push(vec![0; CHUNKS as usize]);
        let mut machine = Self {
            sim,
            floor: 0,
            torn: false,
            with_log,
            booted: String::new(),
            troubled: false,
            exit: None,
            garbled: false,
            half_merged: false,
            shrunk: false,
            ever: Vec::new(),
            lost: 0,
            seed,
        };
        assert!(machine.boot(), "no root was mounted");
        machine.sim.ordain(&[]);
        machine
    }

    /// Boots with the shipped code. Returns whether it would mount a root.
    fn boot(&mut self) -> bool {
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
        self.sim.say(|| format!("booted: {booted:?}\n{}", self.booted));
        self.sim.ended();
        let number = |path: std::path::PathBuf| DevNo::parse(path.to_str()?.strip_prefix("/dev/")?);
        let root = used.and_then(number);
        self.sim.root.set(root.unwrap_or_default());
        root.is_some()
    }

    /// What root reads; `None` for a chunk that is no version of it.
    fn read(&self) -> Vec<Option<u32>> {
        let one = |number| {
            let (mut data, at) = ([0; CHUNK_BYTES], number * u64::from(CHUNK_SECTORS));
            let read = self.sim.look(self.sim.root.get(), at, &mut data);
            read.ok().and_then(|()| version_of(number, &data))
        };
        (0..CHUNKS).map(one).collect()
    }

    fn is_asleep(&self) -> bool {
        self.sim.world(|world| world.waits(self.sim.root.get()).is_some())
    }

    /// What the kernel says of root's snapshot.
    fn status(&self) -> String {
        let status = self
            .sim
            .world(|world| world.request(Request::TargetStatus, Name::Root.text(), &[], ""));
        let row = status.ok().and_then(|answer| answer.targets.into_iter().next());
        row.map(|row| row.params).unwrap_or_default()
    }

    /// The kernel has given up root's COW. Between a handover and root's new table it says so of a
    /// root that sleeps, and means the old one.
    fn is_lost(&self) -> bool {
        !self.is_asleep() && self.status() == "Invalid"
    }

    /// Does one thing, with these fates at its calls; then judges. Returns how many calls there
    /// were.
    pub fn act(&mut self, act: &Act, fates: &[(usize, Fate)]) -> usize {
        self.sim.say(|| format!("--- {act:?} {fates:?}"));
        let commands =
            matches!(act, Act::Flush { .. } | Act::Merge | Act::Stop | Act::Start | Act::GiveUp);
        self.sim.ordain(if commands { fates } else { &[] });
        match *act {
            Act::Write(chunks) => self.sim.write(chunks),
            Act::Cut(cut) => return self.cut(cut, fates),
            Act::Refuses(trouble) => self.sim.refuse(trouble),
            Act::Recovers => self.sim.recover(),
            Act::Garbles(which, with) => self.garble(which, with),
            Act::Fills => self.fill(),
            Act::Shrinks(chunks) => {
                self.shrunk = true;
                let more = chunks * CHUNK_BYTES as u64;
                self.sim.world(|world| world.memory = Some(world.taken() + more));
            }
            Act::Renames => {
                let version = self.sim.version.get();
                self.sim.version.set(version.max(RENAMED));
                self.sim.write(1);
            }
            Act::Waits => self.sim.pause(std::time::Duration::from_secs(1)),
            _ => return self.command(act, fates),
        }
        // What goes straight to the card may be torn by a cut.
        self.torn |= self.sim.wrote_through.take();
        self.judge();
        0
    }

    /// The card loses something of the log. What root reads then is what it is.
    fn garble(&mut self, which: u64, with: Garble) {
        let (before, was_asleep) = (self.read(), self.is_asleep());
        let mut old = [0; CHUNK_BYTES];
        self.sim.world(|world| {
            let (_, start) = world.place(LOG).unwrap();
            let card = world.card(LOG).unwrap();
            let at = |number: u64| start + number * u64::from(CHUNK_SECTORS);
            let mut data = [0; CHUNK_BYTES];
            let mut is_used = |number: &u64| {
                card.look(at(*number), &mut data);
                data.iter().any(|byte| *byte != 0)
            };
            let used: Vec<_> = (0..LOG_CHUNKS).filter(&mut is_used).collect();
            let Some(number) = used.get(which as usize % used.len().max(1)) else { return };
            card.look(at(*number), &mut data);
            match with {
                Garble::Byte => data[17] ^= 0x20,
                Garble::Erased => data[..SECTOR].fill(0xFF),
                Garble::Zeros => data.fill(0),
            }
            card.look(at(*number), &mut old);
            card.garble(at(*number), &data);
        });
        self.garbled = true;
        // What root does not read there yet it may read later.
        let of = u64::from(u16::from_le_bytes([old[6], old[7]]));
        if of < CHUNKS && version_of(of, &old).is_some() {
            self.sim.is_unknown(of);
        }
        for ((number, before), after) in (0..).zip(before).zip(self.read()) {
            // A root that sleeps can't be asked.
            if before != after || was_asleep {
                self.sim.is_unknown(number);
            }
        }
    }

    /// Root's COW has no room for more.
    fn fill(&self) {
        let stack = self.sim.control().and_then(|control| control.stack());
        let target = stack.ok().and_then(|stack| stack.root).and_then(|root| root.target());
        let used = self.status().split('/').next().and_then(|used| used.parse::<u64>().ok());
        if let (Some(Target::Snapshot { cow, .. }), Some(used)) = (target, used) {
            let _ = self.sim.world(|world| world.set_limit(cow, used * SECTOR as u64));
        }
    }

    fn command(&mut self, act: &Act, fates: &[(usize, Fate)]) -> usize {
        let unsafe_now = !self.with_log
            || matches!(
                act,
                Act::Flush { direct: true, .. } | Act::Stop | Act::GiveUp | Act::Start
            );
        let written_through = self.sim.is_written_through();
        let (was_lost, overflowed) = (self.is_lost(), self.sim.overflowed.get());
        self.torn |= self.sim.wrote_through.take();
        let torn_before = self.torn;
        self.torn |= unsafe_now;
        let (sealed_before, begin) =
            (self.sim.states.borrow().len(), self.sim.wrote.borrow().clone());
        let done = self.run(act);
        self.exit = done.as_ref().map(|done| match done {
            Ok(exit) => *exit,
            Err(error) => error.exit_code(),
        });
        let calls = self.sim.ordain(&[]);
        self.half_merged |= self.garbled || self.exit != Some(Exit::Done);
        match done {
            None if self.sim.is_cut() => {
                self.sim.say(|| "the power has gone".to_owned());
                self.torn |= self.sim.wrote_through.take();
                self.cut(Cut::Any, &[]);
                return calls;
            }
            None => {
                self.sim.say(|| "it was killed".to_owned());
                // Nothing else has happened, so its guard had all that it needs.
                let alone = matches!(fates, [(_, Fate::Killed)]);
                assert!(!alone || !self.is_asleep(), "nobody wakes root up");
            }
            Some(Ok(exit)) => {
                self.sim.say(|| format!("exit {exit:?}"));
                let of_root = exit == Exit::Done && !matches!(act, Act::Merge | Act::Start);
                assert!(!of_root || !was_lost, "it is done with a COW that is lost");
                let flushes = matches!(act, Act::Flush { .. } | Act::Stop);
                let all = exit != Exit::Done || !flushes || !overflowed;
                assert!(all, "it is done, and root was refused writes");
                if exit == Exit::Done
                    // A last resort says nothing: what it has sealed is merged after it.
                    && !matches!(act, Act::Merge | Act::GiveUp)
                    && (*act != Act::Start || written_through)
                {
                    // All that was written before it began is durable, whatever becomes of the
                    // machine.
                    let mut states = self.sim.states.borrow_mut();
                    if *act == Act::Start || states.len() == sealed_before {
                        states.push(begin);
                        self.floor = states.len() - 1;
                    } else {
                        self.floor = sealed_before;
                    }
                    self.torn = self.sim.wrote_through.take();
                    let merged = !matches!(act, Act::Flush { direct: false, merge: false });
                    self.half_merged &= self.garbled || !merged;
                } else if exit == Exit::Done && *act != Act::GiveUp {
                    self.torn = torn_before;
                }
            }
            Some(Err(error)) => self.sim.say(|| format!("it failed: {error}")),
        }
        self.torn |= self.sim.wrote_through.take();
        self.judge();
        calls
    }

    /// Runs a command. `None`: its process was killed.
    fn run(&self, act: &Act) -> Option<Result<Exit>> {
        let config = Config { prune: false, ..Config::default() };
        let work = AssertUnwindSafe(|| -> Result<Exit> {
            let mut signals = signals::hold(&[Signal::SIGTERM], &[])?;
            let session = Session::begin("flush", &config, &mut signals, &mut |_| false)?;
            // Who asks for that drops what can't be read of the log.
            let forget = matches!(act, Act::Flush { direct: true, .. });
            let session = session.showing(Meter::silent()).forgetting(forget);
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
        if self.is_lost() {
            assert!(self.shrunk, "root's COW is lost, and there was memory");
            return;
        }
        if !self.is_asleep() {
            let (read, wrote) = (self.read(), self.sim.wrote.borrow());
            assert!(is(&wrote, &read), "root reads {read:?}, and not {wrote:?}");
        }
    }

    /// The next command settles, and nothing is left over.
    pub fn settle(&mut self) {
        self.sim.recover();
        if self.sim.root.get() == ROOT {
            // No command works on the plain card, which a boot takes for these reasons alone here.
            let counted = self.booted.contains("boots in a row on the stack");
            assert!(counted || self.troubled, "a boot left the stack");
            return;
        }
        let flush = |direct| Act::Flush { direct, merge: false };
        if self.is_lost() {
            self.act(&flush(false), &[]);
            // What an earlier flush has left comes first, and may be refused by the card.
            let said = matches!(self.exit, Some(Exit::Lost | Exit::Card));
            assert!(said, "a COW that is lost: {:?}", self.exit);
            return;
        }
        // What an owner is told to do about a card that can't be read as it should be.
        let ways = [flush(false), Act::Merge, flush(false), flush(true)];
        let mut well = false;
        for way in ways {
            self.act(&way, &[]);
            // What could not be written once is told until the next boot.
            let unwritten = self.sim.text(Path::new("/run/cowflush/unwritten")).is_ok();
            let told = unwritten || self.sim.overflowed.get();
            well = self.exit == Some(Exit::Done) || self.exit == Some(Exit::Failed) && told;
            well &= way != Act::Merge;
            if well || way != Act::Merge && self.exit != Some(Exit::Card) {
                break;
            }
        }
        if !well && self.garbled {
            // The last advice: to boot, and go on from the last flush that is intact.
            self.cut(Cut::InOrder(usize::MAX), &[]);
            return;
        }
        assert!(well, "the next command does not settle");
        assert!(!self.is_asleep() && !self.sim.holds_back(), "somebody waits for root");
        let left = self.sim.world(|world| world.devices_by_name());
        let left: Vec<_> = left.into_iter().map(|(name, _)| name).collect();
        for name in [Name::Sealed, Name::View] {
            assert!(!left.iter().any(|left| left == name.text()), "{left:?} is left");
        }
        let most = (CHUNKS + 16) * CHUNK_BYTES as u64;
        assert!(self.sim.world(|world| world.taken()) <= most, "memory leaks");
    }

    /// The power goes, and the machine boots. It finds a state that was flushed, none older than
    /// what a command has said is durable. If that boot meets a fault, it may say so instead, and
    /// the next boot finds it.
    fn cut(&mut self, cut: Cut, fates: &[(usize, Fate)]) -> usize {
        let states = self.sim.states.borrow().clone();
        let lost: Vec<_> = (0..CHUNKS as usize)
            .filter(|number| self.sim.wrote.borrow()[*number] == UNKNOWN)
            .collect();
        let mut calls = 0;
        // No filesystem writes before it is mounted.
        let fates: Vec<_> =
            fates.iter().filter(|(_, fate)| !matches!(fate, Fate::Writes(_))).copied().collect();
        let (mut cut, mut fates) = (cut, &fates[..]);
        let neighbours = self.sim.cut().unwrap_or(cut) == Cut::Neighbours;
        let found = loop {
            let (trace, version) = (self.sim.trace(), self.sim.version.get());
            self.sim = Sim::on(self.sim.after_the_cut(cut), self.seed);
            trace.into_iter().for_each(|line| self.sim.say(|| line));
            self.sim.version.set(version);
            self.sim.ordain(fates);
            self.troubled = !fates.is_empty();
            let mounted = match catch_unwind(AssertUnwindSafe(|| self.boot())) {
                Ok(mounted) => mounted,
                // A boot that dies takes the machine with it.
                Err(payload) if payload.is::<Dead>() => false,
                Err(payload) => resume_unwind(payload),
            };
            calls += self.sim.ordain(&[]);
            assert!(mounted || self.troubled, "no root was mounted");
            if mounted {
                let found = self.read();
                let fits = |state: &Vec<u32>| {
                    (0..).zip(state).zip(&found).all(|((number, state), found)| {
                        *state == UNKNOWN || Some(*state) == *found || lost.contains(&number)
                    })
                };
                let young = states[self.floor.min(states.len() - 1)..].iter().any(fits);
                if self.torn || young {
                    break found;
                }
                if self.garbled || neighbours {
                    self.lost += usize::from(neighbours);
                    assert!(self.tells_of_loss(), "a boot lost flushes without a word: {found:?}");
                    let old = self.half_merged || states.iter().chain(&self.ever).any(fits);
                    assert!(old, "a boot finds {found:?}, no state that there ever was");
                    break found;
                }
                assert!(self.troubled, "a boot finds {found:?}, none of {states:?}");
                assert!(self.tells_of_loss(), "a boot found {found:?} and did not say so");
                self.passes_by_nothing();
            }
            self.sim.say(|| "the power goes again".to_owned());
            (cut, fates) = (Cut::InOrder(usize::MAX), &[]);
        };
        // From here on this is what root has.
        let now: Vec<_> = found.iter().map(|version| version.unwrap_or(0)).collect();
        for (number, version) in (0..).zip(&found) {
            if version.is_none() {
                let at = number * u64::from(CHUNK_SECTORS);
                let (root, data) = (self.sim.root.get(), chunk(number, 0));
                let _ = self.sim.world(|world| world.write(root, at, &data, false));
            }
        }
        *self.sim.wrote.borrow_mut() = now.clone();
        *self.sim.states.borrow_mut() = vec![now];
        self.ever.extend(states);
        // A torn chunk is mended in RAM only, until a command makes that durable.
        (self.floor, self.torn) = (0, found.contains(&None));
        // A header that is damaged stays so until the next merge.
        self.garbled &= self.booted.contains("damaged");
        (self.half_merged, self.shrunk) = (self.torn, false);
        calls
    }

    /// Whether a boot said that flushes are missing, or may be.
    fn tells_of_loss(&self) -> bool {
        // An error begins with "cannot"; this boot's own sentence about a stack has none of these.
        ["lost", "LOST", "can't be read", "REFUSED", "damaged", "boots in a row", "cannot "]
            .iter()
            .any(|word| self.booted.contains(word))
    }

    /// A boot could not read all that was flushed: no command writes something that forgets it.
    fn passes_by_nothing(&mut self) {
        // While the owner has to decide about the log, the commands themselves refuse.
        let asks = hold::is_for_log();
        if self.seed.is_multiple_of(2) && self.sim.root.get() != ROOT && !asks {
            self.sim.write(0b1010);
            let done = self.run(&Act::Flush { direct: false, merge: false });
            self.sim.say(|| format!("a flush: {:?}", done.as_ref().map(|done| done.as_ref().ok())));
            let done = matches!(done, Some(Ok(Exit::Done)));
            assert!(!done, "a flush is done past flushes that could not be read");
        }
    }
}

/// Whether what was read is what was written, as far as anybody can know that.
fn is(wrote: &[u32], read: &[Option<u32>]) -> bool {
    wrote.iter().zip(read).all(|(wrote, read)| *wrote == UNKNOWN || Some(*wrote) == *read)
}
