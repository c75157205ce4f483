//! What each step of a flush works with, and how it observes the stack.
//!
//! [`Context::observe`] is the one place that reads the tables for a step, and that arms the
//! throttle for what is sealed then. So no step has to remember the throttle: the loop observes
//! again after each step anyway. Only a handover, which must not meet a throttle, releases it
//! itself; the next observation arms it again.

use std::ops::{Deref, DerefMut};

use nix::sys::signal::Signal;

use super::layer::data;
use super::prune::Policy;
use super::view;
use crate::error::Result;
use crate::output::progress::Meter;
use crate::pure::config::Config;
use crate::pure::dm::status::Usage;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::stack::{Device, Live, Name, Stack};
use crate::pure::units::{Bytes, Sectors};
use crate::sys::block;
use crate::sys::dm::Control;
use crate::sys::signals::Held;
use crate::throttle::Throttle;

/// What each step of a flush works with.
pub struct Context<'a> {
    /// Device-mapper.
    pub control: Control,
    /// Holds writers back when the COW has no room for them, from the first observation on: as long
    /// as this process has the lock no other can make room.
    pub throttle: ThrottleOf<'a>,
    /// Shows progress.
    pub meter: Meter,
    /// May end a wait.
    pub signals: &'a mut Held,
    /// The configuration.
    pub config: &'a Config,
    /// What root's COW may hold, for when it needs a fresh one.
    pub limit: Bytes,
    /// What one flush can put into the flush log.
    pub log_capacity: Bytes,
    /// What is sealed was frozen, as far as this process knows.
    pub frozen: bool,
    /// The owner allowed that flushes are dropped that the log holds and root does not have.
    pub forget: bool,
}

/// Whose throttle a flush works with.
pub enum ThrottleOf<'a> {
    /// A command's: it is dropped with the session.
    Command(Throttle),
    /// The daemon's, which goes on to watch the COW.
    Daemon(&'a mut Throttle),
}

impl Deref for ThrottleOf<'_> {
    type Target = Throttle;

    fn deref(&self) -> &Throttle {
        match self {
            Self::Command(throttle) => throttle,
            Self::Daemon(throttle) => throttle,
        }
    }
}

impl DerefMut for ThrottleOf<'_> {
    fn deref_mut(&mut self) -> &mut Throttle {
        match self {
            Self::Command(throttle) => throttle,
            Self::Daemon(throttle) => throttle,
        }
    }
}

impl ThrottleOf<'_> {
    /// Releases the throttle, unless it is the daemon's, which decides that itself.
    pub fn release_own(&mut self) {
        if let Self::Command(throttle) = self {
            throttle.release();
        }
    }
}

impl Context<'_> {
    /// Reads the stack for the next step, and arms the throttle for what is sealed in it.
    pub fn observe(&mut self) -> Result<Stack> {
        let stack = tables(&self.control)?;
        self.arm_for(stack)
    }

    /// The second half of [`Self::observe`], for `stack`, which was read just now. Returns it with
    /// root shown as awake where only the throttle suspends it.
    pub fn arm_for(&mut self, mut stack: Stack) -> Result<Stack> {
        let cow_limits = self.cow_limits(&stack);
        self.throttle.arm_for(&stack, cow_limits)?;
        // A throttle that holds writers back suspends root, which the plan must not repair.
        if let (Some(root), true) = (&mut stack.root, self.throttle.is_armed()) {
            root.suspended = false;
        }
        Ok(stack)
    }

    /// How much data is left in the layer of that name; 0 where that is unknown.
    pub fn left(&self, name: Name) -> Result<Bytes> {
        let mut device = self.control.device(name)?;
        if let Some(device) = &mut device {
            count(device)?;
        }
        Ok(data(device.as_ref()))
    }

    /// How full root's COW may be, with what is sealed in `stack`.
    pub fn cow_limits(&self, stack: &Stack) -> CowLimits {
        CowLimits::of(self.config, stack, self.log_capacity)
    }

    /// What may be left out of what is sealed.
    pub fn policy(&self) -> Policy {
        Policy { on: self.config.prune, frozen: self.frozen }
    }

    /// Shows progress, and returns a signal that came. Called often during long work.
    pub fn show_progress(&mut self, left: Bytes) -> Option<Signal> {
        // While root is suspended, by the throttle or for a last step, the reader of the progress
        // may be waiting for root.
        if !self.throttle.is_holding() {
            self.meter.show(left);
        }
        self.signals.arrived()
    }
}

/// The stack as the kernel's tables show it. One figure they don't have is added: how much is left
/// of a merge whose COW overflowed before it was sealed.
pub fn tables(control: &Control) -> Result<Stack> {
    let mut stack = control.stack()?;
    if let Some(sealed) = &mut stack.sealed {
        count(sealed)?;
    }
    Ok(stack)
}

/// Counts what is left of such a merge, which the kernel does not.
fn count(device: &mut Device) -> Result<()> {
    if let Some(Live::Single { target, status, .. }) = &mut device.live
        && let (Target::SnapshotMerge { cow, .. }, SnapshotStatus::Overflow) = (*target, *status)
    {
        let (allocated, nothing) = (view::left(cow)?.sectors(), Sectors(0));
        *status =
            SnapshotStatus::Used(Usage { allocated, total: block::size(cow)?, metadata: nothing });
    }
    Ok(())
}
