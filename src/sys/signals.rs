//! Signals, so that a flush ends at a place of its own choosing.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Doing, Result};

/// What asks a process to end, or a daemon to do something.
const ASKING: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// With what a terminal stops a process: Ctrl-Z, or a word to a terminal that is another's now.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// From now on no terminal stops this process. For all that may have the lock: one that stood still in the middle of a flush
/// would keep it, and root frozen.
pub(super) fn never_stop() -> Result<()> {
    hold_back(&STOPPING)
}

/// Adds these to what this process holds back; it has one thread. By `sigprocmask`: the thread's own call returns its
/// error instead of setting errno, and nix takes any such return for success.
fn hold_back(signals: &[Signal]) -> Result<()> {
    let set: SigSet = signals.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).doing(|| "hold back signals")
}

/// Holds back what asks the process to end; [`Held::arrived`] tells whether it came.
pub struct Held {
    fd: SignalFd,
    ending: SigSet,
    /// What came and does not end anything.
    others: Vec<Signal>,
    /// Whether a signal that ends waits has come.
    ended: bool,
}

/// Holds back everything that asks the process for something, from now on. `ending` ends waits,
/// `others` can be asked for; the rest is not told of.
pub fn hold(ending: &[Signal], others: &[Signal]) -> Result<Held> {
    never_stop()?;
    hold_back(&ASKING)?;
    let heeded: SigSet = ending.iter().chain(others).copied().collect();
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let fd = SignalFd::with_flags(&heeded, flags).doing(|| "watch for signals")?;
    Ok(Held { fd, ending: ending.iter().copied().collect(), others: Vec::new(), ended: false })
}

impl Held {
    /// A signal that ends a wait and came since the last call, if any.
    pub fn arrived(&mut self) -> Option<Signal> {
        while let Ok(Some(info)) = self.fd.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(signal) if self.ending.contains(signal) => {
                    self.ended = true;
                    return Some(signal);
                }
                // However often it came, it asks for one thing.
                Ok(signal) if !self.others.contains(&signal) => self.others.push(signal),
                _ => {}
            }
        }
        None
    }

    /// Whether a signal that ends waits has come at any time, now or in a wait that it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.arrived();
        self.ended
    }

    /// A signal that came and does not end a wait, if [`Self::arrived`] has met one.
    pub fn other(&mut self) -> Option<Signal> {
        self.others.pop()
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` with every signal held back that can be: a signal would end a suspend halfway.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let held = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let result = work();
    if held.is_ok() {
        // Putting back the mask that the kernel gave can't fail.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}
