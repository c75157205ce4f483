//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! A second process tends the valve, since the first one is busy with the card and a writer at full
//! memory speed can't wait for that. It is there before it is needed, and works only during the long
//! parts of a flush, appending and merging, which need nothing of root; so it never meets the window of a
//! seal. Should the first process die, it opens the valve and ends; until it has, the lock keeps others from a
//! window of their own.

use std::time::{Duration, Instant};

use super::attendant::{Attendant, Order, Work};
use super::guard;
use crate::error::Result;
use crate::pure::policy::pressure::{self, Gate, Level, SLOW};
use crate::pure::policy::rule::Rule;
use crate::pure::stack::{Mode, Name, Stack};
use crate::sys::dm::{Control, Message, Request};
use crate::sys::memory;

/// A valve, open or at work.
pub struct Valve {
    control: Control,
    message: Box<Message>,
    attendant: Attendant,
    /// By what it judges the COW, while it is at work.
    rule: Option<Rule>,
}

impl Valve {
    /// One that is open, and can be set to work at once.
    pub fn ready(control: &Control) -> Result<Self> {
        let mut message = Message::about(Name::Root);
        // Learn now what the look in `is_closed` needs.
        let _ = control.run(Request::Status, &mut message);
        let attendant = Tending::start(control)?;
        Ok(Self { control: control.clone(), message, attendant, rule: None })
    }

    /// Lets it work, by `rule` from now on. Root must be awake, or held back by it, and defer. It
    /// closes at `full-wait`.
    pub fn work(&mut self, rule: Rule) -> Result<()> {
        if !self.attendant.work(rule.to_words()) {
            // It was killed.
            self.open();
            self.attendant = Tending::start(&self.control)?;
            if !self.attendant.work(rule.to_words()) {
                return Err(guard::ended());
            }
        }
        self.rule = Some(rule);
        Ok(())
    }

    /// Sets it to work by `rule`, the one for `stack`, unless what it works by is right for that still. Only a root
    /// that is awake, on a table that serves, and defers can have one; any other is for the plan to mend, or
    /// needs none.
    pub fn hold_back(&mut self, stack: &Stack, rule: Rule) -> Result<()> {
        // A valve that is closed suspends root; nothing else may have.
        let awake =
            self.works() || stack.root.is_some_and(|root| !root.suspended && !root.inactive);
        if !awake || stack.mode() != Some(Mode::Deferring) || stack.has_handed_over() {
            self.rest();
            return Ok(());
        }
        match &self.rule {
            Some(now) if now.is_right_for(stack) => Ok(()),
            _ => self.work(rule),
        }
    }

    /// Opens it for good.
    pub fn rest(&mut self) {
        if self.rule.take().is_some() && !self.attendant.rest() {
            self.open();
        }
    }

    /// By what it judges the COW, while it is at work.
    pub fn rule(&self) -> Option<&Rule> {
        self.rule.as_ref()
    }

    /// It is at work.
    pub fn works(&self) -> bool {
        self.rule.is_some()
    }

    /// Writers are held back.
    pub fn is_closed(&mut self) -> bool {
        self.control.run(Request::Status, &mut self.message).is_ok() && self.message.is_suspended()
    }

    /// After the process that tended it was killed.
    fn open(&mut self) {
        if self.is_closed() {
            turn(&self.control, &mut self.message, false);
        }
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.rest();
    }
}

/// What the second process does.
struct Tending {
    control: Control,
    message: Box<Message>,
    rule: Option<Rule>,
    closed: Option<Instant>,
}

impl Tending {
    fn start(control: &Control) -> Result<Attendant> {
        let mut tending = Self {
            control: control.clone(),
            message: Message::about(Name::Root),
            rule: None,
            closed: None,
        };
        Attendant::start(control, &mut tending)
    }
}

impl Work for Tending {
    fn take(&mut self, order: Order) {
        self.rule = Some(Rule::from_words(order));
    }

    fn turn(&mut self) -> Duration {
        let Some(rule) = self.rule else { return SLOW };
        let Some(level) = level(&self.control, &mut self.message, &rule) else { return SLOW };
        let gate = self.closed.map_or(Gate::Open, |since| Gate::Closed(since.elapsed()));
        let (hold, rest) = pressure::tend(&level, rule.full_wait, gate);
        if hold != self.closed.is_some() && turn(&self.control, &mut self.message, hold) {
            self.closed = hold.then(Instant::now);
        }
        // It runs before all other processes, so it must not look more often than it has to.
        rest
    }

    fn end(&mut self) {
        if self.closed.take().is_some() {
            turn(&self.control, &mut self.message, false);
        }
    }
}

/// Suspends or resumes root. Without freezing: that would write all dirty pages to the COW, which is
/// what lacks room.
fn turn(control: &Control, root: &mut Message, hold: bool) -> bool {
    let request = match hold {
        true => Request::Suspend { freeze: false },
        false => Request::Resume { freeze: false },
    };
    control.run(request, root).is_ok()
}

/// How full root's COW is; `message` is about root. `None` when root defers nothing.
pub fn level(control: &Control, message: &mut Message, rule: &Rule) -> Option<Level> {
    rule.level(control.look(message).ok()?, &memory::info().unwrap_or_default())
}
