//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! A second process tends the valve, since the first one is busy with the card and a writer at full
//! memory speed can't wait for that. It is there only during the long parts of a flush, appending
//! and merging, which need nothing of root; so it never meets the window of a seal. Should the first
//! process die, it opens the valve and ends.

use crate::daemon::pressure::{self, Level};
use crate::dm::SnapshotStatus;
use crate::error::Result;
use crate::stack::Name;
use crate::sys::dm::{Control, Message, Request};
use crate::sys::guard::{self, Guard};
use crate::sys::memory::{self, MemInfo};
use crate::units::Bytes;

/// Milliseconds between two looks while writers are held back, or when there is nothing to see.
const SLOW: u16 = 50;

/// A valve at work.
pub struct Valve {
    control: Control,
    message: Box<Message>,
    guard: Option<Guard>,
}

impl Valve {
    /// Sets one to work on root, which must be awake and defer. It closes at `full_wait` percent.
    pub fn tended(control: &Control, full_wait: u64) -> Result<Self> {
        let mut message = Message::about(Name::Root);
        // Both closures run in the other process, one after the other.
        let hand = std::cell::RefCell::new((false, Message::about(Name::Root)));
        let mut tend = || {
            let (closed, message) = &mut *hand.borrow_mut();
            let Some(level) = level(control, message) else { return SLOW };
            if pressure::hold_back(&level, full_wait, *closed) != *closed {
                // Without freezing: that would write all dirty pages to the COW, which is what
                // lacks room.
                let turn = if *closed {
                    Request::Resume { freeze: false }
                } else {
                    Request::Suspend { freeze: false }
                };
                if control.run(turn, message).is_ok() {
                    *closed = !*closed;
                }
            }
            // It runs before all other processes, so it must not look more often than it has to.
            if *closed { SLOW } else { level.pause_until(full_wait).as_millis() as u16 }
        };
        let guard = guard::post(Some(&mut tend), |_| {
            let (closed, message) = &mut *hand.borrow_mut();
            if *closed {
                let _ = control.run(Request::Resume { freeze: false }, message);
            }
        })?;
        // Learn now what the look in `is_closed` needs.
        let _ = control.run(Request::Status, &mut message);
        Ok(Self { control: control.clone(), message, guard: Some(guard) })
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
            let _ = self.control.run(Request::Resume { freeze: false }, &mut self.message);
        }
    }
}

/// How full root's COW is; `message` is about root. `None` when root defers nothing.
pub fn level(control: &Control, message: &mut Message) -> Option<Level> {
    level_of(control.look(message).ok()?, &memory::info().unwrap_or_default())
}

/// The same from what was seen already.
pub fn level_of(status: SnapshotStatus, memory: &MemInfo) -> Option<Level> {
    let (used, size) = match status {
        SnapshotStatus::Used(usage) => (usage.allocated.bytes(), usage.total.bytes()),
        // The kernel does not count a COW that overflowed.
        SnapshotStatus::Overflow => (Bytes(1), Bytes(1)),
        _ => return None,
    };
    Some(Level { used, size, dirty: Bytes(memory.dirty.0.saturating_add(memory.writeback.0)) })
}
