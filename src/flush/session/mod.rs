//! A command at work: it holds the lock, settles what an earlier command left, and then flushes, merges,
//! stops or starts.
//!
//! flush    seal, then append or merge: everything until now becomes durable
//! stop     and start: write through, and defer again
//! outcome  what came of it

mod flush;
mod outcome;
mod stop;

pub use self::outcome::{How, Incomplete, Outcome, at_risk};

use std::time::{Duration, Instant};

use super::prune::Policy;
use super::settle::{Hands, Settled, settle};
use super::{cowfile, seal};
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog;
use crate::output::progress::Meter;
use crate::pure::config::Config;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::policy::rule::Rule;
use crate::pure::stack::{Stack, Wish};
use crate::pure::units::Bytes;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, lock, memory, mlock, priority};
use crate::throttle::valve::Valve;

/// How often a command that waits tries to get the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// A command at work: it holds the lock.
pub struct Session<'a> {
    control: Control,
    /// Holds writers back when the COW has no room for them, from the first moment on: as long as this
    /// process has the lock nobody else can make room.
    valve: Hand<'a>,
    meter: Meter,
    signals: &'a mut Held,
    /// What a COW may hold.
    limit: Bytes,
    /// What one flush can put into the flush log.
    roof: Bytes,
    config: &'a Config,
    command: &'static str,
    reason: String,
    /// What had changed.
    path: String,
    /// What is sealed was frozen, as far as this process knows.
    frozen: bool,
    /// Another program had frozen it. Who tries again after that, as a shutdown does, can't wait for its thaw.
    foreign: bool,
    /// The owner has said that flushes may be dropped that the log holds and root does not have.
    forget: bool,
    /// What was done since then, and is noted nowhere yet, be it what an earlier command had sealed.
    done: Settled,
    since: Instant,
    /// What the card said when it refused what was then done in another way.
    refused: Option<String>,
}

/// Whose valve a session works with.
enum Hand<'a> {
    /// A command's: it goes with the session.
    Own(Valve),
    /// The daemon's, which goes on to look after the COW.
    Lent(&'a mut Valve),
}

impl Hand<'_> {
    fn valve(&mut self) -> &mut Valve {
        match self {
            Self::Own(valve) => valve,
            Self::Lent(valve) => valve,
        }
    }
}

