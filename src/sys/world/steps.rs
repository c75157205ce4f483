//! Random requests for the model and for the kernel ([`super::compare`]), by what there is.

use nix::errno::Errno;

use super::image::{PER_CHUNK, SECTOR};
use super::mapper::Row;
use super::{Chances, Done, Fail, World};
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::units::DevNo;
use crate::sys::dm::message::Request;

/// Sectors of the card: no whole number of large chunks.
pub(super) const CARD: u64 = 300 * PER_CHUNK;
/// The device that stands on the card's loop device, where sectors can be made to refuse.
pub(super) const CARD_NAME: &str = "model-card";
/// What else is made.
pub(super) const NAMES: [&str; 6] =
    ["model-a", "model-b", "model-c", "model-d", "model-e", "model-f"];
/// Chunks of the stores; the last one's tmpfs has room for less.
pub(super) const STORES: [u64; 5] = [24, 259, 310, 40, 64];
pub(super) const ROOM_OF_LAST: u64 = 20;
pub(super) const STEPS: usize = 40;

/// What a step is.
#[derive(Clone)]
pub(super) enum Step {
    Request(Request, String, Vec<Row>, String),
    /// Whole chunks, one request each, that hold this byte.
    Write(DevNo, u64, u64, u8),
    /// One sector that does.
    Sector(DevNo, u64, u8),
    /// The first sector of a store, as somebody else's.
    Header(DevNo, [u8; 16]),
    Flush(DevNo),
    /// A loop device gets a limit, in bytes.
    Limit(DevNo, u64),
}

// The guest's programs are built without `Debug`'s texts.
impl std::fmt::Display for Step {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(request, name, rows, new) => {
                write!(to, "{} {name} {new}", called(*request))?;
                rows.iter().try_for_each(|row| {
                    write!(to, " [{} {} {} {}]", row.start, row.length, row.kind, row.params)
                })
            }
            Self::Write(device, first, count, byte) => {
                write!(to, "write {device}: chunks {first} to {}: {byte}", first + count - 1)
            }
            Self::Sector(device, sector, byte) => {
                write!(to, "write {device}: sector {sector}: {byte}")
            }
            Self::Header(device, header) => {
                write!(to, "header {device}: ")?;
                header.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
            }
            Self::Flush(device) => write!(to, "flush {device}"),
            Self::Limit(device, limit) => write!(to, "limit {device}: {limit}"),
        }
    }
}

/// A request's name.
pub(super) fn called(request: Request) -> &'static str {
    match request {
        Request::Create => "create",
        Request::Remove => "remove",
        Request::Rename => "rename",
        Request::Suspend { .. } => "suspend",
        Request::Resume { .. } => "resume",
        Request::Load | Request::LoadReadOnly => "load",
        Request::Clear => "clear",
        Request::TargetStatus => "status",
        Request::Table => "table",
        _ => "ask",
    }
}

/// A sequence at work in the model.
#[derive(Default)]
pub(super) struct Sequence {
    pub(super) world: World,
    pub(super) seeded: Chances,
    /// Those of the card and of the stores.
    pub(super) loops: Vec<DevNo>,
    pub(super) card: DevNo,
    /// What is meant to come, the last one first.
    pub(super) plot: Vec<Step>,
}

impl Sequence {
    /// The next step: mostly of what is meant to come, where anything is.
    pub(super) fn next(&mut self) -> Step {
        match self.plot.pop() {
            Some(step) if self.seeded.chance(85) => step,
            Some(_) | None => self.choose(),
        }
    }

