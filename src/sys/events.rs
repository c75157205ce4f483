//! Waits until one of the things happens that a daemon has to do with.

use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::psi::Pressure;
use super::signals::Held;
use super::watch::{Mounts, Watch};

/// What a wait ends for.
pub struct Sources<'a> {
    /// Signals: those that end a process, and others.
    pub signals: &'a Held,
    /// Watched paths.
    pub watches: &'a [&'a Watch],
    /// The list of mounts.
    pub mounts: Option<&'a Mounts>,
    /// Memory pressure, where the kernel reports it.
    pub pressure: Option<&'a Pressure>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Something happened; else the time is over.
    pub any: bool,
    /// Programs wait for memory.
    pub pressed: bool,
    /// A mount came or went.
    pub mounted: bool,
}

/// Waits for `millis` milliseconds, a minute at most, or until something happens.
pub fn wait(sources: &Sources<'_>, millis: u64) -> Happened {
    ask!(wait(millis));
    let mut descriptors = heapless::Vec::<PollFd<'_>, 5>::new();
    let mut add = |fd, event| drop(descriptors.push(PollFd::new(fd, event)));
    add(sources.signals.as_fd(), PollFlags::POLLIN);
    let watches = sources.watches.iter().filter_map(|watch| watch.events());
    watches.for_each(|watch| add(watch, PollFlags::POLLIN));
    if let Some(mounts) = sources.mounts {
        // Without any requested events the kernel still reports POLLERR.
        add(mounts.as_fd(), PollFlags::empty());
    }
    if let Some(pressure) = sources.pressure {
        add(pressure.as_fd(), Pressure::EVENT);
    }
    let timeout = PollTimeout::try_from(millis.min(60_000) as i32).unwrap_or(PollTimeout::MAX);
    let any = poll(&mut descriptors, timeout) != Ok(0);
    let list = sources.mounts.map(|mounts| mounts.as_fd().as_raw_fd());
    let (mut mounted, mut pressed) = (false, false);
    for descriptor in &descriptors {
        let events = descriptor.revents().unwrap_or(PollFlags::empty());
        let mounts = Some(descriptor.as_fd().as_raw_fd()) == list;
        mounted |= mounts && events.contains(Mounts::EVENT);
        pressed |= !mounts && events.contains(Pressure::EVENT);
    }
    Happened { any, pressed, mounted }
}
