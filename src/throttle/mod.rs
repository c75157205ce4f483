//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! A second process ([`worker`]) does it, since the first one is busy with the card and a writer at full
//! memory speed can't wait for that. The worker is there before it is needed, and works only while the throttle is armed:
//! during the long parts of a flush, appending and merging, which need nothing of root; so it never meets the handover of a
//! seal. Should the first process die, the worker lets writers go on and ends; until it has, the lock keeps others from a
//! handover of their own.
//!
//! [`guard`] is another process: it wakes root up when the flushing process is killed during a handover.

pub mod guard;
pub mod worker;

use std::time::{Duration, Instant};

use self::worker::{Order, Work, Worker};
use crate::error::Result;
use crate::pure::policy::pressure::{self, Gate, Level, SLOW};
use crate::pure::policy::rule::Rule;
use crate::pure::stack::{Mode, Name, Stack};
use crate::sys::dm::{Control, Message, Request};
use crate::sys::memory;

/// The throttle, armed or not.
pub struct Throttle {
    control: Control,
    message: Box<Message>,
    worker: Worker,
    /// By what the worker judges the COW, while the throttle is armed.
    rule: Option<Rule>,
}

impl Throttle {
    /// One that is not armed, and can be at once.
    pub fn ready(control: &Control) -> Result<Self> {
        let mut message = Message::about(Name::Root);
        // Learn now what the look in `is_holding` needs.
        let _ = control.run(Request::Status, &mut message);
        let worker = Holding::start(control)?;
        Ok(Self { control: control.clone(), message, worker, rule: None })
    }

    /// Arms it: from now on writers wait while root's COW is as full, by `rule`, as `full-wait` says. Root must be awake, or
    /// held back by it, and defer.
    pub fn arm(&mut self, rule: Rule) -> Result<()> {
        if !self.worker.work(rule.to_words()) {
            // The worker was killed.
            self.let_go();
            self.worker = Holding::start(&self.control)?;
            if !self.worker.work(rule.to_words()) {
                return Err(guard::ended());
            }
        }
        self.rule = Some(rule);
        Ok(())
    }

    /// Arms it by `rule`, the one for `stack`, unless it is armed by one that is right for that still. Only a root
    /// that is awake, on a table that serves, and defers can have it armed; for any other, which is for the plan to mend or
    /// needs none, it is released.
    pub fn arm_for(&mut self, stack: &Stack, rule: Rule) -> Result<()> {
        // An armed throttle that holds writers back suspends root; nothing else may have.
        let awake =
            self.is_armed() || stack.root.is_some_and(|root| !root.suspended && !root.inactive);
        if !awake || stack.mode() != Some(Mode::Deferring) || stack.has_handed_over() {
            self.release();
            return Ok(());
        }
        match &self.rule {
            Some(now) if now.is_right_for(stack) => Ok(()),
            _ => self.arm(rule),
        }
    }

    /// Releases it: from now on nobody waits.
    pub fn release(&mut self) {
        if self.rule.take().is_some() && !self.worker.rest() {
            self.let_go();
        }
    }

    /// By what the worker judges the COW, while the throttle is armed.
    pub fn rule(&self) -> Option<&Rule> {
        self.rule.as_ref()
    }

    /// It is armed: writers may have to wait.
    pub fn is_armed(&self) -> bool {
        self.rule.is_some()
    }

    /// Writers wait.
    pub fn is_holding(&mut self) -> bool {
        self.control.run(Request::Status, &mut self.message).is_ok() && self.message.is_suspended()
    }

    /// Lets writers go on where a worker that was killed can't.
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

/// What the worker does.
struct Holding {
    control: Control,
    message: Box<Message>,
    rule: Option<Rule>,
    /// Since when writers wait.
    since: Option<Instant>,
}

impl Holding {
    fn start(control: &Control) -> Result<Worker> {
        let mut holding = Self {
            control: control.clone(),
            message: Message::about(Name::Root),
            rule: None,
            since: None,
        };
        Worker::start(control, &mut holding)
    }
}

impl Work for Holding {
    fn take(&mut self, order: Order) {
        self.rule = Some(Rule::from_words(order));
    }

    fn step(&mut self) -> Duration {
        let Some(rule) = self.rule else { return SLOW };
        let Some(level) = level(&self.control, &mut self.message, &rule) else { return SLOW };
        let gate = self.since.map_or(Gate::Open, |since| Gate::Closed(since.elapsed()));
        let (holds, rest) = pressure::tend(&level, rule.full_wait, gate);
        if holds != self.since.is_some() && hold(&self.control, &mut self.message, holds) {
            self.since = holds.then(Instant::now);
        }
        // It runs before all other processes, so it must not look more often than it has to.
        rest
    }

    fn end(&mut self) {
        if self.since.take().is_some() {
            hold(&self.control, &mut self.message, false);
        }
    }
}

/// Suspends or resumes root. Without freezing: that would write all dirty pages to the COW, which is
/// what lacks room.
fn hold(control: &Control, root: &mut Message, holds: bool) -> bool {
    let request = match holds {
        true => Request::Suspend { freeze: false },
        false => Request::Resume { freeze: false },
    };
    control.run(request, root).is_ok()
}

/// How full root's COW is; `message` is about root. `None` when root defers nothing.
pub fn level(control: &Control, message: &mut Message, rule: &Rule) -> Option<Level> {
    rule.level(control.look(message).ok()?, &memory::info().unwrap_or_default())
}