    /// Plans what a flush does, with this and that: a snapshot of the card's device, another in its place that is handed its
    /// content, a merge, which the card may refuse. The first three of the names are there.
    pub(super) fn plan(&mut self) {
        let [a, b, c] = [NAMES[0], NAMES[1], NAMES[2]];
        let number = |name: &str| self.world.number_of(name).unwrap_or_default();
        let [origin, sealed] = [number(a), number(c)];
        let seeded = &mut self.seeded;
        let first = seeded.below(self.loops.len() as u64 - 1) as usize + 1;
        let second = seeded.below(self.loops.len() as u64 - 1) as usize + 1;
        let [first, second] = [self.loops[first], self.loops[second]];
        let kind = seeded.one_of(&["PO 8", "PO 8", "PO 8", "P 8", "N 16"]);
        let (card, root) = (self.card, number(b));
        let load = |name: &str, kind: &str, params: String| {
            Step::Request(
                Request::Load,
                name.to_owned(),
                vec![row(0, CARD, kind, params)],
                String::new(),
            )
        };
        let bare = |request, name: &str| {
            Step::Request(request, name.to_owned(), Vec::new(), String::new())
        };
        let resume = |name| bare(Request::Resume { freeze: true }, name);
        let bad = self.refusing_card();
        let seeded = &mut self.seeded;
        let mut write = |most: u64| {
            let count = if seeded.chance(15) { most } else { 1 + seeded.below(9) };
            Step::Write(root, seeded.below(260), count, 1 + seeded.below(250) as u8)
        };
        let mut plot = vec![
            load(a, "linear", format!("{card} 0")),
            resume(a),
            load(b, "snapshot", format!("{origin} {first} {kind}")),
            resume(b),
            write(300),
            write(40),
            write(40),
            load(c, "snapshot", format!("{origin} {first} {kind}")),
            load(b, "snapshot", format!("{sealed} {second} {kind}")),
            bare(Request::Suspend { freeze: true }, b),
            resume(c),
            resume(b),
            write(40),
            load(c, "snapshot-merge", format!("{origin} {first} {kind}")),
            bad,
            resume(CARD_NAME),
            resume(c),
            write(40),
            load(CARD_NAME, "linear", format!("{} 0", self.loops[0])),
            resume(CARD_NAME),
            bare(Request::Suspend { freeze: true }, c),
            resume(c),
            load(c, "linear", format!("{origin} 0")),
            resume(c),
            write(40),
        ];
        if self.seeded.chance(40) {
            // The card takes everything.
            plot.remove(14);
        }
        plot.reverse();
        self.plot = plot;
    }

    /// Some of the card's sectors shall refuse.
    fn refusing_card(&mut self) -> Step {
        let at = (1 + self.seeded.below(290)) * PER_CHUNK;
        let bad = PER_CHUNK * (1 + self.seeded.below(4));
        let linear =
            |start: u64, length| row(start, length, "linear", format!("{} {start}", self.loops[0]));
        let rows = vec![
            linear(0, at),
            row(at, bad, "error", String::new()),
            linear(at + bad, CARD - at - bad),
        ];
        Step::Request(Request::Load, CARD_NAME.to_owned(), rows, String::new())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.world.mapped.keys().filter(|name| *name != CARD_NAME).cloned().collect()
    }

    pub(super) fn numbers(&self) -> Vec<DevNo> {
        self.world.mapped.values().map(|mapped| mapped.number).collect()
    }

    /// Origin and store of the snapshots there are.
    pub(super) fn snapshots(&self) -> Vec<(DevNo, DevNo)> {
        self.world.snapshots.values().map(|it| (it.origin, it.cow)).collect()
    }

    pub(super) fn choose(&mut self) -> Step {
        let (names, free): (Vec<_>, Vec<_>) = (
            self.names(),
            NAMES.iter().filter(|name| !self.world.mapped.contains_key(**name)).copied().collect(),
        );
        let about = self.seeded.one_of(&NAMES).to_owned();
        let about = if names.is_empty() || self.seeded.chance(3) {
            about
        } else {
            self.seeded.one_of(&names)
        };
        let bare = |request| Step::Request(request, about.clone(), Vec::new(), String::new());
        match self.seeded.below(100) {
            0..5 if !free.is_empty() => {
                let name = self.seeded.one_of(&free).to_owned();
                Step::Request(Request::Create, name, Vec::new(), String::new())
            }
            0..6 => bare(Request::Create),
            6..34 => Step::Request(Request::Load, about.clone(), self.rows(), String::new()),
            34..56 => bare(Request::Resume { freeze: self.seeded.chance(50) }),
            56..63 => bare(Request::Suspend { freeze: self.seeded.chance(50) }),
            63..66 => bare(Request::Clear),
            66..70 => bare(Request::Remove),
            70..72 => {
                let new = self.seeded.one_of(&NAMES).to_owned();
                Step::Request(Request::Rename, about.clone(), Vec::new(), new)
            }
            72..88 => {
                let device = self.somewhere();
                let size = self.world.size(device) / PER_CHUNK;
                let first = self.seeded.below(size.max(1));
                let count = if self.seeded.chance(8) { 300 } else { 1 + self.seeded.below(12) };
                Step::Write(device, first, count, 1 + self.seeded.below(250) as u8)
            }
            88..91 => {
                let device = self.somewhere();
                let sector = self.seeded.below(self.world.size(device).max(1));
                Step::Sector(device, sector, 1 + self.seeded.below(250) as u8)
            }
            91..93 => Step::Flush(self.somewhere()),
            93..94 => {
                let mut header = [0; 16];
                let words = self.seeded.one_of(&[
                    [0x7041_6e53, 0, 1, 8],
                    [7, 1, 1, 8],
                    [0, 0, 0, 0],
                    [0x7041_6e53, 1, 2, 8],
                ]);
                for (slot, word) in header.chunks_exact_mut(4).zip(words) {
                    slot.copy_from_slice(&u32::to_le_bytes(word));
                }
                Step::Header(self.seeded.one_of(&self.loops[1..]), header)
            }
            94..96 => {
                let chunks = 8 + self.seeded.below(300);
                Step::Limit(self.seeded.one_of(&self.loops[1..]), chunks * CHUNK_BYTES as u64)
            }
            // Some of the card's sectors refuse, or none does any more.
            96..98 => self.refusing_card(),
            98 => {
                let rows = vec![row(0, CARD, "linear", format!("{} 0", self.loops[0]))];
                Step::Request(Request::Load, CARD_NAME.to_owned(), rows, String::new())
            }
            _ => Step::Request(
                Request::Resume { freeze: false },
                CARD_NAME.to_owned(),
                Vec::new(),
                String::new(),
            ),
        }
    }

