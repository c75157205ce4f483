//! The same random requests for this model and for the kernel that it runs on: results, tables, what the targets say of
//! themselves, and contents must be alike. Where they are not, the model is wrong.
//!
//! A request that waits for a suspended device would wait for good here, so none is made: the model says which.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::image::{PER_CHUNK, SECTOR};
use super::mapper::{Answer, Row};
use super::steps::{
    CARD, CARD_NAME, NAMES, ROOM_OF_LAST, STEPS, STORES, Sequence, Step, apply, called, chunks, row,
};
use super::{Chances, Fail, Handle};
use crate::error::Result;
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::units::{Bytes, DevNo};
use crate::sys::disk::Disk;
use crate::sys::dm::Control;
use crate::sys::dm::message::{Message, Request};
use crate::sys::{block, loopdev, tmpfs};

/// How long a merge may take to show what it came to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sequence at work in both.
struct Pair {
    control: Control,
    here: Sequence,
    /// Keeps the loop devices, there and here.
    _nodes: Vec<(loopdev::Loop, Handle)>,
    /// What was done, and what came of it.
    trace: String,
    /// What was met, and how often.
    met: BTreeMap<String, usize>,
}

/// Compares sequences of these seeds; says what it met, and returns how many differed.
pub fn run(seeds: std::ops::Range<u64>) -> Result<usize> {
    let (mut differ, mut met) = (0, BTreeMap::<String, usize>::new());
    for seed in seeds {
        let mut pair = Pair::new(seed)?;
        if let Err(difference) = pair.sequence() {
            differ += 1;
            println!("seed {seed}\n{}DIFFERS: {difference}", pair.trace);
        }
        *pair.met.entry("sequences".to_owned()).or_default() += 1;
        for (what, count) in &pair.met {
            *met.entry(what.clone()).or_default() += count;
        }
        pair.end()?;
    }
    for (what, count) in met {
        println!("met: {what}: {count}");
    }
    println!("differ: {differ}");
    Ok(differ)
}

impl Pair {
    fn new(seed: u64) -> Result<Self> {
        let mut pair = Self {
            control: Control::open()?,
            here: Sequence { seeded: Chances::new(seed), ..Sequence::default() },
            _nodes: Vec::new(),
            trace: String::new(),
            met: BTreeMap::new(),
        };
        pair.add_loop(Bytes(CARD * SECTOR as u64), Bytes(2 * CARD * SECTOR as u64))?;
        for (index, chunks) in STORES.into_iter().enumerate() {
            let room = if index + 1 == STORES.len() { ROOM_OF_LAST } else { chunks };
            // Not all end with a chunk.
            let odd = if index == 3 { 3 * SECTOR as u64 } else { 0 };
            pair.add_loop(
                Bytes(chunks * CHUNK_BYTES as u64 + odd),
                Bytes((room + 1) * CHUNK_BYTES as u64),
            )?;
        }
        Ok(pair)
    }

    fn add_loop(&mut self, size: Bytes, room: Bytes) -> Result<()> {
        let file = tmpfs::with_room("model", size, room)?;
        let node = loopdev::attach(&file, "model", Bytes(0))?;
        let number = node.number();
        let (file, _) = self.here.world.add_file(size.0, room.0);
        let open = self.here.world.add_loop(number, file, 0);
        self.here.loops.push(number);
        self._nodes.push((node, open));
        Ok(())
    }

    fn sequence(&mut self) -> std::result::Result<(), String> {
        self.create(CARD_NAME)?;
        self.here.card = self.here.world.mapped[CARD_NAME].number;
        self.whole_card()?;
        for name in &NAMES[..3] {
            self.create(name)?;
        }
        self.here.plan();
        let mut taken = 0;
        for _ in 0..10 * STEPS {
            let step = self.here.next();
            if !self.here.may(&step) {
                continue;
            }
            self.step(step)?;
            taken += 1;
            if taken == STEPS {
                break;
            }
            if taken % 13 == 0 {
                self.contents()?;
            }
        }
        self.contents()
    }

    fn create(&mut self, name: &str) -> std::result::Result<(), String> {
        self.step(Step::Request(Request::Create, name.to_owned(), Vec::new(), String::new()))
    }

    /// The card takes everything.
    fn whole_card(&mut self) -> std::result::Result<(), String> {
        let rows = vec![row(0, CARD, "linear", format!("{} 0", self.here.loops[0]))];
        self.table_of_card(rows)
    }

