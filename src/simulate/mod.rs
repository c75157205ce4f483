//! A simulator: the shipped code on a model of a machine, with everything going wrong.
//!
//! content  what root's chunks are
//! kernel   a machine's kernel, with what may happen at each call of it
//! machine  root, commands, power cuts, and what must be true after each
//!
//! A history is a list of acts, and of fates by act and call. Single faults are tried one by one;
//! the rest comes from seeds. `make simulate` runs it optimised: without that a history takes ten
//! times as long, so the plain `cargo test` leaves it out.

mod content;
pub(crate) mod kernel;
pub(crate) mod machine;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::kernel::{CHUNKS, Fate, LOG_CHUNKS, Place, Refusing, TELLS};
use self::machine::{Act, Garble, Machine};
use crate::pure::units::Bytes;
use crate::sys::world::Chances;
use crate::sys::world::card::Cut;

/// Fates by the number of the act that they are in.
type Fates = Vec<(usize, usize, Fate)>;

const FLUSH: Act = Act::Flush { direct: false, merge: false };

/// Lives through a history, and lets the next command settle. Returns how many calls each act made.
fn live_through(log: bool, seed: u64, acts: &[Act], fates: &Fates) -> Result<Vec<usize>, String> {
    TELLS.set(false);
    try_to_live(log, seed, acts, fates).or_else(|_| {
        // The same once more, and each call is written down.
        TELLS.set(true);
        try_to_live(log, seed, acts, fates)
    })
}

fn try_to_live(log: bool, seed: u64, acts: &[Act], fates: &Fates) -> Result<Vec<usize>, String> {
    let mut trace = None;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut machine = Machine::new(log, seed);
        let mut calls = Vec::new();
        for (number, act) in acts.iter().enumerate() {
            let own = fates.iter().filter(|(of, ..)| *of == number);
            let own: Vec<_> = own.map(|(_, at, fate)| (*at, *fate)).collect();
            trace = Some(machine.sim.clone());
            calls.push(machine.act(act, &own));
        }
        trace = Some(machine.sim.clone());
        machine.settle();
        calls
    }));
    lived.map_err(|why| {
        let why = why
            .downcast_ref::<String>()
            .cloned()
            .or(why.downcast_ref::<&str>().map(|why| why.to_string()));
        let said = trace.map(|sim| sim.trace().join("\n")).unwrap_or_default();
        format!("log: {log}, seed: {seed}, fates: {fates:?}\n{said}\n{}", why.unwrap_or_default())
    })
}

/// The shortest history that fails as this one does: acts and fates are left out as long as it
/// does.
fn shrink(log: bool, seed: u64, mut acts: Vec<Act>, mut fates: Fates) -> String {
    let mut worst = live_through(log, seed, &acts, &fates).err().unwrap_or_default();
    let mut smaller = true;
    while smaller {
        smaller = false;
        for at in (0..acts.len()).rev() {
            let mut fewer = acts.clone();
            fewer.remove(at);
            let moved = fates.iter().filter(|(of, ..)| *of != at);
            let moved: Fates =
                moved.map(|(of, call, fate)| (of - usize::from(*of > at), *call, *fate)).collect();
            if let Err(why) = live_through(log, seed, &fewer, &moved) {
                (acts, fates, worst, smaller) = (fewer, moved, why, true);
            }
        }
        for at in (0..fates.len()).rev() {
            let mut fewer = fates.clone();
            fewer.remove(at);
            if let Err(why) = live_through(log, seed, &acts, &fewer) {
                (fates, worst, smaller) = (fewer, why, true);
            }
        }
    }
    format!("{worst}\nacts: {acts:?}")
}

fn quietly<T>(work: impl FnOnce() -> T) -> T {
    std::panic::set_hook(Box::new(|_| ()));
    let done = work();
    let _ = std::panic::take_hook();
    done
}

/// What a card may refuse.
fn every_trouble() -> Vec<Refusing> {
    let places = [Place::All, Place::Root, Place::Log, Place::Header(false), Place::Header(true)];
    let all = places.into_iter().flat_map(|place| [(place, true), (place, false)]);
    all.flat_map(|(place, writes)| [None, Some(3)].map(|left| Refusing { place, writes, left }))
        .collect()
}

fn every_fate() -> Vec<Fate> {
    let places = [(Place::All, true), (Place::All, false), (Place::Root, true), (Place::Log, true)];
    let troubles = places.map(|(place, writes)| Refusing { place, writes, left: None });
    let others = [
        Fate::Fails(0),
        Fate::Fails(1),
        Fate::Killed,
        Fate::AllKilled,
        Fate::GuardKilled,
        Fate::WorkerKilled,
        Fate::Signal,
        Fate::Writes(0b1010_0001),
        Fate::Cut(Cut::InOrder(0)),
        Fate::Cut(Cut::InOrder(usize::MAX)),
        Fate::Cut(Cut::Any),
    ];
    others.into_iter().chain(troubles.map(Fate::Refuses)).collect()
}

