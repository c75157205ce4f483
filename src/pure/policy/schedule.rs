//! When the next flush is due, and why.
//!
//! Two clocks: intervals are counted by one that only runs forward; times of day by the wall
//! clock, which a router without a battery sets late and by leaps.

use core::fmt;

use super::throttle::{self, Level};
use crate::pure::config::{Config, HoldFull};
use crate::pure::units::Bytes;

/// Why a flush is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The last one is as old as the interval.
    Interval,
    /// A time of day, in minutes since midnight.
    At(u16),
    /// The COW fills up.
    High,
    /// Memory is short.
    Memory,
    /// Something under an urgent path changed.
    Urgent,
    /// Something that a boot loader reads changed.
    Boot {
        /// What changed is on root. A boot loader reads the plain card, so the log has to be
        /// merged. On a filesystem of its own, /boot is not in the log: nothing has to be merged
        /// for it.
        merge: bool,
    },
    /// SIGUSR1.
    Asked,
    /// The machine is idle, so the log can be merged.
    Idle,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Interval => f.write_str("interval"),
            Reason::At(minutes) => write!(f, "at {:02}:{:02}", minutes / 60, minutes % 60),
            Reason::High => f.write_str("high"),
            Reason::Memory => f.write_str("memory"),
            Reason::Urgent => f.write_str("urgent"),
            Reason::Boot { .. } => f.write_str("boot files"),
            Reason::Asked => f.write_str("asked"),
            Reason::Idle => f.write_str("idle"),
        }
    }
}

/// What a shutdown has for its flush at least, in milliseconds. systemd gives its unit 15 minutes,
/// OpenWrt's K scripts wait for 14 together; what comes before the flush takes some of that.
/// sysvinit waits for ever.
pub const SHUTDOWN: u64 = 600_000;

/// What the daemon sees at one moment: the clocks, the memory, root's COW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds on a clock that only runs forward.
    pub running: u64,
    /// Minutes since midnight, local time.
    pub minute: u16,
    /// Days since a fixed day, local time.
    pub day: i64,
    /// Root's COW.
    pub level: Level,
    /// What a flush would write.
    pub pending: Bytes,
    /// What the card takes in [`SHUTDOWN`], as far as that is known.
    pub in_time: Option<Bytes>,
    /// All RAM.
    pub ram: Bytes,
    /// RAM that programs could still get, in percent of all.
    pub available_percent: u64,
    /// Programs have waited for memory lately, says the kernel (PSI).
    pub pressed: bool,
    /// A hold lasts: nothing may reach the card now.
    pub held: bool,
    /// Root's COW was lost: there is nothing that could be flushed any more.
    pub lost: bool,
    /// The boot made the hold, since it was in doubt about the flush log.
    pub doubt: bool,
}

impl Sample {
    /// Whether more is in RAM than the card takes in the time that a shutdown has.
    pub fn is_beyond_shutdown(&self) -> bool {
        self.in_time.is_some_and(|most| self.level.used > most)
    }
}

/// What was done about what was due. Each reason ends only by what satisfies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything that was written is durable.
    Flush {
        /// The log is empty: a reader of the plain card, such as a boot loader, sees everything.
        on_card: bool,
    },
    /// What the log held is on the card. What was written since the last flush is not.
    Merge,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// When the last flush ended, or the daemon began; `running` of [`Sample`].
    flushed: u64,
    /// The wall clock at the last sample: day and minute.
    looked: Option<(i64, u16)>,
    /// A time of day that has come.
    at: Option<u16>,
    /// Changes under an urgent path.
    urgent: Changes,
    /// Changes in what a boot loader reads.
    boot: Changes,
    /// Some of these changes are on root.
    merge: bool,
    asked: bool,
    /// Something is in the log that an idle machine could merge.
    log_in_use: bool,
    /// When the last flush failed.
    failed: u64,
    /// How many failed in a row.
    failures: u32,
}

/// How many flushes for changes of a kind come as soon as they are due, before they have to be
/// `urgent-pause` apart.
pub const AT_ONCE: u64 = 12;

/// Changes of one kind, and how often they may ask for a flush: a file that is rewritten every few
/// seconds would wear the card out. It is a bucket of [`AT_ONCE`] flushes, to which `urgent-pause`
/// adds one; so no change waits for longer than that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Changes {
    /// When the first one came that is not flushed yet.
    since: Option<u64>,
    /// When the last one came.
    last: u64,
    /// When the bucket is full again.
    full: u64,
}

impl Changes {
    fn came(&mut self, now: &Sample) {
        self.since.get_or_insert(now.running);
        self.last = now.running;
    }

    /// When their flush is due.
    fn due(&self, config: &Config) -> Option<u64> {
        let soon = self.since?.saturating_add(config.urgent_delay);
        let spent = config.urgent_pause.saturating_mul(AT_ONCE - 1);
        Some(soon.max(self.full.saturating_sub(spent)))
    }

    fn are_due(&self, config: &Config, now: &Sample) -> bool {
        self.due(config).is_some_and(|due| now.running >= due)
    }

    /// Caps what is missing from the bucket at an empty bucket's worth: `urgent-pause` may have
    /// become shorter.
    fn cap(&mut self, config: &Config, now: &Sample) {
        let empty = config.urgent_pause.saturating_mul(AT_ONCE);
        self.full = self.full.min(now.running.saturating_add(empty));
    }

    /// A flush was made for them.
    fn spend(&mut self, config: &Config, now: &Sample) {
        self.full = self.full.max(now.running).saturating_add(config.urgent_pause);
    }