    /// A device to read and write.
    pub(super) fn somewhere(&mut self) -> DevNo {
        let live: Vec<_> =
            self.world.mapped.values().filter(|it| it.live.is_some()).map(|it| it.number).collect();
        match self.seeded.below(10) {
            0 => self.seeded.one_of(&self.loops.clone()),
            _ => self.seeded.one_of(&live),
        }
    }

    /// A table.
    pub(super) fn rows(&mut self) -> Vec<Row> {
        let stores = self.loops[1..].to_vec();
        let mapped = self.numbers();
        let below = |seeded: &mut Chances, card: DevNo| {
            if seeded.chance(45) { card } else { seeded.one_of(&mapped) }
        };
        let origin = below(&mut self.seeded, self.card);
        let store = if self.seeded.chance(92) {
            self.seeded.one_of(&stores)
        } else {
            self.seeded.one_of(&mapped)
        };
        // Mostly as long as what is below.
        let length = match self.world.size(origin) {
            size if size > 0 && self.seeded.chance(93) => size,
            _ => CARD,
        };
        let known = self.snapshots();
        let (origin, store, kind) = match self.seeded.below(100) {
            0..25 => return vec![row(0, length, "linear", format!("{origin} 0"))],
            25..32 => {
                let half = length / 2 / PER_CHUNK * PER_CHUNK;
                let offset = self.seeded.below(4) * 3;
                return vec![
                    row(0, half, "linear", format!("{origin} {offset}")),
                    row(
                        half,
                        self.seeded.one_of(&[CARD - half, 64, 64]),
                        "linear",
                        format!("{} 0", self.card),
                    ),
                ];
            }
            32..34 => {
                return vec![row(
                    8 * self.seeded.below(2),
                    length,
                    "linear",
                    format!("{origin} 0 x"),
                )];
            }
            34..62 if !known.is_empty() => {
                let (origin, store) = self.seeded.one_of(&known);
                (
                    origin,
                    store,
                    self.seeded.one_of(&["snapshot", "snapshot-merge", "snapshot-merge"]),
                )
            }
            34..86 => (origin, store, "snapshot"),
            _ => (origin, store, "snapshot-merge"),
        };
        let length = match self.world.size(origin) {
            size if size > 0 && self.seeded.chance(93) => size,
            _ => CARD,
        };
        let of = match self.seeded.below(100) {
            0..76 => "PO 8",
            76..88 => "P 8",
            88..98 => "N 16",
            98 => "N 24",
            _ => "X 8",
        };
        vec![row(0, length, kind, format!("{origin} {store} {of}"))]
    }

    /// Whether a step comes to its end, and a table does not stand on itself.
    pub(super) fn may(&self, step: &Step) -> bool {
        if let Step::Request(Request::Load | Request::Remove, name, rows, _) = step {
            let Some(mapped) = self.world.mapped.get(name) else { return true };
            let words = rows.iter().flat_map(|row| row.params.split(' '));
            if words.filter_map(DevNo::parse).any(|below| self.reaches(below, mapped.number)) {
                return false;
            }
        }
        let mut trial = self.world.clone();
        let done = apply(&mut trial, step);
        let waits = done.iter().any(|done| matches!(done, Err(Fail::Waits(_))));
        !waits && trial.merging().iter().all(|id| trial.stalls(*id).is_none())
    }

