//! The window in which root is suspended: only prepared requests, nothing allocated, nothing
//! printed, no file touched. Everything here is also what the guard process may have to do.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::dm::Line;
use crate::stack::Name;
use crate::sys::dm::{Control, Message, Request};

/// The requests of a seal, prepared.
pub struct Seal {
    root: Box<Message>,
    sealed: Box<Message>,
}

/// What becomes of root's filesystem in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It was frozen before.
    Before,
    /// The suspend freezes it, which writes out what the page cache holds.
    Within,
    /// It can't be frozen: its COW refuses writes, or would before the page cache is written out. A
    /// writer may then wait for that in a system call for good, and a freeze waits for such a writer.
    Never,
}

/// A seal that was done.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    /// How long root was suspended.
    pub stall: Duration,
    /// The filesystem was frozen, so that the sealed device holds it complete. One that shut
    /// down after errors can't be frozen; then the sealed device is as after a power cut.
    pub frozen: bool,
}

/// What went wrong in the window. Root is awake again on the table it had.
#[derive(Clone, Copy, Debug)]
pub enum Failed {
    /// Root could not be suspended.
    Suspend(Errno),
    /// The sealed device could not take over root's exceptions.
    Handover(Errno),
    /// Root did not resume with its new table.
    Resume(Errno),
}

impl Seal {
    /// Prepares the requests. Both devices must have their new tables loaded.
    pub fn prepare() -> Self {
        Self { root: Message::about(Name::Root), sealed: Message::about(Name::Sealed) }
    }

    /// Suspends root, lets the sealed device take its exceptions over, resumes root on its new
    /// table.
    ///
    /// The order: root's I/O must have ended and its filesystem be frozen before the exceptions
    /// move, since from that moment the sealed device's content is what a flush writes; and
    /// root must not wake up before they have moved, since its new table reads through the
    /// sealed device.
    pub fn run(&mut self, control: &Control, freeze: Freeze) -> Result<Sealed, Failed> {
        let begin = Instant::now();
        let freezes = freeze == Freeze::Within
            && control.run(Request::Suspend { freeze: true }, &mut self.root).is_ok();
        if !freezes {
            control
                .run(Request::Suspend { freeze: false }, &mut self.root)
                .map_err(Failed::Suspend)?;
        }
        let frozen = freezes || freeze == Freeze::Before;
        if let Err(errno) = control.run(Request::Resume { freeze: false }, &mut self.sealed) {
            self.step_back(control);
            return Err(Failed::Handover(errno));
        }
        let resumed = control.run(Request::Resume { freeze: true }, &mut self.root);
        resumed.map_err(Failed::Resume)?;
        Ok(Sealed { stall: begin.elapsed(), frozen })
    }

    /// What the guard does: wakes root up on the right table. Does nothing when it is awake.
    pub fn rescue(&mut self, control: &Control) {
        let asked = control.run(Request::Status, &mut self.root);
        if asked.is_err() || !self.root.is_suspended() {
            return;
        }
        let asked = control.run(Request::Status, &mut self.sealed);
        let handed_over = asked.is_ok() && self.sealed.has_live() && !self.sealed.is_suspended();
        if handed_over || control.run(Request::Resume { freeze: false }, &mut self.sealed).is_ok() {
            let _ = control.run(Request::Resume { freeze: true }, &mut self.root);
        } else {
            self.step_back(control);
        }
    }

    /// Drops both new tables and wakes root up on its old one. In this order: root can't resume
    /// while the kernel sees another table waiting for its exceptions.
    fn step_back(&mut self, control: &Control) {
        let _ = control.run(Request::Clear, &mut self.root);
        let _ = control.run(Request::Remove, &mut self.sealed);
        let _ = control.run(Request::Resume { freeze: true }, &mut self.root);
    }
}

/// The requests that let a failed merge under a write-through root start again, prepared.
///
/// The kernel forgets a merge's failure only with a new table, and moves exceptions from a merge
/// to a merge only by way of a plain snapshot. While the sealed device is one, nothing may be
/// written to it: after a merge its store no longer knows which chunks are free. So root is
/// suspended meanwhile.
pub struct Restart {
    root: Box<Message>,
    sealed: Box<Message>,
    merge: Box<Message>,
}

impl Restart {
    /// Prepares the requests. The sealed device must have the plain snapshot loaded; `merge` is
    /// the table that follows.
    pub fn prepare(merge: Line) -> Self {
        let (root, sealed) = (Message::about(Name::Root), Message::about(Name::Sealed));
        Self { root, sealed, merge: Message::load(Name::Sealed, &[merge]) }
    }

    /// Suspends root, goes through the plain snapshot to a new merge, resumes root. The filesystem
    /// need not be frozen: its I/O must rest, but nothing is sealed here. Since its card failed
    /// it may have shut down, and could not be frozen.
    pub fn run(&mut self, control: &Control) -> Result<(), Failed> {
        control.run(Request::Suspend { freeze: false }, &mut self.root).map_err(Failed::Suspend)?;
        let swapped = control
            .run(Request::Resume { freeze: false }, &mut self.sealed)
            .and_then(|()| control.run(Request::Load, &mut self.merge))
            .and_then(|()| control.run(Request::Resume { freeze: false }, &mut self.sealed));
        let resumed = control.run(Request::Resume { freeze: false }, &mut self.root);
        swapped.map_err(Failed::Handover)?;
        resumed.map_err(Failed::Resume)
    }

    /// What the guard does: the rest of [`Self::run`]; steps that were done before fail, which
    /// does no harm.
    pub fn rescue(&mut self, control: &Control) {
        let asked = control.run(Request::Status, &mut self.root);
        if asked.is_err() || !self.root.is_suspended() {
            return;
        }
        let _ = control.run(Request::Resume { freeze: false }, &mut self.sealed);
        let _ = control.run(Request::Load, &mut self.merge);
        let _ = control.run(Request::Resume { freeze: false }, &mut self.sealed);
        let _ = control.run(Request::Resume { freeze: false }, &mut self.root);
    }
}