    /// What came until then is flushed; what came later still waits.
    fn settle(&mut self, until: u64) {
        self.since = self.since.map(|since| if since > until { since } else { self.last });
        self.since = self.since.filter(|change| *change > until);
    }
}

/// The first retry after a failed flush, in milliseconds; doubled each time, up to 64 times.
const RETRY: u64 = 2000;
/// How soon a flush is tried again when another process was at work, in milliseconds.
const RETRY_BUSY: u64 = 100;
/// A flush because memory is short gives back at least this part of the RAM: a 32nd.
const WORTH_FREEING: u64 = 32;
/// A wall clock that moves by more than this between two samples was set, in minutes.
const LEAP: i64 = 5;

impl Schedule {
    /// Begins now.
    pub fn new(now: &Sample) -> Self {
        let looked = Some((now.day, now.minute));
        Self { flushed: now.running, looked, ..Self::default() }
    }

    /// Something under an urgent path changed.
    pub fn urgent(&mut self, now: &Sample) {
        self.urgent.came(now);
    }

    /// Something that a boot loader reads changed; on root, or on a filesystem of its own.
    pub fn boot_files(&mut self, on_root: bool, now: &Sample) {
        self.boot.came(now);
        self.merge |= on_root;
    }

    /// The owner asked for a flush (SIGUSR1).
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// The log holds something, or not.
    pub fn log_in_use(&mut self, in_use: bool) {
        self.log_in_use = in_use;
    }

    /// What is due now. The daemon calls it at least once a minute.
    pub fn due(&mut self, config: &Config, now: &Sample) -> Option<Reason> {
        self.look_at_the_wall(config, now);
        self.urgent.cap(config, now);
        self.boot.cap(config, now);
        if now.lost {
            return None;
        }
        if now.held {
            // A hold ends only where data would be lost otherwise. If the boot was in doubt about
            // the flush log, even a full COW does not end it: writing past the log would lose for
            // good what may be in it. So what is in RAM waits for the owner's decision, and so do
            // writers.
            let ends = !now.doubt || config.hold_full == HoldFull::Discard;
            return (ends && is_full(config, now)).then_some(Reason::High);
        }
        if now.running < self.patience(config, now) {
            return None;
        }
        // Or there is more than a shutdown could still put on the card.
        let high = now.level.percent() >= config.high || now.is_beyond_shutdown();
        if high && now.pending > Bytes(0) {
            return Some(Reason::High);
        }
        if self.boot.are_due(config, now) {
            return Some(Reason::Boot { merge: self.merge });
        }
        if self.urgent.are_due(config, now) {
            return Some(Reason::Urgent);
        }
        if self.asked {
            return Some(Reason::Asked);
        }
        if memory_is_short(config, now) {
            return Some(Reason::Memory);
        }
        let worthwhile = now.pending > config.min_flush;
        if let Some(minutes) = self.at.filter(|_| worthwhile) {
            return Some(Reason::At(minutes));
        }
        let age = now.running.saturating_sub(self.flushed) / 1000;
        if worthwhile && config.interval > 0 && age >= config.interval {
            return Some(Reason::Interval);
        }
        if self.log_in_use && config.idle > 0 && age >= config.idle {
            return Some(Reason::Idle);
        }
        None
    }

    /// Notes a time of day that the wall clock has passed. A clock that was set passes no time: a
    /// router that boots in 1970 does not make up for all the days since.
    fn look_at_the_wall(&mut self, config: &Config, now: &Sample) {
        let minute = |day: i64, minute: u16| day.saturating_mul(1440).saturating_add(minute.into());
        if let Some((day, last)) = self.looked {
            let (from, to) = (minute(day, last), minute(now.day, now.minute));
            let step = to.saturating_sub(from);
            if (1..=LEAP).contains(&step) {
                let passed = config.at.iter().find(|at| {
                    let today = minute(now.day, **at);
                    let yesterday = today.saturating_sub(1440);
                    [today, yesterday].iter().any(|at| *at > from && *at <= to)
                });
                self.at = passed.copied().or(self.at);
            }
        }
        self.looked = Some((now.day, now.minute));
    }

    /// Takes a flush that was made for this reason, and succeeded, from the reason's bucket.
    pub fn spend(&mut self, reason: Reason, config: &Config, now: &Sample) {
        match reason {
            Reason::Urgent => self.urgent.spend(config, now),
            Reason::Boot { .. } => self.boot.spend(config, now),
            _ => {}
        }
    }

    /// What was due was done successfully. Changes that are reported from here on may have come
    /// after it.
    pub fn done(&mut self, done: Done, now: &Sample) {
        self.failures = 0;
        match done {
            Done::Flush { on_card } => {
                self.asked = false;
                self.flushed(on_card, now.running, now);
            }
            Done::Merge => self.log_in_use = false,
        }
    }

    /// Another process flushed. What had changed until `since`, a time as `running` of [`Sample`],
    /// is certainly in that flush; what came later may have come when it had begun.
    pub fn flushed_by_hand(&mut self, on_card: bool, since: u64, now: &Sample) {
        self.flushed(on_card, since, now);
    }

    fn flushed(&mut self, on_card: bool, until: u64, now: &Sample) {
        (self.flushed, self.at) = (now.running, None);
        self.urgent.settle(until);
        self.log_in_use &= !on_card;
        if on_card || !self.merge {
            self.boot.settle(until);
            // What came later may be on root.
            self.merge &= self.boot.since.is_some();
        }
    }