    fn table_of_card(&mut self, rows: Vec<Row>) -> std::result::Result<(), String> {
        let request =
            |request, rows| Step::Request(request, CARD_NAME.to_owned(), rows, String::new());
        for step in
            [request(Request::Load, rows), request(Request::Resume { freeze: false }, Vec::new())]
        {
            if self.here.may(&step) {
                self.step(step)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> std::result::Result<(), String> {
        let _ = write!(self.trace, "{step}");
        let merges_before = self.here.world.merging().len();
        let shared = self.here.snapshots();
        let expected = apply(&mut self.here.world, &step);
        let found = self.really(&step);
        if let (Step::Request(Request::Create, name, ..), Some(Ok(number))) =
            (&step, &found.first())
            && let Some(mapped) = self.here.world.mapped.get_mut(name)
        {
            mapped.number = *number;
        }
        let expected: Vec<_> = expected
            .into_iter()
            .map(|done| {
                done.map(|_| ()).map_err(|fail| match fail {
                    Fail::Errno(errno) => errno,
                    Fail::Waits(_) => Errno::EDEADLK,
                })
            })
            .collect();
        let found: Vec<_> = found.into_iter().map(|done| done.map(drop)).collect();
        let _ = writeln!(self.trace, " = {}", short(&found));
        if expected != found {
            return Err(format!(
                "the model says {}, the kernel {}",
                short(&expected),
                short(&found)
            ));
        }
        for errno in found.iter().filter_map(|done| done.as_ref().err()) {
            let what = match step {
                Step::Request(request, ..) => format!("{} {}", called(request), name_of(*errno)),
                _ => format!("I/O {}", name_of(*errno)),
            };
            *self.met.entry(what).or_default() += 1;
        }
        *self.met.entry("steps".to_owned()).or_default() += 1;
        // A pair of devices had two tables, and one of them had been handed the other's content.
        let twice = |pairs: &[(DevNo, DevNo)]| {
            (1..pairs.len()).any(|at| pairs[at..].contains(&pairs[at - 1]))
        };
        if matches!(step, Step::Request(Request::Resume { .. }, ..))
            && twice(&shared)
            && !twice(&self.here.snapshots())
        {
            *self.met.entry("handover".to_owned()).or_default() += 1;
        }
        let merged = merges_before > 0 || !self.here.world.merging().is_empty();
        self.here.settle();
        self.tables(merged)
    }

    /// The kernel does it.
    fn really(&self, step: &Step) -> Vec<std::result::Result<DevNo, Errno>> {
        let nothing = DevNo::default();
        let plain = |done: Result<()>| done.map(|()| nothing).map_err(|_| Errno::EIO);
        match step {
            Step::Request(request, name, rows, new) => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| (row.start, row.length, row.kind.as_str(), row.params.as_str()))
                    .collect();
                let mut message = Message::any(name, &rows, new);
                let done = self.control.run(*request, &mut message);
                vec![done.map(|()| message.said().0)]
            }
            Step::Write(device, first, count, byte) => {
                let mut node = match Disk::open_writable(&block::path(*device)) {
                    Ok(node) => node,
                    Err(_) => return vec![Err(Errno::ENXIO)],
                };
                chunks(*first, *count, self.here.world.size(*device))
                    .map(|chunk| plain(node.write_at(chunk, &[*byte; CHUNK_BYTES])))
                    .collect()
            }
            Step::Sector(device, sector, byte) => {
                let node = Disk::open_writable(&block::path(*device));
                let at = (sector % PER_CHUNK) as usize * SECTOR;
                vec![plain(node.and_then(|mut node| {
                    node.write_sector(sector / PER_CHUNK, at, &[*byte; SECTOR])
                }))]
            }
            Step::Header(device, header) => {
                let mut sector = [0; SECTOR];
                sector[..16].copy_from_slice(header);
                let node = Disk::open_writable(&block::path(*device));
                vec![plain(node.and_then(|mut node| node.write_sector(0, 0, &sector)))]
            }
            Step::Flush(device) => {
                let node = Disk::open_writable(&block::path(*device));
                vec![plain(node.and_then(|node| node.sync()))]
            }
            Step::Limit(device, limit) => {
                let index = self.here.loops.iter().position(|number| number == device).unwrap();
                vec![plain(self._nodes[index].0.limit(Bytes(*limit)))]
            }
        }
    }

    fn ask(&self, request: Request, name: &str) -> std::result::Result<Answer, Errno> {
        let mut message = Message::any(name, &[], "");
        self.control.run(request, &mut message)?;
        let (number, [suspended, live, loaded], rows) = message.said();
        let targets = rows.into_iter().map(|(start, length, kind, params)| Row {
            start,
            length,
            kind,
            params,
        });
        Ok(Answer { number, suspended, live, loaded, targets: targets.collect() })
    }

    /// What all devices say, here and there.
    fn tables(&mut self, merged: bool) -> std::result::Result<(), String> {
        let patience = Instant::now() + if merged { PATIENCE } else { Duration::ZERO };
        let names: Vec<_> = self.here.world.mapped.keys().cloned().collect();
        for name in names {
            for request in [Request::TargetStatus, Request::Table] {
                let expected = self.here.world.request(request, &name, &[], "");
                let expected = expected.map_err(|_| Errno::EDEADLK);
                loop {
                    let found = self.ask(request, &name);
                    if found == expected {
                        break;
                    }
                    if Instant::now() > patience {
                        return Err(format!(
                            "{name}: the model says\n  {}, the kernel\n  {}",
                            text(&expected),
                            text(&found)
                        ));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                for row in expected.into_iter().flat_map(|answer| answer.targets) {
                    if request == Request::TargetStatus && row.params.contains(char::is_alphabetic)
                    {
                        *self.met.entry(format!("{} {}", row.kind, row.params)).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// What all devices hold that can be read now.
    fn contents(&mut self) -> std::result::Result<(), String> {
        for device in self.here.numbers().into_iter().chain(self.here.loops.clone()) {
            let chunks = self.here.world.size(device) / PER_CHUNK;
            if self.here.world.waits(device).is_some() || chunks == 0 {
                continue;
            }
            let mut node = Disk::open(&block::path(device)).map_err(|error| error.to_string())?;
            for chunk in 0..chunks {
                let mut expected = [0; CHUNK_BYTES];
                let read = self.here.world.read(device, chunk * PER_CHUNK, &mut expected);
                let expected = read.ok().map(|()| expected);
                let found = node.chunk(chunk).ok();
                if expected != found {
                    let name =
                        self.here.world.name_of(device).unwrap_or("a loop device").to_owned();
                    let both = expected.zip(found);
                    let at = both.and_then(|(one, other)| {
                        (0..CHUNK_BYTES).find(|at| one[*at] != other[*at])
                    });
                    let shown = |data: Option<[u8; CHUNK_BYTES]>| match (data, at) {
                        (None, _) => "nothing".to_owned(),
                        (Some(_), None) => "something".to_owned(),
                        (Some(data), Some(at)) => format!("{} at byte {at}", data[at]),
                    };
                    return Err(format!(
                        "chunk {chunk} of {device} ({name}): the model reads {}, the kernel {}",
                        shown(expected),
                        shown(found)
                    ));
                }
            }
        }
        *self.met.entry("contents compared".to_owned()).or_default() += 1;
        Ok(())
    }

    /// Takes everything away.
    fn end(&mut self) -> Result<()> {
        let names: Vec<_> = std::iter::once(CARD_NAME).chain(NAMES).collect();
        for _ in 0..names.len() {
            for name in &names {
                let _ = self.control.run(Request::Remove, &mut Message::any(name, &[], ""));
            }
        }
        Ok(())
    }
}

fn short(all: &[std::result::Result<(), Errno>]) -> String {
    let failed: Vec<_> = all
        .iter()
        .enumerate()
        .filter_map(|(index, done)| done.err().map(|errno| (index, errno)))
        .collect();
    match (all.len(), failed.first()) {
        (_, None) => "done".to_owned(),
        (1, Some((_, errno))) => name_of(*errno),
        (all, Some((first, errno))) => {
            format!("{} of {all} fail, the first is {first}: {}", failed.len(), name_of(*errno))
        }
    }
}

/// The errors that come, by name; others by their text.
fn name_of(errno: Errno) -> String {
    let name = match errno {
        Errno::EBUSY => "EBUSY",
        Errno::EDEADLK => "a wait",
        Errno::EINVAL => "EINVAL",
        Errno::EIO => "EIO",
        Errno::ENODEV => "ENODEV",
        Errno::ENXIO => "ENXIO",
        other => other.desc(),
    };
    name.to_owned()
}

/// An answer, as text.
fn text(answer: &std::result::Result<Answer, Errno>) -> String {
    match answer {
        Err(errno) => name_of(*errno),
        Ok(answer) => {
            let Answer { number, suspended, live, loaded, targets } = answer;
            let rows = targets
                .iter()
                .map(|row| format!(" [{} {} {} {}]", row.start, row.length, row.kind, row.params));
            let rows: String = rows.collect();
            format!("{number} suspended {suspended} live {live} loaded {loaded}{rows}")
        }
    }
}
