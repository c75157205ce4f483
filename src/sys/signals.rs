//! Holds signals back, so that a flush ends at a place of its own choosing.

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

/// The signals with which a terminal stops a process: on Ctrl-Z, or when a background process reads
/// or writes.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// From now on no terminal stops this process. Every process that may take the lock calls this:
/// stopped in the middle of a flush, it would keep the lock, and root frozen.
pub(super) fn never_stop() -> Result<()> {
    hold_back(&STOPPING)
}

/// Adds these to the signals that this process holds back; it has one thread. It uses
/// `sigprocmask`: `pthread_sigmask` returns its error instead of setting errno, and nix takes any
/// such return for success.
fn hold_back(signals: &[Signal]) -> Result<()> {
    let set: SigSet = signals.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).doing(|| "hold back signals")
}

/// Signals that are held back; [`Held::arrived`] says whether one came.
pub struct Held {
    fd: SignalFd,
    ending: SigSet,
    /// Signals that came and don't end a wait.
    others: Vec<Signal>,
    /// Whether a signal that ends waits has come.
    ended: bool,
}

/// Holds back all signals that ask the process for something, from now on. `ending` are those that
/// end waits, `others` those that [`Self::other`] returns; the remaining ones are ignored.
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
        #[cfg(test)]
        if let Some(model) = super::kernel::model() {
            let signal = model.signal().filter(|signal| self.ending.contains(*signal));
            self.ended |= signal.is_some();
            return signal;
        }
        while let Ok(Some(info)) = self.fd.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(signal) if self.ending.contains(signal) => {
                    self.ended = true;
                    return Some(signal);
                }
                // A signal that came several times counts once.
                Ok(signal) if !self.others.contains(&signal) => self.others.push(signal),
                _ => {}
            }
        }
        None
    }

    /// Whether a signal that ends waits has come, now or in an earlier wait.
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

/// Runs `work` with all signals held back that can be: a signal would interrupt a suspend halfway.
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
