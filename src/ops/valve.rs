//! Holds writers back while a flush makes room: root is suspended for moments.
//!
//! Only during the long parts of a flush, appending and merging, which need nothing of root. While
//! the valve is closed nothing is printed, since whoever reads it may be waiting for root; memory
//! is locked; and a guard process opens the valve should this one die.

use crate::daemon::pressure::{self, Level};
use crate::dm::SnapshotStatus;
use crate::error::Result;
use crate::stack::Name;
use crate::sys::dm::{Control, Message, Request};
use crate::sys::guard::{self, Guard};
use crate::sys::memory;
use crate::units::Bytes;

/// A valve that is ready, open or closed.
pub struct Valve<'a> {
    control: &'a Control,
    message: Box<Message>,
    guard: Option<Guard>,
    full_wait: u64,
    closed: bool,
}

impl<'a> Valve<'a> {
    /// Makes one for root, which must be awake and defer.
    pub fn ready(control: &'a Control, full_wait: u64) -> Result<Self> {
        let message = Message::about(Name::Root);
        let mut for_guard = Message::about(Name::Root);
        let guard = guard::post(|| {
            let _ = control.run(Request::Resume { freeze: false }, &mut for_guard);
        })?;
        Ok(Self { control, message, guard: Some(guard), full_wait, closed: false })
    }

    /// Looks at the level and closes or opens. What can't be seen or done leaves it as it is.
    pub fn tend(&mut self) {
        let Some(level) = self.level() else { return };
        if pressure::hold_back(&level, self.full_wait, self.closed) {
            self.close();
        } else {
            self.open();
        }
    }

    fn level(&mut self) -> Option<Level> {
        level(self.control, &mut self.message)
    }

    fn close(&mut self) {
        // Without freezing: that would write all dirty pages to the COW, which is what lacks room.
        let suspend = Request::Suspend { freeze: false };
        if !self.closed && self.control.run(suspend, &mut self.message).is_ok() {
            self.closed = true;
        }
    }

    /// Lets writers go.
    pub fn open(&mut self) {
        let resume = Request::Resume { freeze: false };
        if self.closed && self.control.run(resume, &mut self.message).is_ok() {
            self.closed = false;
        }
    }

    /// Writers are held back.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Drop for Valve<'_> {
    fn drop(&mut self) {
        self.open();
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}

/// How full root's COW is; `message` is about root. `None` when root defers nothing.
pub fn level(control: &Control, message: &mut Message) -> Option<Level> {
    let (used, size) = match control.look(message).ok()? {
        SnapshotStatus::Used(usage) => (usage.allocated.bytes(), usage.total.bytes()),
        // The kernel does not count a COW that overflowed.
        SnapshotStatus::Overflow => (Bytes(1), Bytes(1)),
        _ => return None,
    };
    let dirty = memory::info().map_or(Bytes(0), |memory| memory.dirty);
    Some(Level { used, size, dirty })
}
