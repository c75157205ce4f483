//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! A second process tends the valve, since the first one is busy with the card and a writer at full
//! memory speed can't wait for that. It is there only during the long parts of a flush, appending
//! and merging, which need nothing of root; so it never meets the window of a seal. Should the first
//! process die, it opens the valve and ends.

use std::time::Instant;

use super::rule::Rule;
use crate::daemon::pressure::{self, Gate, Level, SLOW};
use crate::error::Result;
use crate::stack::Name;
use crate::sys::dm::{Control, Message, Request};
use crate::sys::guard::{self, Guard};
use crate::sys::memory;

/// A valve at work.
pub struct Valve {
    control: Control,
    message: Box<Message>,
    guard: Option<Guard>,
    /// By what it judges the COW.
    pub rule: Rule,
}

impl Valve {
    /// Sets one to work on root, which must be awake and defer. It closes at `full-wait`.
    pub fn tended(control: &Control, rule: Rule) -> Result<Self> {
        let mut message = Message::about(Name::Root);
        // Both closures run in the other process, one after the other.
        let hand = std::cell::RefCell::new((None::<Instant>, Message::about(Name::Root)));
        let mut tend = || {
            let (closed, message) = &mut *hand.borrow_mut();
            let Some(level) = level(control, message, &rule) else { return SLOW };
            let gate = closed.map_or(Gate::Open, |since| Gate::Closed(since.elapsed()));
            let (hold, rest) = pressure::tend(&level, rule.full_wait, gate);
            if hold != closed.is_some() && turn(control, message, hold) {
                *closed = hold.then(Instant::now);
            }
            // It runs before all other processes, so it must not look more often than it has to.
            rest
        };
        let guard = guard::post(Some(&mut tend), |_| {
            let (closed, message) = &mut *hand.borrow_mut();
            if closed.is_some() {
                turn(control, message, false);
            }
        })?;
        // Learn now what the look in `is_closed` needs.
        let _ = control.run(Request::Status, &mut message);
        Ok(Self { control: control.clone(), message, guard: Some(guard), rule })
    }

    /// Writers are held back.
    pub fn is_closed(&mut self) -> bool {
        self.control.run(Request::Status, &mut self.message).is_ok() && self.message.is_suspended()
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        // The process that tended it may have been killed.
        if self.is_closed() {
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
