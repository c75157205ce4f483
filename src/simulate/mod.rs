//! A simulator: the shipped code on a model of a machine, with everything going wrong.
//!
//! kernel   a machine's kernel, with what may happen at each call of it
//! machine  root, commands, power cuts, and what must be true after each
//!
//! A history is a list of acts, and of fates by act and call. Single faults are tried one by one;
//! the rest comes from seeds. `make simulate` runs it optimised: without that a history takes ten
//! times as long, so the plain `cargo test` leaves it out.

pub(crate) mod kernel;
pub(crate) mod machine;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::kernel::Fate;
use self::machine::{Act, Machine};
use crate::sys::world::Chances;
use crate::sys::world::card::Cut;

/// Fates by the number of the act that they are in.
type Fates = Vec<(usize, usize, Fate)>;

const FLUSH: Act = Act::Flush { direct: false, merge: false };

/// Lives through a history, and lets the next command settle. Returns how many calls each act made.
fn live_through(log: bool, seed: u64, acts: &[Act], fates: &Fates) -> Result<Vec<usize>, String> {
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

fn every_fate() -> Vec<Fate> {
    vec![
        Fate::Fails(0),
        Fate::Fails(1),
        Fate::Killed,
        Fate::AllKilled,
        Fate::Signal,
        Fate::Cut(Cut::InOrder(0)),
        Fate::Cut(Cut::InOrder(usize::MAX)),
        Fate::Cut(Cut::Any),
    ]
}

/// Histories from a seed.
fn drawn(seed: u64) -> (bool, Vec<Act>, Fates) {
    let mut chances = Chances::new(seed);
    let log = !chances.chance(15);
    let count = 4 + chances.below(12);
    let acts: Vec<_> = (0..count)
        .map(|_| match chances.below(20) {
            0..7 => Act::Write(
                (0..1 + chances.below(6)).map(|_| chances.below(kernel::CHUNKS)).collect(),
            ),
            7..13 => FLUSH,
            13 => Act::Flush { direct: true, merge: false },
            14 => Act::Flush { direct: false, merge: true },
            15 => Act::Merge,
            16 => Act::Stop,
            17 => Act::Start,
            18 => Act::GiveUp,
            _ => Act::Cut(Cut::Any),
        })
        .collect();
    let fate = |chances: &mut Chances| {
        let at = chances.below(count) as usize;
        (at, 1 + chances.below(160) as usize, chances.one_of(&every_fate()))
    };
    let fates = (0..1 + chances.below(3)).map(|_| fate(&mut chances)).collect();
    (log, acts, fates)
}

#[test]
#[ignore = "make simulate runs it, optimised"]
fn each_single_fault_in_each_command_loses_nothing_and_the_next_command_settles() {
    let before = [Act::Write(vec![0, 1, 2, 3, 9, 20]), FLUSH, Act::Write(vec![0, 2, 3, 4, 21])];
    let (mut failed, mut runs, begin) = (Vec::new(), 0, Instant::now());
    quietly(|| {
        for (log, last) in [
            (true, FLUSH),
            (true, Act::Flush { direct: false, merge: true }),
            (true, Act::Flush { direct: true, merge: false }),
            (true, Act::Merge),
            (true, Act::Stop),
            (true, Act::GiveUp),
            (false, FLUSH),
            (false, Act::Stop),
        ] {
            let acts = [&before[..], std::slice::from_ref(&last)].concat();
            let calls = match live_through(log, 1, &acts, &Vec::new()) {
                Ok(calls) => calls[3],
                Err(why) => {
                    failed.push(why);
                    continue;
                }
            };
            for at in 1..=calls {
                for fate in every_fate() {
                    runs += 1;
                    if let Err(why) = live_through(log, 1, &acts, &vec![(3, at, fate)]) {
                        failed.push(why);
                    }
                }
            }
        }
    });
    if let Some(shortest) = failed.iter().min_by_key(|why| why.len()) {
        panic!("history {runs}, {:.2?}: {} fail\n{shortest}", begin.elapsed(), failed.len());
    }
    assert!(runs > 20_000, "{runs}");
    println!("{runs} single faults, {:.2?}", begin.elapsed());
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