impl<'a> Session<'a> {
    /// Takes the lock, for the command of this name. Such a session has to be settled before it can
    /// do anything: [`settled`](Self::settled), [`settled_anyhow`](Self::settled_anyhow).
    ///
    /// While another command has the lock, `waits` is told so again and again, and says whether to wait on. A signal ends
    /// that as well.
    pub fn begin(
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        waits: &mut dyn FnMut(&Error) -> bool,
    ) -> Result<Self> {
        // All that takes long comes before the lock, which keeps others from making room.
        prepare_process()?;
        let control = Control::open()?;
        let valve = Hand::Own(Valve::ready(&control)?);
        // By trying, and not by looking whether it is free: somebody else may be faster, such as the daemon, whose next
        // flush may be due.
        while let Err(error) = lock::take(&control) {
            let busy = error.exit_code() == Exit::Busy;
            // In this order: who does not wait here asks for the signal itself.
            if !busy || !waits(&error) || signals.arrived().is_some() {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(Self::open(control, command, config, signals, valve))
    }

    /// The same for the daemon, which has its control device open already (to close another would give the
    /// lock back), and a valve. If that works when this session ends, whether it succeeded or not, it
    /// goes on working, and the lock is kept: no other command may meet that valve. The next session
    /// begins behind it.
    pub fn behind(
        valve: &'a mut Valve,
        control: Control,
        config: &'a Config,
        signals: &'a mut Held,
    ) -> Result<Self> {
        prepare_process()?;
        match valve.works() {
            true => lock::keep(&control)?,
            false => lock::take(&control)?,
        }
        Ok(Self::open(control, "daemon", config, signals, Hand::Lent(valve)))
    }

    fn open(
        control: Control,
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        valve: Hand<'a>,
    ) -> Self {
        Self {
            control,
            valve,
            meter: Meter::new(),
            signals,
            limit: Bytes(0),
            roof: Bytes::MAX,
            config,
            command,
            reason: String::new(),
            path: String::new(),
            frozen: false,
            foreign: false,
            forget: false,
            done: Settled::default(),
            since: Instant::now(),
            refused: None,
        }
    }

    /// Shows progress by `meter`.
    pub fn showing(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Settles what an earlier command left.
    pub fn settled(mut self, wish: Wish) -> Result<Self> {
        self.prepare(|session| session.settle(wish))?;
        self.ready()
    }

    /// The same, and merges what is in the flush log: first of all, since that is the way out when nothing
    /// can be appended behind what is in it. Returns what was merged, as [`Self::merge`] does.
    pub fn merged(mut self) -> Result<(Self, Option<Settled>)> {
        let mut merged = None;
        self.prepare(|session| {
            let settled = session.settle(Wish { merge: true, ..Wish::default() })?;
            merged = settled.of_log();
            Ok(settled)
        })?;
        Ok((self.ready()?, merged))
    }

    /// The same on the way down: a log that can't be written is passed by.
    pub fn settled_anyhow(mut self) -> Result<Self> {
        self.prepare(|session| {
            session.settle(Wish::default()).or_else(|error| session.pass_by_log(error))
        })?;
        self.ready()
    }

    /// The valve comes before all else: to read the log from a card that is busy may take long.
    fn prepare(&mut self, settle: impl FnOnce(&mut Self) -> Result<Settled>) -> Result<()> {
        // A seal that was killed together with its guard may have left root's filesystem frozen. Where it
        // left root suspended, too, who wakes it up thaws: to thaw is to write. Never with a valve: whoever waits
        // at one may hold what a thaw needs, and a seal of this process thaws by itself.
        let awake = self.stack()?.root.is_some_and(|root| !root.suspended);
        if awake && !self.valve.valve().works() {
            seal::thaw_root();
        }
        self.hold_back()?;
        self.roof = flushlog::roof(&self.stack()?);
        self.measure()?;
        settle(self).map(drop)
    }

    /// After the card has refused a write to the log: what is sealed goes to root without it. What is
    /// in RAM is lost with the power; a cut while it is merged can only tear root.
    fn pass_by_log(&mut self, error: Error) -> Result<Settled> {
        if error.exit_code() != Exit::Card {
            return Err(error);
        }
        let settled = self.settle(Wish { direct: true, ..Wish::default() })?;
        // What to do about it is done.
        self.refused.get_or_insert(error.advise("").to_string());
        Ok(settled)
    }

    /// Everything is settled: what that gave back may be used.
    fn ready(mut self) -> Result<Self> {
        self.measure()?;
        // A flush that was killed may have left the COW small.
        self.grow()?;
        Ok(self)
    }

    /// Learns how large the COW may be.
    fn measure(&mut self) -> Result<()> {
        let (memory, stack) = (memory::info()?, self.stack()?);
        self.limit = self.rule(&stack).limit(&memory, held_in_ram(&stack)?);
        Ok(())
    }

    /// Flushes that the log holds and root does not have, since they could not be read, may be dropped.
    pub fn forgetting(mut self, forget: bool) -> Self {
        self.forget = forget;
        self
    }

    /// Says why, for the record, and what had changed, if that is why.
    pub fn because(mut self, reason: impl std::fmt::Display, path: String) -> Self {
        (self.reason, self.path) = (reason.to_string(), path);
        self
    }

    /// The COW's limit.
    pub fn limit(&self) -> Bytes {
        self.limit
    }

    /// Sets a valve to work, where root can have one.
    fn hold_back(&mut self) -> Result<()> {
        let stack = self.control.stack()?;
        let rule = self.rule(&stack);
        self.valve.valve().hold_back(&stack, rule)
    }

    /// Brings the stack to rest, while writers may be at work. While a COW is sealed they have less
    /// room than usual.
    fn settle(&mut self, wish: Wish) -> Result<Settled> {
        self.hold_back()?;
        let policy = self.policy();
        priority::realtime(false);
        let Self { control, valve, meter, signals, config, limit, roof, forget, .. } = self;
        let (valve, limit, roof, forget) = (valve.valve(), *limit, *roof, *forget);
        let mut hands =
            Hands { control, meter, signals, valve, policy, config, limit, roof, forget };
        let settled = settle(&mut hands, wish);
        if let Ok(settled) = &settled {
            self.done.add(settled);
        }
        // In this order: what waits at the valve needs the room. Nothing was freed by a failure.
        let settled = settled.and_then(|settled| self.grow().map(|()| settled));
        // Writers may not run ahead of whoever looks after the COW from here on.
        priority::realtime(true);
        if settled.is_ok()
            && let Hand::Own(valve) = &mut self.valve
        {
            valve.rest();
        }
        settled
    }

    fn rule(&self, stack: &Stack) -> Rule {
        Rule::of(self.config, stack, self.roof)
    }

    fn policy(&self) -> Policy {
        Policy { on: self.config.prune, frozen: self.frozen }
    }

    /// During a flush the fresh COW had to share the memory with the sealed one. It keeps its slack: while
    /// the lock goes from one process to the next nobody looks after it for a moment.
    fn grow(&self) -> Result<()> {
        match self.control.stack()?.root.and_then(|root| root.target()) {
            Some(Target::Snapshot { cow, .. }) => {
                // What was sealed goes first: what it held is room.
                cowfile::release_strays(&self.control);
                cowfile::grow(&self.control, cow, self.limit, self.roof)
            }
            _ => Ok(()),
        }
    }

    /// The stack as it is now.
    pub fn stack(&self) -> Result<Stack> {
        self.control.stack()
    }
}

impl Drop for Session<'_> {
    /// Gives the lock back, but not with a valve that stays. In this order: whoever takes the lock next
    /// must find root awake.
    fn drop(&mut self) {
        if let Hand::Own(valve) = &mut self.valve {
            valve.rest();
        }
        // Whoever came for something else, or failed after that.
        if self.done.durable > Bytes(0) {
            self.note(Duration::ZERO);
        }
        if !self.valve.valve().works() {
            lock::release(&self.control);
        }
    }
}

/// Root will be suspended for moments, and this program may lie on it.
pub fn prepare_process() -> Result<()> {
    priority::exempt_from_oom_killer();
    priority::io_flusher();
    // A table names its devices "254:1", and 6.1 tries a snapshot's COW as a path first (`dm_get_dev_t`): from
    // a folder on root this would wait for root.
    let _ = std::env::set_current_dir("/proc");
    mlock::all()?;
    // Nor may a writer at memory speed be ahead of what follows, until it has a valve.
    priority::realtime(true);
    Ok(())
}

/// What the COWs hold; the kernel does not count one that overflowed, which is full.
fn held_in_ram(stack: &Stack) -> Result<Bytes> {
    let full = stack.root.filter(|root| root.status() == SnapshotStatus::Overflow);
    let full = match full.and_then(|root| root.target()) {
        Some(Target::Snapshot { cow, .. }) => block::size(cow)?.bytes(),
        _ => Bytes(0),
    };
    Ok(Bytes(stack.held_in_ram().0.saturating_add(full.0)))
}