/// Chunks to write, a bit each.
fn some_chunks(chances: &mut Chances) -> u32 {
    match chances.below(6) {
        0 => (1 << CHUNKS) - 1,
        1 => chances.below(1 << CHUNKS) as u32,
        _ => (0..1 + chances.below(6)).fold(0, |all, _| all | 1 << chances.below(CHUNKS)),
    }
}

fn some_trouble(chances: &mut Chances) -> Refusing {
    let mut trouble = chances.one_of(&every_trouble());
    if chances.chance(30) {
        trouble.place = Place::Part(chances.below(LOG_CHUNKS));
    }
    if trouble.left.is_some() {
        trouble.left = Some(1 + chances.below(20) as u32);
    }
    trouble
}

fn some_act(chances: &mut Chances) -> Act {
    match chances.below(40) {
        0..13 => Act::Write(some_chunks(chances)),
        13..22 => FLUSH,
        22 => Act::Flush { direct: true, merge: false },
        23 => Act::Flush { direct: false, merge: true },
        24 => Act::Merge,
        25 => Act::Stop,
        26 => Act::Start,
        27..29 => Act::GiveUp,
        29..32 => Act::Cut(Cut::Any),
        32 => Act::Refuses(some_trouble(chances)),
        33 => Act::Recovers,
        34 => {
            let with = chances.one_of(&[Garble::Byte, Garble::Erased, Garble::Zeros]);
            Act::Garbles(chances.below(1000), with)
        }
        35 => Act::Fills,
        36 if chances.chance(20) => Act::Shrinks(chances.below(40)),
        37 if chances.chance(20) => Act::Renames,
        38 => Act::Waits,
        _ => Act::Write(some_chunks(chances)),
    }
}

fn some_fate(chances: &mut Chances) -> Fate {
    match chances.below(20) {
        0..5 => Fate::Refuses(some_trouble(chances)),
        5..7 => Fate::Recovers,
        7..12 => Fate::Writes(some_chunks(chances)),
        12 => Fate::Cut(Cut::Any),
        _ => chances.one_of(&every_fate()),
    }
}

/// Histories from a seed.
fn drawn(seed: u64) -> (bool, Vec<Act>, Fates) {
    let mut chances = Chances::new(seed);
    let log = !chances.chance(15);
    let count = 6 + chances.below(14);
    let acts: Vec<_> = (0..count).map(|_| some_act(&mut chances)).collect();
    let fate = |chances: &mut Chances| {
        let at = chances.below(count) as usize;
        // Most commands make a hundred calls or two.
        (at, 1 + chances.below(160) as usize, some_fate(chances))
    };
    let fates = (0..2 + chances.below(5)).map(|_| fate(&mut chances)).collect();
    (log, acts, fates)
}

/// Commands, each on a machine that has flushed, and has written since: with a log, and without.
fn every_command() -> [(bool, Act); 9] {
    [
        (true, FLUSH),
        (true, Act::Flush { direct: false, merge: true }),
        (true, Act::Flush { direct: true, merge: false }),
        (true, Act::Merge),
        (true, Act::Stop),
        (true, Act::GiveUp),
        (true, Act::Cut(Cut::InOrder(usize::MAX))),
        (false, FLUSH),
        (false, Act::Stop),
    ]
}

const MOST_FAILURES: usize = 50;
const BEFORE: [Act; 3] = [Act::Write(0b1_0000_0010_0000_1111), FLUSH, Act::Write(0b10_0001_1101)];

/// Lives through many histories, says how many there were, and fails with the shortest of those
/// that fail.
struct Sum {
    failed: Vec<String>,
    runs: usize,
    first: Option<(usize, Duration)>,
    begin: Instant,
}

impl Sum {
    fn new() -> Self {
        Self { failed: Vec::new(), runs: 0, first: None, begin: Instant::now() }
    }

    fn add(&mut self, log: bool, acts: &[Act], fates: &Fates) -> Vec<usize> {
        // Some failures are enough to choose from; of a defect that was put back one is.
        let most = if std::env::var("DEFECT").is_ok() { 1 } else { MOST_FAILURES };
        if self.failed.len() >= most {
            return Vec::new();
        }
        self.runs += 1;
        match live_through(log, 1, acts, fates) {
            Ok(calls) => calls,
            Err(why) => {
                self.first = self.first.or(Some((self.runs, self.begin.elapsed())));
                self.failed.push(why);
                Vec::new()
            }
        }
    }

    fn end(self, at_least: usize) {
        if let (Some(shortest), Some((number, after))) =
            (self.failed.iter().min_by_key(|why| why.len()), self.first)
        {
            let all = self.failed.len();
            panic!("history {number}, {after:.2?}: the first of {all} that fail\n{shortest}");
        }
        assert!(self.runs > at_least, "{}", self.runs);
        println!("{} histories, {:.2?}", self.runs, self.begin.elapsed());
    }
}

