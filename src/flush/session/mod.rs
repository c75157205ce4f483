//! A command at work: it holds the lock, settles what an earlier command left, and then flushes,
//! merges, stops or starts.
//!
//! flush    seal, then append or merge: everything until now becomes durable
//! stop     and start: write through, and defer again
//! outcome  what came of it

mod flush;
mod outcome;
mod stop;

pub use self::outcome::{FlushOptions, Incomplete, Outcome, at_risk};

use std::time::Duration;

use super::context::{Context, ThrottleOf};
use super::figures::Settled;
use super::settle::settle;
use super::{context, cow_device, flushlog, seal};
use crate::error::{Error, Exit, Result};
use crate::output::progress::Meter;
use crate::pure::config::Config;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::stack::{Goal, Stack};
use crate::pure::units::Bytes;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::sys::time::{Instant, pause};
use crate::sys::{block, lock, memory, mlock, priority};
use crate::throttle::Throttle;

/// How often a command that waits tries to get the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// A command at work: it holds the lock.
pub struct Session<'a> {
    context: Context<'a>,
    command: &'static str,
    reason: String,
    /// What had changed, if the flush came for a change.
    path: String,
    /// Another program had frozen root's filesystem. A second try, as a shutdown makes, can't wait
    /// for its thaw.
    foreign: bool,
    /// What was done since `since` and is not noted yet, including what an earlier command had
    /// sealed.
    done: Settled,
    since: Instant,
    /// The card's error, where something was then done in another way.
    refused: Option<String>,
}

