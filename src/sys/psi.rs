//! Memory pressure: the kernel reports when programs had to wait for memory.
//!
//! Source: the kernel's Documentation/accounting/psi.rst (since 4.20, CONFIG_PSI).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::poll::PollFlags;

const FILE: &str = "/proc/pressure/memory";

/// Some program waited for 150 ms within a second. In microseconds.
const TRIGGER: &[u8] = b"some 150000 1000000\0";

/// A trigger in the kernel, which the drop removes.
pub struct Pressure(File);

impl Pressure {
    /// What to poll it for.
    pub const EVENT: PollFlags = PollFlags::POLLPRI;

    /// Sets the trigger; `None` where the kernel does not have PSI, which is not a failure.
    pub fn watch() -> Option<Self> {
        #[cfg(test)]
        if super::kernel::model().is_some() {
            // A model's pressure comes by what `events::wait` returns.
            return None;
        }
        let mut options = File::options();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(FILE);
        let mut file = file.ok()?;
        file.write_all(TRIGGER).ok()?;
        Some(Self(file))
    }
}

impl AsFd for Pressure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