#[test]
#[ignore = "make simulate runs it, optimised"]
fn each_single_fault_in_each_command_loses_nothing_and_the_next_command_settles() {
    let mut sum = Sum::new();
    quietly(|| {
        for (log, last) in every_command() {
            let acts = [&BEFORE[..], &[last]].concat();
            let calls = sum.add(log, &acts, &Vec::new()).last().copied().unwrap_or_default();
            for at in 1..=calls {
                for fate in every_fate() {
                    sum.add(log, &acts, &vec![(3, at, fate)]);
                }
            }
        }
    });
    sum.end(20_000);
}

#[test]
#[ignore = "make simulate runs it, optimised"]
fn whatever_the_card_has_lost_of_the_log_no_command_makes_it_worse() {
    let mut sum = Sum::new();
    let many = [&BEFORE[..], &[FLUSH, Act::Write(0b110), FLUSH, Act::Write(0b1100)]].concat();
    quietly(|| {
        for (_, last) in every_command().into_iter().filter(|(log, _)| *log) {
            // As many as are no zeros.
            for which in 0..24 {
                for with in [Garble::Byte, Garble::Erased, Garble::Zeros] {
                    let own = [Act::Garbles(which, with), last, Act::Cut(Cut::Any)];
                    sum.add(true, &[&many[..], &own].concat(), &Vec::new());
                }
            }
        }
    });
    sum.end(500);
}

/// Histories in which the simulator has found a defect, shrunk.
#[test]
fn what_was_found_once_is_not_found_again() {
    let no_log = |left| Act::Refuses(Refusing { place: Place::Log, writes: false, left });
    let boot = [&BEFORE[..], &[Act::Cut(Cut::InOrder(usize::MAX))]].concat();
    let found: [(bool, Vec<Act>, Fates); 6] = [
        // A boot that could not claim the log says so in its own words.
        (true, boot.clone(), vec![(3, 46, Fate::Fails(0))]),
        (true, boot, vec![(3, 46, Fate::Fails(1))]),
        // A flush that fails behind its seal has taken away what shows the overflow.
        (true, vec![Act::Fills, Act::Write(2048), no_log(Some(18)), FLUSH], vec![]),
        // So has one that is killed there.
        (true, vec![Act::Fills, Act::Write(65920), FLUSH], vec![(2, 103, Fate::AllKilled)]),
        // And a last resort past the log.
        (false, vec![Act::Fills, Act::Write(u32::MAX), Act::GiveUp], vec![]),
        // A last resort put root on the card as it was at the last flush.
        (true, vec![Act::Shrinks(8), Act::Write(9_965_004), Act::GiveUp], vec![]),
    ];
    for (log, acts, fates) in found {
        if let Err(why) = live_through(log, 1, &acts, &fates) {
            panic!("{why}");
        }
    }
}

/// What docs/media.md says: a cut damages what is durable beside what was being written.
#[test]
#[ignore = "make simulate runs it, optimised"]
fn of_damaged_neighbours_a_log_survives_those_in_other_erase_blocks() {
    let [small, large] = [4 << 10, 128 << 10].map(Bytes);
    let lost = |align| {
        let (mut all, mut lost) = (0, 0);
        for at in 1.. {
            for seed in 0..8 {
                let mut machine = Machine::on_card(true, seed, large, align);
                BEFORE.iter().for_each(|act| _ = machine.act(act, &[]));
                let calls = machine.act(&FLUSH, &[(at, Fate::Cut(Cut::Neighbours))]);
                if calls < at {
                    return (lost, all);
                }
                (all, lost) = (all + 1, lost + machine.lost);
            }
        }
        (lost, all)
    };
    let (of_small, of_large) = (lost(small), lost(large));
    println!("a reported flush was lost: {of_small:?} at 4 KiB, {of_large:?} at the erase block");
    assert!(of_small.0 > 0 && of_large.0 == 0, "{of_small:?} {of_large:?}");
}

/// `SEED` of the environment is the first; `HISTORIES` says how many, or `SECONDS` for how long.
#[test]
#[ignore = "make simulate runs it, optimised"]
fn histories_from_seeds_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (histories, first) = (number("HISTORIES"), number("SEED").unwrap_or(1));
    let time = Duration::from_secs(number("SECONDS").unwrap_or(60));
    let begin = Instant::now();
    let goes_on = |lived| histories.map_or(begin.elapsed() < time, |histories| lived < histories);
    let mut lived = 0;
    while goes_on(lived) {
        let seed = first + lived;
        let (log, acts, fates) = drawn(seed);
        lived += 1;
        let failed = quietly(|| {
            live_through(log, seed, &acts, &fates).err().map(|_| shrink(log, seed, acts, fates))
        });
        if let Some(why) = failed {
            panic!("history {lived}, {:.2?}: SEED={seed} fails\n{why}", begin.elapsed());
        }
    }
    println!("{lived} histories from seed {first} on, {:.2?}", begin.elapsed());
}
