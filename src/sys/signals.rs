//! Signals, so that a flush ends at a place of its own choosing.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Doing, Result};

/// What asks a process to end.
const ASKING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Holds back what asks the process to end; [`Held::arrived`] tells whether it came.
pub struct Held(SignalFd);

/// Holds back everything that asks the process to end, from now on. Only `heeded` is told of.
pub fn hold(heeded: &[Signal]) -> Result<Held> {
    let all: SigSet = ASKING.into_iter().collect();
    all.thread_block().doing(|| "hold back signals")?;
    let heeded: SigSet = heeded.iter().copied().collect();
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&heeded, flags).map(Held).doing(|| "watch for signals")
}

impl Held {
    /// The signal that came since the last call, if any.
    pub fn arrived(&mut self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        Signal::try_from(info.ssi_signo as i32).ok()
    }
}

/// Runs `work` with every signal held back that can be: a signal would end a suspend halfway.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = work();
    if let Ok(before) = before {
        // Putting back the mask that the kernel gave can't fail.
        let _ = before.thread_set_mask();
    }
    result
}
