//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! A second process ([`worker`]) does it: the flushing process is busy with the card, and a writer
//! at full memory speed would fill the COW meanwhile. The worker is there before it is needed, and
//! works only while the throttle is armed: during the long parts of a flush, appending and merging,
//! which need nothing of root; so it never meets the handover of a seal. If the flushing process
//! dies, the worker lets writers go on and ends; until then the lock keeps other commands from a
//! handover of their own.
//!
//! [`guard`] is another process: it wakes root up when the flushing process is killed during a
//! handover.

pub mod guard;
pub mod worker;

use std::time::Duration;

use self::worker::{Work, Worker};
use crate::error::Result;
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::policy::throttle::{self, Level, SLOW, Writers};
use crate::pure::stack::{Mode, Name, Stack};
use crate::sys::dm::{Control, Message, Request};
use crate::sys::memory;
use crate::sys::time::Instant;

/// The throttle, armed or not.
pub struct Throttle {
    control: Control,
    message: Box<Message>,
    worker: Worker,
    /// The limits by which the worker judges the COW, while the throttle is armed.
    cow_limits: Option<CowLimits>,
}

impl Throttle {
    /// A throttle that is not armed, with its worker started.
    pub fn ready(control: &Control) -> Result<Self> {
        let mut message = Message::about(Name::Root);
        // Learn root's device number now, for `is_holding`.
        let _ = control.run(Request::Status, &mut message);
        let worker = Holding::start(control)?;
        Ok(Self { control: control.clone(), message, worker, cow_limits: None })
    }

    /// Arms the throttle: from now on writers wait while root's COW is as full, by `cow_limits`, as
    /// `full-wait` says. Root must defer, and be awake or held back by this throttle.
    pub fn arm(&mut self, cow_limits: CowLimits) -> Result<()> {
        if !self.worker.work(cow_limits) {
            // The worker was killed.
            self.let_go();
            self.worker = Holding::start(&self.control)?;
            if !self.worker.work(cow_limits) {
                return Err(guard::ended());
            }
        }
        self.cow_limits = Some(cow_limits);
        Ok(())
    }

    /// Arms the throttle by `cow_limits`, which are those for `stack`, unless its present limits
    /// are still right. For a root that is suspended by something else, waits with a new table or
    /// does not defer, it releases the throttle: the plan repairs such a root, or it needs no
    /// throttle.
    pub fn arm_for(&mut self, stack: &Stack, cow_limits: CowLimits) -> Result<()> {
        // An armed throttle suspends root when it holds writers back; nothing else may have
        // suspended it.
        let awake =
            self.is_armed() || stack.root.is_some_and(|root| !root.suspended && !root.inactive);
        if !awake || stack.mode() != Some(Mode::Deferring) || stack.has_handed_over() {
            self.release();
            return Ok(());
        }
        match &self.cow_limits {
            Some(now) if now.is_right_for(stack) => Ok(()),
            _ => self.arm(cow_limits),
        }
    }

    /// Releases the throttle: from now on no writer waits.
    pub fn release(&mut self) {
        if self.cow_limits.take().is_some() && !self.worker.idle() {
            self.let_go();
        }
    }

    /// The limits by which the worker judges the COW, while the throttle is armed.
    pub fn cow_limits(&self) -> Option<&CowLimits> {
        self.cow_limits.as_ref()
    }

    /// Whether it is armed, so that writers may have to wait.
    pub fn is_armed(&self) -> bool {
        self.cow_limits.is_some()
    }

    /// Whether writers wait now.
    pub fn is_holding(&mut self) -> bool {
        self.control.run(Request::Status, &mut self.message).is_ok() && self.message.is_suspended()
    }

    /// Lets writers go on after the worker was killed.
    fn let_go(&mut self) {
        if self.is_holding() {
            hold(&self.control, &mut self.message, false);
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.release();
    }
}

/// The worker's work: holding writers back.
struct Holding {
    control: Control,
    message: Box<Message>,
    cow_limits: Option<CowLimits>,
    /// Since when writers wait.
    since: Option<Instant>,
}

impl Holding {
    fn start(control: &Control) -> Result<Worker> {
        let holding = Self {
            control: control.clone(),
            message: Message::about(Name::Root),
            cow_limits: None,
            since: None,
        };
        Worker::start(control, Box::new(holding))
    }
}

impl Work for Holding {
    fn take(&mut self, cow_limits: CowLimits) {
        self.cow_limits = Some(cow_limits);
    }

    fn step(&mut self) -> Duration {
        let Some(cow_limits) = self.cow_limits else { return SLOW };
        let Some(level) = level(&self.control, &mut self.message, &cow_limits) else { return SLOW };
        let writers = self.since.map_or(Writers::Running, |since| Writers::Held(since.elapsed()));
        let (holds, wait) = throttle::decide(&level, cow_limits.full_wait, writers);
        if holds != self.since.is_some() && hold(&self.control, &mut self.message, holds) {
            self.since = holds.then(Instant::now);
        }
        // The worker runs before all other processes, so it must not poll more often than it has
        // to.
        wait
    }

    fn end(&mut self) {
        if self.since.take().is_some() {
            hold(&self.control, &mut self.message, false);
        }
    }
}

/// Suspends or resumes root. It does not freeze: that would write all dirty pages to the COW, which
/// lacks room already.
fn hold(control: &Control, root: &mut Message, holds: bool) -> bool {
    let request = match holds {
        true => Request::Suspend { freeze: false },
        false => Request::Resume { freeze: false },
    };
    control.run(request, root).is_ok()
}

/// How full root's COW is; `message` is about root. `None` when root defers nothing.
pub fn level(control: &Control, message: &mut Message, cow_limits: &CowLimits) -> Option<Level> {
    cow_limits.level(control.root_status(message).ok()?, &memory::info().unwrap_or_default())
}