    /// A device stands on another one, by its live table or its loaded one.
    pub(super) fn reaches(&self, from: DevNo, to: DevNo) -> bool {
        let tables = self.world.tables.values().filter(|table| table.owner == from);
        from == to
            || tables
                .flat_map(|table| self.world.devices(table))
                .any(|below| self.reaches(below, to))
    }

    /// Merges come to their ends.
    pub(super) fn settle(&mut self) {
        for id in self.world.merging() {
            while self.world.merge(id) {}
        }
    }
}

pub(super) fn row(start: u64, length: u64, kind: &str, params: String) -> Row {
    Row { start, length, kind: kind.to_owned(), params }
}

/// In stretches of 32 that come backwards, so that no run of a merge is longer than one job of the kernel's copier.
pub(super) fn chunks(first: u64, count: u64, size: u64) -> impl Iterator<Item = u64> {
    let end = (first + count).min(size / PER_CHUNK).max(first);
    let stretches = (first..end).step_by(32).collect::<Vec<_>>().into_iter().rev();
    stretches.flat_map(move |start| start..(start + 32).min(end))
}

/// The model does it.
pub(super) fn apply(world: &mut World, step: &Step) -> Vec<Done> {
    match step {
        Step::Request(request, name, rows, new) => {
            vec![world.request(*request, name, rows, new).map(drop)]
        }
        Step::Write(device, first, count, byte) => {
            if let Err(fail) = world.open(*device) {
                return vec![Err(fail)];
            }
            if let Some(device) = world.waits(*device) {
                return vec![Err(Fail::Waits(device))];
            }
            chunks(*first, *count, world.size(*device))
                .map(|chunk| world.write(*device, chunk * PER_CHUNK, &[*byte; CHUNK_BYTES], false))
                .collect()
        }
        Step::Sector(device, sector, byte) => {
            io(world, *device, |world| world.write(*device, *sector, &[*byte; SECTOR], false))
        }
        Step::Header(device, header) => io(world, *device, |world| {
            let mut sector = [0; SECTOR];
            sector[..16].copy_from_slice(header);
            world.write(*device, 0, &sector, false)
        }),
        Step::Flush(device) => io(world, *device, |world| world.flush(*device)),
        Step::Limit(device, limit) => vec![world.set_limit(*device, *limit)],
    }
}

fn io(world: &mut World, device: DevNo, what: impl FnOnce(&mut World) -> Done) -> Vec<Done> {
    match world.waits(device) {
        Some(waits) => vec![Err(Fail::Waits(waits))],
        // Whatever a device answers, a disk has one kind of failure.
        None => vec![what(world).map_err(|fail| match fail {
            Fail::Errno(_) => Fail::Errno(Errno::EIO),
            waits => waits,
        })],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compared in a guest, without the kernel: whatever is asked of it, the model has an answer, and merges end.
    #[test]
    fn the_model_has_an_answer_to_whatever_is_asked() {
        let mut taken = 0;
        for seed in 0..150 {
            let mut here = Sequence { seeded: Chances::new(seed), ..Sequence::default() };
            let sizes = std::iter::once(CARD).chain(STORES.map(|chunks| chunks * PER_CHUNK));
            for (minor, size) in (0..).zip(sizes) {
                let number = DevNo { major: 7, minor };
                let last = minor as usize == STORES.len();
                let room = if last { ROOM_OF_LAST * PER_CHUNK } else { size };
                let (file, _) = here.world.add_file(size * SECTOR as u64, room * SECTOR as u64);
                std::mem::forget(here.world.add_loop(number, file, 0));
                here.loops.push(number);
            }
            for name in [CARD_NAME, NAMES[0], NAMES[1], NAMES[2]] {
                here.world.request(Request::Create, name, &[], "").unwrap();
            }
            here.card = here.world.number_of(CARD_NAME).unwrap();
            let rows = [row(0, CARD, "linear", format!("{} 0", here.loops[0]))];
            here.world.request(Request::Load, CARD_NAME, &rows, "").unwrap();
            here.world.request(Request::Resume { freeze: false }, CARD_NAME, &[], "").unwrap();
            here.plan();
            for _ in 0..4 * STEPS {
                let step = here.next();
                if !here.may(&step) {
                    continue;
                }
                taken += 1;
                apply(&mut here.world, &step);
                here.settle();
                for device in here.numbers() {
                    if here.world.waits(device).is_none() {
                        let mut sector = [0; SECTOR];
                        let _ = here.world.read(device, 0, &mut sector);
                    }
                }
            }
        }
        assert!(taken > 5000, "{taken}");
    }
}