    /// A flush failed: everything is still due, but not at once.
    pub fn failed(&mut self, now: &Sample) {
        self.failures = self.failures.saturating_add(1);
        self.failed = now.running;
    }

    /// Another process is at work: what is due stays due, and is tried again as soon as that
    /// process may have ended. It counts as a failure, since nothing may watch the COW in between.
    pub fn busy(&mut self, now: &Sample) {
        self.failures = self.failures.max(1);
        self.failed = now.running.saturating_sub(RETRY - RETRY_BUSY);
    }

    /// The last flush failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How long nothing is tried again after a failure. While writers may be waiting for room, that
    /// is short.
    fn patience(&self, config: &Config, now: &Sample) -> u64 {
        match self.failures {
            0 => 0,
            _ if is_pressing(config, now) => self.failed.saturating_add(RETRY),
            failures => self.failed.saturating_add(RETRY << (failures - 1).min(6)),
        }
    }

    /// When the interval is over, as `running` of [`Sample`]; `None` when there is none.
    pub fn interval_ends(&self, config: &Config) -> Option<u64> {
        let millis = config.interval.saturating_mul(1000);
        (config.interval > 0).then(|| self.flushed.saturating_add(millis))
    }

    /// When flushes are due for changes that have come, as `running` of [`Sample`]: under an urgent
    /// path, and in what a boot loader reads.
    pub fn changes_due(&self, config: &Config) -> [Option<u64>; 2] {
        [self.urgent.due(config), self.boot.due(config)]
    }

    /// Whether a change waits for longer than `urgent-delay`, since changes of its kind came too
    /// often.
    pub fn is_put_off(&self, config: &Config, now: &Sample) -> bool {
        [&self.urgent, &self.boot].into_iter().any(|changes| {
            let soon = changes.since.map(|since| since.saturating_add(config.urgent_delay));
            changes.due(config).is_some_and(|due| due > now.running && Some(due) > soon)
        })
    }

    /// Milliseconds until the next thing is due, as far as it is known now; at most `most`.
    pub fn sleep(&self, config: &Config, now: &Sample, most: u64) -> u64 {
        let soon = self.changes_due(config).into_iter().flatten().min();
        let wait = soon.map_or(most, |at| at.saturating_sub(now.running));
        let wait = if self.asked { 0 } else { wait };
        wait.max(self.patience(config, now).saturating_sub(now.running)).min(most)
    }
}

/// Whether the COW is so full that writers are held back.
pub fn is_full(config: &Config, now: &Sample) -> bool {
    now.level.percent_of_limit() >= config.full_wait
}

/// Whether writers are held back, or the COW is so full that they may be.
pub fn is_pressing(config: &Config, now: &Sample) -> bool {
    now.level.percent_of_limit() >= throttle::let_go(config.full_wait)
}