impl<'a> Session<'a> {
    /// Takes the lock, for the command of this name. Such a session has to be settled before it can
    /// do anything: [`settled`](Self::settled), [`settled_anyhow`](Self::settled_anyhow).
    ///
    /// While another command has the lock, `waits` is called again and again, and says whether to
    /// go on waiting. A signal ends the wait as well.
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
        // It tries to take the lock, since after a mere look another process may be faster, such as
        // the daemon with its next flush.
        while let Err(error) = lock::take(&control) {
            let busy = error.exit_code() == Exit::Busy;
            // In this order: a caller that does not wait reads the signal itself.
            if !busy || !waits(&error) || signals.arrived().is_some() {
                return Err(error);
            }
            pause(PAUSE);
        }
        Ok(Self::open(control, command, config, signals, throttle))
    }

    /// As [`Self::begin`], for the daemon, which has its control device open already (to close
    /// another would give the lock back), and a throttle. If that is armed when this session ends,
    /// whether it succeeded or not, it goes on working, and the lock is kept: no other command may
    /// meet that throttle. The next session begins behind it.
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

    /// As [`Self::settled`], and merges what is in the flush log: first of all, since that is the
    /// way out when nothing can be appended behind what is in it. Returns what was merged, as
    /// [`Self::merge`] does.
    pub fn merged(mut self) -> Result<(Self, Option<Settled>)> {
        let found = self.prepare()?;
        let (settled, stack) = self.settle_from(found, Goal { merge: true, ..Goal::default() })?;
        Ok((self.ready(&stack)?, settled.of_log()))
    }

    /// As [`Self::settled`], for a shutdown: when the log can't be written, merges straight into
    /// root.
    pub fn settled_anyhow(mut self) -> Result<Self> {
        let found = self.prepare()?;
        let settled = self.settle_from(found, Goal::default());
        let (_, stack) = settled.or_else(|error| self.pass_by_log(error))?;
        self.ready(&stack)
    }

    /// Looks at what an earlier command left. The throttle is armed before all else: reading the
    /// log from a busy card may take long.
    fn prepare(&mut self) -> Result<Stack> {
        let found = context::tables(&self.context.control)?;
        // A seal that was killed together with its guard may have left root's filesystem frozen. If
        // it left root suspended as well, the step that wakes root up thaws it, since a thaw
        // writes. Never while a throttle is armed: a process that waits at it may hold a lock that
        // the thaw needs, and a seal of this process thaws by itself.
        let awake = found.root.is_some_and(|root| !root.suspended);
        if awake && !self.context.throttle.is_armed() {
            seal::thaw_root();
        }
        let found = self.context.arm_for(found)?;
        self.context.log_capacity = flushlog::log_capacity(&found);
        self.measure(&found)?;
        Ok(found)
    }

    /// After the card has refused a write to the log: what is sealed goes to root without it. What
    /// is in RAM is lost with the power; a cut while it is merged can only tear root.
    fn pass_by_log(&mut self, error: Error) -> Result<(Settled, Stack)> {
        if error.exit_code() != Exit::Card {
            return Err(error);
        }
        let found = self.context.observe()?;
        let settled = self.settle_from(found, Goal { direct: true, ..Goal::default() })?;
        // The advice is dropped: this already does what it says.
        self.refused.get_or_insert(error.advise("").to_string());
        Ok(settled)
    }

    /// Ends the preparation: everything is settled, and the memory that was given back may be used.
    fn ready(mut self, stack: &Stack) -> Result<Self> {
        self.measure(stack)?;
        // A flush that was killed may have left the COW small.
        self.grow(stack)?;
        Ok(self)
    }

    /// Computes how large the COW may be.
    fn measure(&mut self, stack: &Stack) -> Result<()> {
        let (memory, held) = (memory::info()?, held_in_ram(stack)?);
        self.context.limit = self.context.cow_limits(stack).limit(&memory, held);
        Ok(())
    }

    /// Sets whether flushes may be dropped that the log holds and root does not have, since they
    /// could not be read.
    pub fn forgetting(mut self, forget: bool) -> Self {
        self.context.forget = forget;
        self
    }

    /// Sets the reason for the record, and what had changed, if that is the reason.
    pub fn because(mut self, reason: impl std::fmt::Display, path: String) -> Self {
        (self.reason, self.path) = (reason.to_string(), path);
        self
    }

    /// The COW's limit.
    pub fn limit(&self) -> Bytes {
        self.context.limit
    }

    /// Observes and settles the stack, while writers may be at work. While a COW is sealed they
    /// have less room than usual.
    fn settle(&mut self, goal: Goal) -> Result<Settled> {
        let found = self.context.observe()?;
        self.settle_from(found, goal).map(|(settled, _)| settled)
    }

    /// As [`Self::settle`], from `found` on, which this session has observed. Returns the stack at
    /// rest, too.
    fn settle_from(&mut self, found: Stack, goal: Goal) -> Result<(Settled, Stack)> {
        priority::realtime(false);
        let settled = settle(&mut self.context, found, goal);
        if let Ok((settled, _)) = &settled {
            self.done.add(settled);
        }
        // In this order: writers at the throttle need the room. A failure has freed nothing.
        let settled = settled.and_then(|(settled, stack)| {
            self.grow(&stack)?;
            Ok((settled, stack))
        });
        // From here on writers must not run ahead of the process that watches the COW.
        priority::realtime(true);
        if settled.is_ok() {
            self.context.throttle.release_own();
        }
        settled
    }

    /// During a flush the fresh COW had to share the memory with the sealed one. The larger COW
    /// keeps its slack: while the lock passes from one process to the next, none watches the COW
    /// for a moment.
    fn grow(&self, stack: &Stack) -> Result<()> {
        let Context { control, limit, log_capacity, .. } = &self.context;
        match stack.root.and_then(|root| root.target()) {
            Some(Target::Snapshot { cow, .. }) => {
                // The sealed COW goes first, since its memory is the room.
                cow_device::release_strays(control);
                cow_device::grow(control, cow, *limit, *log_capacity)
            }
            _ => Ok(()),
        }
    }

    /// The stack as it is now, for messages.
    pub fn stack(&self) -> Result<Stack> {
        self.context.control.stack()
    }
}

impl Drop for Session<'_> {
    /// Gives the lock back, unless the throttle stays armed. In this order: the next process that
    /// takes the lock must find root awake.
    fn drop(&mut self) {
        self.context.throttle.release_own();
        // This command came for something else, or failed after the flush.
        if self.done.durable > Bytes(0) {
            self.note(Duration::ZERO);
        }
        if !self.context.throttle.is_armed() {
            lock::release(&self.context.control);
        }
    }
}

/// Prepares this process for a suspended root, since the program may be on root: locks its memory
/// and leaves root's folders.
pub fn prepare_process() -> Result<()> {
    priority::exempt_from_oom_killer();
    priority::io_flusher();
    // A table names its devices "254:1", and 6.1 tries a snapshot's COW as a path first
    // (`dm_get_dev_t`): from a folder on root this would wait for root.
    priority::leave_root();
    mlock::all()?;
    // Real-time priority, so that a writer at memory speed is not faster than the steps until a
    // throttle is armed.
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
