//! The daemon at work on a simulated machine.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use super::*;
use crate::pure::config::OnOverflow;
use crate::simulate::kernel::{Dead, Fate, ROOT, Sim};
use crate::simulate::machine::{Act, Machine};
use crate::sys::kernel::Kernel;
use crate::sys::signals;
use crate::sys::world::card::{Cut, Refusal};

fn configured() -> (Config, Vec<String>) {
    // Root of the model is too small for bitmaps.
    let config = Config { prune: false, interval: 10, idle: 0, ..Config::default() };
    (Config { on_overflow: OnOverflow::Wait, ..config }, Vec::new())
}

/// Lets a daemon of its own work until the clock says so. Returns what it logged, and how it ended;
/// `None`: its process was killed.
fn work(sim: &Rc<Sim>, seconds: u64) -> (Vec<String>, Option<Result<()>>) {
    work_with(sim, seconds, &[])
}

/// The same with these fates.
fn work_with(
    sim: &Rc<Sim>,
    seconds: u64,
    fates: &[(usize, Fate)],
) -> (Vec<String>, Option<Result<()>>) {
    sim.ordain(fates);
    let mut said = Vec::new();
    let mut log = |text: &str| said.push(text.to_owned());
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut signals = signals::hold(&[Signal::SIGTERM], &[Signal::SIGHUP])?;
        let mut daemon = Daemon::begin(configured().0, Notify::new(&mut log))?;
        let mut ended = Ok(true);
        while matches!(ended, Ok(true)) && sim.clock().as_secs() < seconds {
            ended = daemon.step(configured, &mut signals);
            if fates.is_empty() {
                // What is counted is a step, which ends.
                sim.ordain(&[]);
            }
        }
        daemon.end();
        ended.map(drop)
    }));
    let done = match done {
        Ok(done) => Some(done),
        Err(payload) if payload.is::<Dead>() => None,
        Err(payload) => resume_unwind(payload),
    };
    sim.ended();
    sim.ordain(&[]);
    (said, done)
}

fn flushes(said: &[String]) -> Vec<&str> {
    let reason = |line: &String| line.starts_with("flushed (");
    said.iter().filter(|line| reason(line)).map(|line| &line[..line.find(')').unwrap()]).collect()
}

#[test]
fn a_daemon_flushes_when_the_interval_is_over_and_soon_after_an_urgent_change() {
    let mut machine = Machine::new(true, 1);
    machine.act(&Act::Write(0x20e), &[]);
    let sim = machine.sim.clone();
    let (said, ended) = work(&sim, 9);
    assert!(ended.unwrap().is_ok() && said.is_empty(), "{said:?}");
    // Another daemon counts the interval from its own start.
    let (said, ended) = work(&sim, 9 + 12);
    assert!(ended.unwrap().is_ok());
    assert_eq!(flushes(&said), ["flushed (interval"], "{said:?}");
    machine.act(&Act::Write(0x10), &[]);
    sim.change("/etc/hosts");
    sim.change("/var/log/messages");
    let (said, _) = work(&sim, 9 + 12 + 4);
    assert_eq!(flushes(&said), ["flushed (urgent"], "{said:?}");
    // What it flushed is there after a cut.
    machine.act(&Act::Cut(Cut::InOrder(0)), &[]);
    assert_eq!(machine.sim.wrote.borrow()[..5], [2, 1, 1, 1, 2]);
}

#[test]
fn a_flush_that_fails_is_logged_and_does_not_end_the_daemon() {
    let mut machine = Machine::new(true, 1);
    let sim = machine.sim.clone();
    machine.act(&Act::Write(0x20e), &[]);
    let all = |writes| Refusal { sectors: 0..u64::MAX, writes, left: None };
    sim.world(|world| world.card(ROOT).unwrap().refuses = vec![all(true)]);
    let (said, ended) = work(&sim, 12);
    assert!(ended.unwrap().is_ok(), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("flush (interval) failed: ")), "{said:?}");
    // What it left sealed counts for the next interval, also of another daemon.
    sim.world(|world| world.card(ROOT).unwrap().refuses.clear());
    let (said, _) = work(&sim, 12 + 12);
    assert_eq!(flushes(&said), ["flushed (interval"], "{said:?}");
    machine.act(&Act::Cut(Cut::InOrder(0)), &[]);
    assert_eq!(machine.sim.wrote.borrow()[..4], [1, 1, 1, 1]);
}

/// Whichever call of a flush by the daemon fails or is its last: root is awake, or the next daemon
/// wakes it up if all of this one's processes were killed at once; root reads what was last
/// written, and the next daemon puts it on the card.
#[test]
fn whatever_call_of_a_daemons_flush_fails_or_is_the_last_the_next_daemon_flushes_all() {
    let begun = || {
        let mut machine = Machine::new(true, 1);
        machine.act(&Act::Write(0x20e), &[]);
        work(&machine.sim, 11);
        machine.act(&Act::Write(0x20_001c), &[]);
        machine.sim.change("/etc/hosts");
        machine
    };
    // The calls from the lock on until the daemon waits again.
    let sim = begun().sim;
    let before = sim.trace().len();
    let nothing = (usize::MAX, Fate::Signal);
    assert_eq!(flushes(&work_with(&sim, 14, &[nothing]).0), ["flushed (urgent"]);
    let calls = sim.trace().split_off(before);
    let first = calls.iter().position(|call| call.ends_with(": lock")).unwrap();
    let flush = calls[first..].iter().take_while(|call| !call.contains(": wait "));
    let flush: Vec<usize> =
        flush.map(|call| call.split(':').next().unwrap().parse().unwrap()).collect();
    assert!(flush.len() > 100, "{}", flush.len());
    for (at, fate) in flush
        .iter()
        .step_by(4)
        .flat_map(|at| [Fate::Fails(0), Fate::Killed, Fate::AllKilled].map(|fate| (*at, fate)))
    {
        let mut machine = begun();
        let sim = machine.sim.clone();
        let (said, ended) = work_with(&sim, 14, &[(at, fate)]);
        let what = format!("call {at}, {fate:?}: {ended:?}\n{}", said.join("\n"));
        assert_eq!(ended.is_none(), fate != Fate::Fails(0), "{what}");
        let (next, ended) = work(&sim, 15);
        assert!(ended.is_some_and(|ended| ended.is_ok()), "{what}\n{next:?}");
        machine.act(&Act::Write(0x580), &[]);
        assert_eq!(sim.wrote.borrow()[7], 3, "root sleeps: {what}\n{next:?}");
        let (again, ended) = work(&sim, 27);
        assert!(ended.is_some_and(|ended| ended.is_ok()), "{what}\n{again:?}");
        assert!(!flushes(&again).is_empty(), "{what}\n{again:?}");
        let written = sim.wrote.borrow().clone();
        machine.act(&Act::Cut(Cut::InOrder(0)), &[]);
        assert_eq!(*machine.sim.wrote.borrow(), written, "{what}\n{again:?}");
    }
}