/// Whether memory is short and a flush would give enough back.
///
/// A flush that gives back little does not count: a machine that is always short of memory would
/// wear its card out for nothing.
fn memory_is_short(config: &Config, now: &Sample) -> bool {
    let short = now.pressed || now.available_percent < config.memory_low;
    config.memory_low > 0 && short && now.level.used.0 >= (now.ram.0 / WORTH_FREEING).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A change that a boot loader has to find on the card.
    const BOOT: Reason = Reason::Boot { merge: true };

    fn boot_files(schedule: &mut Schedule, now: &Sample) {
        schedule.boot_files(true, now);
    }

    /// An ordinary flush, into the log.
    const FLUSH: Done = Done::Flush { on_card: false };

    fn level(mib: u64) -> Level {
        let size = Bytes(16 << 20);
        Level { used: Bytes(mib << 20), size, limit: size, dirty: Bytes(0) }
    }

    fn now(seconds: u64) -> Sample {
        Sample {
            running: seconds * 1000,
            minute: (seconds / 60 % 1440) as u16,
            day: (seconds / 86_400) as i64,
            level: level(1),
            pending: Bytes(1 << 20),
            in_time: None,
            ram: Bytes(64 << 20),
            available_percent: 50,
            pressed: false,
            held: false,
            lost: false,
            doubt: false,
        }
    }

    fn config(text: &str) -> Config {
        let mut config = Config::default();
        assert_eq!(config.read(text), [""; 0]);
        config
    }

    proptest! {
        /// A flush would make the owner's decision useless, so the daemon waits for it, however
        /// long and full.
        #[test]
        fn in_doubt_about_the_flush_log_nothing_is_flushed_whatever_is_due(
            used in 0u64..=17,
            discard: bool,
            pressed: bool,
            failures in 0u32..3,
            seconds in 0u64..1_000_000,
        ) {
            let mut config = config("interval=1s\nidle=1s\nat=00:01\nurgent-delay=1ms");
            config.hold_full = if discard { HoldFull::Discard } else { HoldFull::Flush };
            let (mut schedule, begin) = (Schedule::new(&now(0)), now(0));
            schedule.urgent(&begin);
            schedule.boot_files(true, &begin);
            schedule.ask();
            schedule.log_in_use(true);
            (0..failures).for_each(|_| schedule.failed(&begin));
            let level = level(used);
            let (available_percent, held) = (if pressed { 0 } else { 50 }, true);
            let now = Sample { level, pressed, available_percent, held, ..now(seconds) };
            // The owner's own hold ends when it is full; in doubt only by a reboot, which drops
            // what is in RAM alone.
            let full = is_full(&config, &now).then_some(Reason::High);
            prop_assert_eq!(schedule.due(&config, &now), full);
            let doubt = Sample { doubt: true, ..now };
            prop_assert_eq!(schedule.due(&config, &doubt), full.filter(|_| discard));
        }
    }

    proptest! {
        /// However often files change, under an urgent path and in what a boot loader reads: no
        /// more flushes for that than the bucket has and gets, none of them later than it must be,
        /// and one kind takes nothing from the other.
        #[test]
        fn changes_ask_for_a_bounded_number_of_flushes_and_none_waits_for_longer_than_the_pause(
            changes in prop::collection::vec((0u64..3000, 0u8..4, 0u64..900), 1..400),
            delay in 1u64..3000,
            pause in prop::option::of(1u64..20_000),
        ) {
            let pause_text = pause.map_or("off".to_owned(), |pause| format!("{pause}ms"));
            let config = config(&format!("interval=off\nurgent-delay={delay}ms\nurgent-pause={pause_text}"));
            let mut schedule = Schedule::new(&now(0));
            let mut running = 0;
            let mut flushes: [Vec<u64>; 2] = Default::default();
            let mut waiting: [Option<u64>; 2] = [None; 2];
            for (after, kind, took) in changes {
                // The daemon sleeps as long as it may, and wakes at each change.
                let until = running + after;
                while running < until {
                    let moment = Sample { running, ..now(0) };
                    let (kind, reason) = match schedule.due(&config, &moment) {
                        None => {
                            let sleep = schedule.sleep(&config, &moment, until - running);
                            running += sleep.max(1);
                            continue;
                        }
                        Some(reason @ Reason::Urgent) => (0, reason),
                        Some(reason @ Reason::Boot { .. }) => (1, reason),
                        Some(reason) => panic!("{reason}"),
                    };
                    let since = waiting[kind].take().expect("nothing had changed");
                    // What the other kind's flush took, and a look, may come on top.
                    let longest = delay.max(pause.unwrap_or(0)) + 2 * 900;
                    prop_assert!(running - since <= longest, "{} after {longest}", running - since);
                    flushes[kind].push(running);
                    running += took;
                    let moment = Sample { running, ..moment };
                    schedule.spend(reason, &config, &moment);
                    schedule.done(Done::Flush { on_card: kind == 1 }, &moment);
                    // Whatever kind it was for, it had everything.
                    waiting[0] = None;
                    if kind == 1 { waiting[1] = None; }
                }
                let moment = Sample { running, ..now(0) };
                let kind = usize::from(kind == 0);
                match kind {
                    0 => schedule.urgent(&moment),
                    _ => schedule.boot_files(true, &moment),
                }
                waiting[kind].get_or_insert(running);
            }
            for times in &flushes {
                for (first, from) in times.iter().enumerate() {
                    for (n, to) in times[first..].iter().enumerate() {
                        let most = pause.map_or(u64::MAX, |pause| AT_ONCE + (to - from) / pause);
                        prop_assert!(n as u64 <= most, "{n} from {from} to {to}");
                    }
                }
            }
        }

        /// A change that came when a flush by hand may have begun is never taken for flushed,
        /// however many came before it.
        #[test]
        fn what_came_after_a_flush_by_hand_had_begun_is_still_due(
            times in prop::collection::vec(0u64..10_000, 1..20),
            until in 0u64..10_000,
            boot: bool,
            on_root: bool,
            on_card: bool,
        ) {
            let mut times = times;
            times.sort_unstable();
            let config = config("interval=off\nurgent-delay=1ms");
            let mut schedule = Schedule::new(&now(0));
            for running in &times {
                let at = Sample { running: *running, ..now(0) };
                if boot { schedule.boot_files(on_root, &at) } else { schedule.urgent(&at) }
            }
            schedule.flushed_by_hand(on_card, until, &now(20));
            let due = schedule.due(&config, &now(30)).is_some();
            let left = times.iter().any(|time| *time > until) || (boot && on_root && !on_card);
            prop_assert_eq!(due, left);
        }
    }

    /// A pause that was an hour when it was spent, and is a second now.
    #[test]
    fn a_shorter_pause_holds_at_once() {
        let long = config("interval=off\nurgent-delay=1ms\nurgent-pause=1h");
        let mut schedule = Schedule::new(&now(0));
        for _ in 0..AT_ONCE {
            schedule.spend(Reason::Urgent, &long, &now(0));
        }
        schedule.urgent(&now(1));
        assert_eq!(schedule.due(&long, &now(3599)), None);
        assert!(schedule.is_put_off(&long, &now(2)) && !schedule.is_put_off(&long, &now(3600)));
        assert_eq!(schedule.changes_due(&long), [Some(3_600_000), None]);
        let short = config("interval=off\nurgent-delay=1ms\nurgent-pause=1s");
        assert_eq!(schedule.clone().due(&long, &now(3600)), Some(Reason::Urgent));
        assert_eq!(schedule.due(&short, &now(3000)), None);
        assert_eq!(schedule.due(&short, &now(3001)), Some(Reason::Urgent));
        // And without any, what was spent counts no more.
        let off = config("interval=off\nurgent-delay=1ms\nurgent-pause=off");
        schedule.spend(Reason::Urgent, &long, &now(3001));
        assert_eq!(schedule.due(&off, &now(3002)), Some(Reason::Urgent));
        assert!(!schedule.is_put_off(&off, &now(3002)));
    }

    /// A boot loader reads all of a filesystem of its own; only what it reads of root has to leave
    /// the log.
    #[test]
    fn boot_files_beside_root_want_a_flush_and_no_merge() {
        let config = config("interval=off\nurgent-delay=2s");
        let mut schedule = Schedule::new(&now(0));
        schedule.boot_files(false, &now(1));
        assert_eq!(schedule.due(&config, &now(3)), Some(Reason::Boot { merge: false }));
        schedule.done(FLUSH, &now(3));
        assert_eq!(schedule.due(&config, &now(9)), None);
        // One on root among them, whichever came first.
        for first in [true, false] {
            schedule.boot_files(first, &now(10));
            schedule.boot_files(!first, &now(10));
            assert_eq!(schedule.due(&config, &now(12)), Some(BOOT));
            schedule.done(FLUSH, &now(12));
            assert_eq!(schedule.due(&config, &now(13)), Some(BOOT), "that was no merge");
            schedule.done(Done::Flush { on_card: true }, &now(13));
        }
        schedule.boot_files(false, &now(20));
        assert_eq!(schedule.due(&config, &now(22)), Some(Reason::Boot { merge: false }));
    }

    /// The seconds at which flushes come, with a look every 30 s.
    fn run(config: &Config, mut at: impl FnMut(u64) -> Sample, until: u64) -> Vec<(u64, Reason)> {
        let mut schedule = Schedule::new(&at(0));
        let mut flushes = Vec::new();
        for second in (30..until).step_by(30) {
            let now = at(second);
            if let Some(reason) = schedule.due(config, &now) {
                flushes.push((second, reason));
                schedule.done(FLUSH, &now);
            }
        }
        flushes
    }

    #[test]
    fn an_interval_is_kept() {
        let flushes = run(&config("interval=10m"), now, 2000);
        assert_eq!(flushes, [600, 1200, 1800].map(|second| (second, Reason::Interval)));
        assert!(run(&config("interval=off"), now, 100_000).is_empty());
        let idle = |second| Sample { pending: Bytes(4096), ..now(second) };
        assert!(run(&config("interval=10m"), idle, 100_000).is_empty(), "not worth it");
    }

    #[test]
    fn times_of_day_come_once_a_day() {
        let config = config("interval=off\nat=03:30,15:00");
        let flushes = run(&config, now, 2 * 86_400);
        let (night, noon) = (Reason::At(210), Reason::At(900));
        let expected = [(12_600, night), (54_000, noon), (99_000, night), (140_400, noon)];
        assert_eq!(flushes, expected);
        let midnight = run(&super::tests::config("interval=off\nat=00:00"), now, 200_000);
        assert_eq!(midnight, [(86_400, Reason::At(0)), (172_800, Reason::At(0))]);
    }

    #[test]
    fn a_clock_that_leaps_neither_floods_nor_starves() {
        let config = config("interval=1h\nat=03:30");
        // The clock starts in 1970 and is set after ten minutes, then goes back a day.
        let leaping = |second: u64| {
            let day = match second {
                0..600 => 0,
                600..4000 => 20_000,
                _ => 19_999,
            };
            Sample { day, ..now(second) }
        };
        let flushes = run(&config, leaping, 8000);
        assert_eq!(flushes, [(3600, Reason::Interval), (7200, Reason::Interval)]);
    }

    #[test]
    fn changes_that_are_urgent_come_together() {
        let config = config("urgent-delay=2s");
        let mut schedule = Schedule::new(&now(0));
        let at = |millis| Sample { running: millis, ..now(0) };
        schedule.urgent(&at(1000));
        schedule.urgent(&at(2500));
        assert_eq!(schedule.sleep(&config, &at(2500), 60_000), 500);
        assert_eq!(schedule.due(&config, &at(2999)), None);
        assert_eq!(schedule.due(&config, &at(3000)), Some(Reason::Urgent));
        schedule.done(FLUSH, &at(3000));
        assert_eq!(schedule.due(&config, &at(9000)), None);
        schedule.boot_files(true, &at(9000));
        assert_eq!(schedule.due(&config, &at(11_000)), Some(BOOT));
    }

    #[test]
    fn a_full_cow_and_short_memory_do_not_wait() {
        let config = Config::default();
        let mut schedule = Schedule::new(&now(0));
        let full = Sample { level: level(8), ..now(1) };
        assert_eq!(schedule.due(&config, &full), Some(Reason::High));
        let short = Sample { available_percent: 3, level: level(3), ..now(1) };
        assert_eq!(schedule.due(&config, &short), Some(Reason::Memory));
        let pressed = Sample { pressed: true, level: level(3), ..now(1) };
        assert_eq!(schedule.due(&config, &pressed), Some(Reason::Memory));
        // What gives back little memory is not worth a write to the card.
        assert_eq!(schedule.due(&config, &Sample { level: level(1), ..pressed }), None);
        let mut off = config.clone();
        off.memory_low = 0;
        assert_eq!(schedule.due(&off, &pressed), None);
        // Held: only when it can't be kept any more.
        assert_eq!(schedule.due(&config, &Sample { held: true, ..full }), None);
        let held = Sample { level: level(15), held: true, ..now(1) };
        assert_eq!(schedule.due(&config, &held), Some(Reason::High));
    }

    #[test]
    fn somebody_else_is_not_waited_for_as_long_as_a_card_that_fails() {
        let config = Config::default();
        let mut schedule = Schedule::new(&now(0));
        schedule.ask();
        let at = |millis| Sample { running: millis, ..now(0) };
        schedule.busy(&at(10_000));
        assert!(schedule.is_failing());
        assert_eq!(schedule.due(&config, &at(10_099)), None);
        assert_eq!(schedule.due(&config, &at(10_100)), Some(Reason::Asked));
        schedule.done(FLUSH, &at(10_200));
        assert!(!schedule.is_failing());
    }

    #[test]
    fn a_card_that_fails_is_tried_again_with_growing_patience() {
        let config = Config::default();
        let mut schedule = Schedule::new(&now(0));
        schedule.ask();
        let mut tries = Vec::new();
        for second in 0..600 {
            let now = now(second);
            if schedule.due(&config, &now).is_some() {
                tries.push(second);
                schedule.failed(&now);
            }
        }
        assert_eq!(tries, [0, 2, 6, 14, 30, 62, 126, 254, 382, 510]);
        // Once writers wait there is no time for that. They wait until well below the mark.
        let full = Sample { level: level(12), ..now(512) };
        assert_eq!(schedule.due(&config, &full), Some(Reason::High));
    }

    proptest! {
        #[test]
        fn any_clock_is_looked_at(days in prop::collection::vec(any::<i64>(), 1..9), minute: u16, running: u64) {
            let config = config("at=03:30");
            let mut schedule = Schedule::new(&now(0));
            for day in days {
                let now = Sample { day, minute, running, ..now(0) };
                if schedule.due(&config, &now).is_some() { schedule.failed(&now) }
                let _ = (schedule.sleep(&config, &now, 1000), schedule.interval_ends(&config));
            }
        }
    }

    #[test]
    fn a_flush_by_hand_begins_the_interval_anew() {
        let config = config("interval=10m\nidle=15m");
        let mut schedule = Schedule::new(&now(0));
        schedule.log_in_use(true);
        schedule.urgent(&now(298));
        schedule.flushed_by_hand(false, 298_000, &now(300));
        assert_eq!(schedule.interval_ends(&config), Some(900_000));
        assert_eq!(schedule.due(&config, &now(899)), None, "what was urgent is flushed");
        assert_eq!(schedule.due(&config, &now(900)), Some(Reason::Interval));
        let nothing = |second| Sample { pending: Bytes(0), ..now(second) };
        assert_eq!(schedule.due(&config, &nothing(1199)), None);
        assert_eq!(schedule.due(&config, &nothing(1200)), Some(Reason::Idle));
    }

    #[test]
    fn what_a_flush_by_hand_does_not_do_stays_due() {
        let config = config("interval=off\nurgent-delay=2s");
        let mut schedule = Schedule::new(&now(0));
        // A boot loader wants a merge, too; SIGUSR1 may have come after that flush had begun.
        schedule.boot_files(true, &now(1));
        schedule.ask();
        schedule.flushed_by_hand(false, 1_500, &now(2));
        assert_eq!(schedule.due(&config, &now(3)), Some(BOOT));
        schedule.done(Done::Flush { on_card: true }, &now(3));
        assert_eq!(schedule.due(&config, &now(60)), None);
        schedule.ask();
        schedule.flushed_by_hand(true, 60_500, &now(61));
        assert_eq!(schedule.due(&config, &now(61)), Some(Reason::Asked));
    }

    #[test]
    fn what_changed_when_a_flush_by_hand_may_have_begun_is_flushed_again() {
        let config = config("interval=off\nurgent-delay=2s");
        let at = |millis| Sample { running: millis, ..now(0) };
        for (change, reason) in
            [(Schedule::urgent as fn(&mut Schedule, &Sample), Reason::Urgent), (boot_files, BOOT)]
        {
            for (when, due) in [(5000, None), (5001, Some(reason))] {
                let mut schedule = Schedule::new(&now(0));
                change(&mut schedule, &at(when));
                schedule.flushed_by_hand(true, 5000, &at(6000));
                assert_eq!(schedule.due(&config, &at(9000)), due, "{reason} at {when}");
            }
        }
    }

    /// What satisfies a reason, and what does not: a flush is not a merge, nor a merge a flush.
    #[test]
    fn each_reason_ends_only_by_what_satisfies_it() {
        let config = config("interval=10m\nidle=5m\nurgent-delay=2s\nat=00:09\nmin-flush=8K");
        let merge = Done::Merge;
        let on_card = Done::Flush { on_card: true };
        type Wanted = (fn(&mut Schedule), Reason, [bool; 3]);
        let wanted: [Wanted; 6] = [
            (|schedule| schedule.boot_files(true, &now(590)), BOOT, [true, true, false]),
            (|schedule| schedule.urgent(&now(590)), Reason::Urgent, [true, false, false]),
            (Schedule::ask, Reason::Asked, [true, false, false]),
            (|schedule| schedule.at = Some(9), Reason::At(9), [true, false, false]),
            (|_| (), Reason::Interval, [true, false, false]),
            (|schedule| schedule.log_in_use(true), Reason::Idle, [false, true, false]),
        ];
        for (want, reason, still_due) in wanted {
            for (done, still) in [merge, FLUSH, on_card].into_iter().zip(still_due) {
                let mut schedule = Schedule::new(&now(0));
                // The time of day is passed before.
                schedule.looked = Some((0, 10));
                want(&mut schedule);
                let moment = match reason {
                    Reason::Idle => Sample { pending: Bytes(0), ..now(600) },
                    _ => now(600),
                };
                assert_eq!(schedule.due(&config, &moment), Some(reason));
                schedule.done(done, &moment);
                let later = Sample { minute: 10, running: moment.running + 301_000, ..moment };
                let due = schedule.due(&config, &later);
                assert_eq!(due == Some(reason), still, "{reason} after {done:?}: {due:?}");
            }
        }
    }

    #[test]
    fn a_flush_for_another_reason_does_not_forget_the_merge_for_the_boot_loader() {
        let config = config("interval=off\nurgent-delay=2s");
        let mut schedule = Schedule::new(&now(0));
        schedule.boot_files(true, &now(10));
        // SIGUSR1 within urgent-delay.
        schedule.ask();
        assert_eq!(schedule.due(&config, &now(11)), Some(Reason::Asked));
        schedule.done(FLUSH, &now(11));
        assert_eq!(schedule.due(&config, &now(12)), Some(BOOT));
    }

    #[test]
    fn a_merge_while_idle_is_no_flush() {
        let config = config("interval=20s\nidle=5s\nurgent-delay=10s\nmin-flush=8K");
        let mut schedule = Schedule::new(&now(0));
        schedule.log_in_use(true);
        schedule.urgent(&now(4));
        assert_eq!(schedule.due(&config, &now(5)), Some(Reason::Idle));
        schedule.done(Done::Merge, &now(16));
        assert_eq!(schedule.due(&config, &now(16)), Some(Reason::Urgent));
        assert_eq!(schedule.interval_ends(&config), Some(20_000));
    }

    #[test]
    fn a_time_of_day_that_came_is_made_up_for_when_there_is_something_to_flush() {
        let config = config("interval=off\nat=00:02");
        let mut schedule = Schedule::new(&now(0));
        let little = |second| Sample { pending: Bytes(4096), ..now(second) };
        assert_eq!(schedule.due(&config, &little(60)), None);
        assert_eq!(schedule.due(&config, &little(120)), None, "not worth a write");
        assert_eq!(schedule.due(&config, &now(600)), Some(Reason::At(2)));
        // Unless another process flushed since.
        schedule.flushed_by_hand(false, 659_000, &now(660));
        assert_eq!(schedule.due(&config, &now(720)), None);
    }

    /// Each key that a schedule reads, two values, and a moment at which they differ.
    #[test]
    fn every_key_that_says_when_changes_when() {
        let at = |change: fn(&mut Sample)| {
            let mut now = now(3600);
            change(&mut now);
            now
        };
        type Case = (&'static str, &'static str, Sample, Option<Reason>, Option<Reason>);
        let cases: [Case; 7] = [
            ("interval=1h", "interval=2h", at(|_| ()), Some(Reason::Interval), None),
            ("at=01:00", "at=01:01", at(|now| now.minute = 60), Some(Reason::At(60)), None),
            ("high=60%", "high=70%", at(|now| now.level = level(10)), Some(Reason::High), None),
            (
                "memory-low=10%",
                "memory-low=5%",
                at(|now| (now.available_percent, now.level) = (8, level(3))),
                Some(Reason::Memory),
                None,
            ),
            (
                "min-flush=512K\ninterval=1h",
                "min-flush=1M\ninterval=1h",
                at(|_| ()),
                Some(Reason::Interval),
                None,
            ),
            (
                "full-wait=60%",
                "full-wait=90%",
                at(|now| (now.held, now.level) = (true, level(11))),
                Some(Reason::High),
                None,
            ),
            ("idle=1h", "idle=2h", at(|_| ()), Some(Reason::Idle), None),
        ];
        for (one, other, moment, first, second) in cases {
            let due = |keys: &str| {
                let config = config(&format!(
                    "interval=off\nhigh=95%\nmemory-low=off\nmin-flush=8K\n{keys}"
                ));
                let mut schedule = Schedule::new(&now(0));
                schedule.log_in_use(keys.starts_with("idle"));
                // A sample a minute before, so that the clock passes a time of day.
                schedule.look_at_the_wall(&config, &Sample { minute: 59, ..moment });
                schedule.due(&config, &moment)
            };
            assert_eq!(due(one), first, "{one}");
            assert_eq!(due(other), second, "{other}");
        }
    }

    #[test]
    fn each_limit_counts_from_its_very_value_on() {
        let config = config("interval=off\nhigh=50%\nmemory-low=8%\nmin-flush=8K\nidle=60s");
        let due = |now: Sample| Schedule::new(&super::tests::now(0)).due(&config, &now);
        let high = |used| Sample { level: Level { used: Bytes(used), ..level(0) }, ..now(1) };
        assert_eq!(due(high(8 << 20)), Some(Reason::High));
        assert_eq!(due(high((8 << 20) - (1 << 17))), None);
        // Nothing to flush, however full: dirty data of other filesystems fill no COW.
        assert_eq!(due(Sample { pending: Bytes(0), ..high(8 << 20) }), None);
        // And however empty, where the card is so slow that a shutdown could not wait for the end.
        let slow = |used| Sample { in_time: Some(Bytes(1 << 20)), ..high(used) };
        assert_eq!(due(slow((1 << 20) + 1)), Some(Reason::High));
        assert_eq!(due(slow(1 << 20)), None);
        assert_eq!(due(Sample { held: true, ..slow(2 << 20) }), None);
        let short = |percent| Sample { available_percent: percent, level: level(2), ..now(1) };
        assert_eq!((due(short(7)), due(short(8))), (Some(Reason::Memory), None));
        let small = |used| Sample { level: Level { used: Bytes(used), ..level(0) }, ..short(7) };
        assert_eq!((due(small(2 << 20)), due(small((2 << 20) - 1))), (Some(Reason::Memory), None));
        let mut worthwhile = config.clone();
        worthwhile.interval = 60;
        let pending = |bytes| Sample { pending: Bytes(bytes), ..now(60) };
        let due = |now: Sample| Schedule::new(&super::tests::now(0)).due(&worthwhile, &now);
        assert_eq!((due(pending(8193)), due(pending(8192))), (Some(Reason::Interval), None));
    }

    #[test]
    fn writers_that_may_be_held_back_make_a_retry_soon() {
        let config = config("full-wait=80%");
        let pressing = |percent: u64| Sample {
            level: Level {
                used: Bytes(percent << 20),
                size: Bytes(100 << 20),
                limit: Bytes(100 << 20),
                dirty: Bytes(0),
            },
            ..now(100)
        };
        assert!(is_pressing(&config, &pressing(70)) && !is_pressing(&config, &pressing(69)));
        let mut schedule = Schedule::new(&now(0));
        schedule.ask();
        for _ in 0..5 {
            schedule.failed(&now(100));
        }
        let after =
            |percent, seconds: u64| Sample { running: (100 + seconds) * 1000, ..pressing(percent) };
        assert_eq!(schedule.due(&config, &after(60, 31)), None);
        assert_eq!(schedule.due(&config, &after(70, 1)), None);
        assert!(schedule.due(&config, &after(70, 2)).is_some());
        assert_eq!(schedule.sleep(&config, &after(70, 1), 60_000), 1000);
        assert_eq!(schedule.sleep(&config, &after(60, 1), 60_000), 31_000);
    }

    #[test]
    fn how_soon_what_is_urgent_comes_is_the_owners_choice() {
        for (delay, millis) in [("500ms", 500), ("5s", 5000)] {
            let config = config(&format!("urgent-delay={delay}"));
            let at = |millis| Sample { running: millis, ..now(0) };
            for (change, reason) in [
                (Schedule::urgent as fn(&mut Schedule, &Sample), Reason::Urgent),
                (boot_files, BOOT),
            ] {
                let mut schedule = Schedule::new(&now(0));
                change(&mut schedule, &at(1000));
                assert_eq!(schedule.sleep(&config, &at(1000), 60_000), millis, "{delay}");
                assert_eq!(schedule.due(&config, &at(999 + millis)), None, "{delay}");
                assert_eq!(schedule.due(&config, &at(1000 + millis)), Some(reason), "{delay}");
            }
        }
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let all = [
            Reason::Interval,
            Reason::At(210),
            Reason::High,
            Reason::Memory,
            Reason::Urgent,
            BOOT,
            Reason::Asked,
            Reason::Idle,
        ];
        let words = all.map(|reason| reason.to_string());
        let known =
            ["interval", "at 03:30", "high", "memory", "urgent", "boot files", "asked", "idle"];
        assert_eq!(words, known);
    }

    #[test]
    fn the_least_that_can_be_asked_for_is_not_never_and_off_is() {
        let mut schedule = Schedule::new(&now(0));
        schedule.log_in_use(true);
        let least = config("interval=1ms\nidle=off");
        assert_eq!(
            (schedule.due(&least, &now(0)), schedule.due(&least, &now(1))),
            (None, Some(Reason::Interval))
        );
        assert_eq!(schedule.interval_ends(&least), Some(1000));
        let idle = config("interval=off\nidle=1ms");
        assert_eq!(
            (schedule.due(&idle, &now(0)), schedule.due(&idle, &now(1))),
            (None, Some(Reason::Idle))
        );
        assert_eq!(schedule.interval_ends(&idle), None);
        let never = config("interval=off\nidle=off");
        assert_eq!(schedule.due(&never, &now(1_000_000)), None);
        let full = Sample { level: level(8), pending: Bytes(1), ..now(1) };
        assert_eq!(schedule.due(&never, &full), Some(Reason::High), "any pending byte");
    }

    #[test]
    fn nothing_is_due_once_the_cow_was_lost() {
        let config = config("interval=1m\nat=00:10\n");
        let lost = Sample { lost: true, pending: Bytes::MAX, level: Level::default(), ..now(9000) };
        let mut schedule = Schedule::new(&now(0));
        schedule.ask();
        assert_eq!(schedule.due(&config, &lost), None);
        assert_eq!(schedule.due(&config, &Sample { lost: false, ..lost }), Some(Reason::Asked));
    }

    #[test]
    fn a_hold_ends_from_the_very_mark_on() {
        let config = config("full-wait=75%");
        let held = |mib| Sample { held: true, level: level(mib), ..now(1) };
        let mut schedule = Schedule::new(&now(0));
        assert_eq!(schedule.due(&config, &held(11)), None);
        assert_eq!(schedule.due(&config, &held(12)), Some(Reason::High));
    }

    #[test]
    fn the_last_minute_of_a_day_is_not_lost_at_midnight() {
        let config = config("interval=off\nat=23:59");
        let at = |day, minute| Sample { day, minute, ..now(0) };
        for (before, after, passed) in
            [((0, 1438), (1, 1), true), ((0, 1439), (1, 1), false), ((1, 0), (1, 3), false)]
        {
            let mut schedule = Schedule::new(&at(before.0, before.1));
            let due = schedule.due(&config, &at(after.0, after.1));
            assert_eq!(due, passed.then_some(Reason::At(1439)), "{before:?} to {after:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_not_slept_over_and_one_percent_is_not_never() {
        let config = config("interval=off\nmemory-low=1%");
        let mut schedule = Schedule::new(&now(0));
        assert_eq!(schedule.sleep(&config, &now(0), 1000), 1000);
        schedule.ask();
        assert_eq!(schedule.sleep(&config, &now(0), 1000), 0);
        schedule.done(FLUSH, &now(0));
        let empty = |percent| Sample { available_percent: percent, level: level(3), ..now(1) };
        assert_eq!(schedule.due(&config, &empty(1)), None);
        assert_eq!(schedule.due(&config, &empty(0)), Some(Reason::Memory));
    }
}
