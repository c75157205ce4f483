//! A command at work: it holds the lock, settles what an earlier command left, and then flushes, merges,
//! stops or starts.
//!
//! flush    seal, then append or merge: everything until now becomes durable
//! stop     and start: write through, and defer again
//! outcome  what came of it

mod flush;
mod outcome;
mod stop;

pub use self::outcome::{FlushOptions, Incomplete, Outcome, at_risk};

use std::time::{Duration, Instant};

use super::context::{Context, ThrottleOf};
use super::settle::settle;
use super::settled::Settled;
use super::{context, cow_device, flushlog, seal};
use crate::error::{Error, Exit, Result};
use crate::output::progress::Meter;
use crate::pure::config::Config;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::stack::{Goal, Stack};
use crate::pure::units::Bytes;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::{block, lock, memory, mlock, priority};
use crate::throttle::Throttle;

/// How often a command that waits tries to get the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// A command at work: it holds the lock.
pub struct Session<'a> {
    context: Context<'a>,
    command: &'static str,
    reason: String,
    /// What had changed.
    path: String,
    /// Another program had frozen it. Who tries again after that, as a shutdown does, can't wait for its thaw.
    foreign: bool,
    /// What was done since then, and is noted nowhere yet, be it what an earlier command had sealed.
    done: Settled,
    since: Instant,
    /// What the card said when it refused what was then done in another way.
    refused: Option<String>,
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
        let throttle = ThrottleOf::Command(Throttle::ready(&control)?);
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
        Ok(Self::open(control, command, config, signals, throttle))
    }

    /// As [`Self::begin`], for the daemon, which has its control device open already (to close another would give the
    /// lock back), and a throttle. If that is armed when this session ends, whether it succeeded or not, it
    /// goes on working, and the lock is kept: no other command may meet that throttle. The next session
    /// begins behind it.
    pub fn behind(
        throttle: &'a mut Throttle,
        control: Control,
        config: &'a Config,
        signals: &'a mut Held,
    ) -> Result<Self> {
        prepare_process()?;
        match throttle.is_armed() {
            true => lock::keep(&control)?,
            false => lock::take(&control)?,
        }
        Ok(Self::open(control, "daemon", config, signals, ThrottleOf::Daemon(throttle)))
    }

    fn open(
        control: Control,
        command: &'static str,
        config: &'a Config,
        signals: &'a mut Held,
        throttle: ThrottleOf<'a>,
    ) -> Self {
        Self {
            context: Context {
                control,
                throttle,
                meter: Meter::new(),
                signals,
                config,
                limit: Bytes(0),
                log_capacity: Bytes::MAX,
                frozen: false,
                forget: false,
            },
            command,
            reason: String::new(),
            path: String::new(),
            foreign: false,
            done: Settled::default(),
            since: Instant::now(),
            refused: None,
        }
    }

    /// Shows progress by `meter`.
    pub fn showing(mut self, meter: Meter) -> Self {
        self.context.meter = meter;
        self
    }

    /// Settles what an earlier command left.
    pub fn settled(mut self, goal: Goal) -> Result<Self> {
        let found = self.prepare()?;
        let (_, stack) = self.settle_from(found, goal)?;
        self.ready(&stack)
    }

    /// As [`Self::settled`], and merges what is in the flush log: first of all, since that is the way out when nothing
    /// can be appended behind what is in it. Returns what was merged, as [`Self::merge`] does.
    pub fn merged(mut self) -> Result<(Self, Option<Settled>)> {
        let found = self.prepare()?;
        let (settled, stack) = self.settle_from(found, Goal { merge: true, ..Goal::default() })?;
        Ok((self.ready(&stack)?, settled.of_log()))
    }

    /// As [`Self::settled`], for a shutdown: when the log can't be written, merges straight into root.
    pub fn settled_anyhow(mut self) -> Result<Self> {
        let found = self.prepare()?;
        let settled = self.settle_from(found, Goal::default());
        let (_, stack) = settled.or_else(|error| self.pass_by_log(error))?;
        self.ready(&stack)
    }

    /// Looks at what an earlier command left. The throttle comes before all else: to read the log from a card that is busy
    /// may take long.
    fn prepare(&mut self) -> Result<Stack> {
        let found = context::tables(&self.context.control)?;
        // A seal that was killed together with its guard may have left root's filesystem frozen. Where it
        // left root suspended, too, who wakes it up thaws: to thaw is to write. Never with a throttle: whoever waits
        // at one may hold what a thaw needs, and a seal of this process thaws by itself.
        let awake = found.root.is_some_and(|root| !root.suspended);
        if awake && !self.context.throttle.is_armed() {
            seal::thaw_root();
        }
        let found = self.context.arm_for(found)?;
        self.context.log_capacity = flushlog::log_capacity(&found);
        self.measure(&found)?;
        Ok(found)
    }

    /// After the card has refused a write to the log: what is sealed goes to root without it. What is
    /// in RAM is lost with the power; a cut while it is merged can only tear root.
    fn pass_by_log(&mut self, error: Error) -> Result<(Settled, Stack)> {
        if error.exit_code() != Exit::Card {
            return Err(error);
        }
        let found = self.context.observe()?;
        let settled = self.settle_from(found, Goal { direct: true, ..Goal::default() })?;
        // What to do about it is done.
        self.refused.get_or_insert(error.advise("").to_string());
        Ok(settled)
    }

    /// Everything is settled: what that gave back may be used.
    fn ready(mut self, stack: &Stack) -> Result<Self> {
        self.measure(stack)?;
        // A flush that was killed may have left the COW small.
        self.grow(stack)?;
        Ok(self)
    }

    /// Learns how large the COW may be.
    fn measure(&mut self, stack: &Stack) -> Result<()> {
        let (memory, held) = (memory::info()?, held_in_ram(stack)?);
        self.context.limit = self.context.cow_limits(stack).limit(&memory, held);
        Ok(())
    }

    /// Flushes that the log holds and root does not have, since they could not be read, may be dropped.
    pub fn forgetting(mut self, forget: bool) -> Self {
        self.context.forget = forget;
        self
    }

    /// Says why, for the record, and what had changed, if that is why.
    pub fn because(mut self, reason: impl std::fmt::Display, path: String) -> Self {
        (self.reason, self.path) = (reason.to_string(), path);
        self
    }

    /// The COW's limit.
    pub fn limit(&self) -> Bytes {
        self.context.limit
    }

    /// Looks, and brings the stack to rest, while writers may be at work. While a COW is sealed they have less
    /// room than usual.
    fn settle(&mut self, goal: Goal) -> Result<Settled> {
        let found = self.context.observe()?;
        self.settle_from(found, goal).map(|(settled, _)| settled)
    }

    /// As [`Self::settle`], from `found` on, which this session has observed. Returns the stack at rest, too.
    fn settle_from(&mut self, found: Stack, goal: Goal) -> Result<(Settled, Stack)> {
        priority::realtime(false);
        let settled = settle(&mut self.context, found, goal);
        if let Ok((settled, _)) = &settled {
            self.done.add(settled);
        }
        // In this order: what waits at the throttle needs the room. Nothing was freed by a failure.
        let settled = settled.and_then(|(settled, stack)| {
            self.grow(&stack)?;
            Ok((settled, stack))
        });
        // Writers may not run ahead of whoever looks after the COW from here on.
        priority::realtime(true);
        if settled.is_ok() {
            self.context.throttle.release_own();
        }
        settled
    }

    /// During a flush the fresh COW had to share the memory with the sealed one. It keeps its slack: while
    /// the lock goes from one process to the next nobody looks after it for a moment.
    fn grow(&self, stack: &Stack) -> Result<()> {
        let Context { control, limit, log_capacity, .. } = &self.context;
        match stack.root.and_then(|root| root.target()) {
            Some(Target::Snapshot { cow, .. }) => {
                // What was sealed goes first: what it held is room.
                cow_device::release_strays(control);
                cow_device::grow(control, cow, *limit, *log_capacity)
            }
            _ => Ok(()),
        }
    }

    /// The stack as it is now, for who tells of it.
    pub fn stack(&self) -> Result<Stack> {
        self.context.control.stack()
    }
}

impl Drop for Session<'_> {
    /// Gives the lock back, but not with a throttle that stays armed. In this order: whoever takes the lock next
    /// must find root awake.
    fn drop(&mut self) {
        self.context.throttle.release_own();
        // Whoever came for something else, or failed after that.
        if self.done.durable > Bytes(0) {
            self.note(Duration::ZERO);
        }
        if !self.context.throttle.is_armed() {
            lock::release(&self.context.control);
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
    // Nor may a writer at memory speed be ahead of what follows, until a throttle is armed.
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
