//! A command at work: it holds the lock, settles what an earlier command left, and then flushes, merges,
//! stops or starts.
//!
//! flush    seal, then append or merge: everything until now becomes durable
//! stop     and start: write through, and defer again
//! outcome  what came of it

mod flush;
mod outcome;
mod stop;

pub use self::outcome::{How, Incomplete, Outcome};

use super::cowfile;
use super::prune::Policy;
use super::rule::{self, Rule};
use super::settle::{Hands, Settled, settle};
use super::valve::Valve;
use crate::config::Config;
use crate::dm::{SnapshotStatus, Target};
use crate::error::{Error, Exit, Result};
use crate::report::progress::Meter;
use crate::stack::{Stack, Wish};
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, lock, memory, mlock, priority};
use crate::units::Bytes;

/// A command at work: it holds the lock.
pub struct Session<'a> {
    control: Control,
    /// Where a valve stays that has to hold writers back after this has failed.
    kept: Option<&'a mut Option<Valve>>,
    meter: Meter,
    signals: &'a mut Held,
    /// What a COW may hold.
    limit: Bytes,
    /// What one flush can put into the flush log.
    roof: Bytes,
    config: &'a Config,
    command: &'static str,
    reason: String,
    /// What is sealed was frozen, as far as this process knows.
    frozen: bool,
}

impl<'a> Session<'a> {
    /// Takes the lock, for the command of this name. Such a session has to be settled before it can
    /// do anything: [`settled`](Self::settled), [`settled_anyhow`](Self::settled_anyhow).
    pub fn begin(command: &'static str, config: &'a Config, signals: &'a mut Held) -> Result<Self> {
        Self::open(Control::open()?, command, config, signals)
    }

    /// The same where the control device is open already. A process must have one only: to close
    /// another would give the lock back.
    pub fn open(
        control: Control,
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
    ) -> Result<Self> {
        lock::take(&control)?;
        priority::exempt_from_oom_killer();
        // Root will be suspended for moments, and this program may lie on it.
        mlock::all()?;
        priority::io_flusher();
        Ok(Self {
            control,
            kept: None,
            meter: Meter::new(),
            signals,
            limit: Bytes(0),
            roof: Bytes::MAX,
            config,
            command,
            reason: String::new(),
            frozen: false,
        })
    }

    /// Shows progress by `meter`.
    pub fn showing(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// For the daemon, which tries again and again. Should this session fail with something sealed,
    /// then `kept` has a valve that goes on to hold writers back, and the lock is kept with it: no
    /// other command may meet that valve. The next session begins behind it.
    pub fn behind(mut self, kept: &'a mut Option<Valve>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Settles what an earlier command left.
    pub fn settled(mut self, wish: Wish) -> Result<Self> {
        self.measure()?;
        self.finish(wish)?;
        self.ready()
    }

    /// The same on the way down: a log that can't be written is passed by.
    pub fn settled_anyhow(mut self) -> Result<Self> {
        self.measure()?;
        self.finish(Wish::default()).or_else(|error| self.pass_by_log(error))?;
        self.ready()
    }

    /// Finishes what an earlier command left. Writers may be at work, with little room while a COW
    /// is sealed. A root that was left suspended has to be mended first.
    fn finish(&mut self, wish: Wish) -> Result<Settled> {
        let stack = self.control.stack()?;
        let awake = stack.root.is_some_and(|root| !root.suspended && !root.inactive);
        let behind = self.kept.as_ref().is_some_and(|kept| kept.is_some());
        if (awake || behind) && stack.sealed.is_some() {
            return self.settle_with_valve(wish);
        }
        // Nothing that a valve could wait for.
        if let Some(kept) = &mut self.kept {
            **kept = None;
        }
        self.settle(wish)
    }

    /// After the card has refused a write to the log: what is sealed goes to root without it. What is
    /// in RAM is lost with the power; a cut while it is merged can only tear root.
    fn pass_by_log(&mut self, error: Error) -> Result<Settled> {
        match error.exit_code() {
            Exit::Card => self.finish(Wish { direct: true, ..Wish::default() }),
            _ => Err(error),
        }
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
        self.roof = rule::roof(&stack);
        self.limit = self.rule(&stack).limit(&memory, held_in_ram(&stack)?);
        Ok(())
    }

    /// Says why, for the record.
    pub fn because(mut self, reason: impl std::fmt::Display) -> Self {
        self.reason = reason.to_string();
        self
    }

    fn settle(&mut self, wish: Wish) -> Result<Settled> {
        let policy = self.policy();
        let Self { control, meter, signals, .. } = self;
        settle(&mut Hands { control, meter, signals, valve: None, policy }, wish)
    }

    /// The COW's limit.
    pub fn limit(&self) -> Bytes {
        self.limit
    }

    /// Settles while writers are at work, who have less room than usual meanwhile. Root is awake.
    fn settle_with_valve(&mut self, wish: Wish) -> Result<Settled> {
        let stack = self.control.stack()?;
        let target = stack.root.and_then(|root| root.target());
        let Some(Target::Snapshot { cow, .. }) = target else { return self.settle(wish) };
        let policy = self.policy();
        let waiting = self.kept.as_mut().and_then(|kept| kept.take());
        let mut valve = match waiting {
            Some(valve) => valve,
            None => Valve::tended(&self.control, self.rule(&stack))?,
        };
        priority::realtime(false);
        let mut hands = Hands {
            control: &self.control,
            meter: &mut self.meter,
            signals: self.signals,
            valve: Some(&mut valve),
            policy,
        };
        let settled = settle(&mut hands, wish);
        // In this order: what waits at the valve needs the room. Nothing was freed by a failure.
        let grown = if settled.is_ok() { cowfile::grow(cow, self.limit) } else { Ok(()) };
        // Nor may it run ahead of whoever looks after the COW from here on.
        priority::realtime(true);
        match &mut self.kept {
            Some(kept) if settled.is_err() => **kept = Some(valve),
            _ => drop(valve),
        }
        settled.and_then(|settled| grown.map(|()| settled))
    }

    fn rule(&self, stack: &Stack) -> Rule {
        Rule::of(self.config, stack, self.roof)
    }

    fn policy(&self) -> Policy {
        Policy { on: self.config.prune, frozen: self.frozen }
    }

    /// During a flush the fresh COW had to share the memory with the sealed one.
    fn grow(&self) -> Result<()> {
        match self.control.stack()?.root.and_then(|root| root.target()) {
            Some(Target::Snapshot { cow, .. }) => cowfile::grow(cow, self.limit),
            _ => Ok(()),
        }
    }

    /// The stack as it is now.
    pub fn stack(&self) -> Result<Stack> {
        self.control.stack()
    }
}

impl Drop for Session<'_> {
    /// A command's lock goes with its process; the daemon's has to be given back, but not while its
    /// valve holds writers back: no other command may meet that.
    fn drop(&mut self) {
        if self.kept.as_ref().is_some_and(|kept| kept.is_none()) {
            lock::release(&self.control);
        }
    }
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
