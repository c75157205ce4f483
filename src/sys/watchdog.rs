//! The machine's watchdog: it resets the machine unless a process feeds it.
//!
//! A process has at most one, as the machine has. Code that makes headway calls [`progress`], so a
//! process that hangs stops feeding.
//!
//! Source: the kernel's Documentation/watchdog/watchdog-api.rst.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Doing, Result};

/// WDIOC_GETTIMEOUT, `_IOR('W', 7, int)`.
const GETTIMEOUT: u32 = 0x8004_5707;

struct Watchdog {
    node: File,
    timeout: Duration,
    fed: Option<Instant>,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

fn watchdog() -> MutexGuard<'static, Option<Watchdog>> {
    WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the watchdog, which starts it, and returns its timeout. From now on [`progress`] must be
/// called.
///
/// # Errors
/// EBUSY when another process feeds it.
pub fn begin(path: &Path) -> Result<Duration> {
    ask!(begin_watchdog(path));
    let doing = || format!("open the watchdog {}", path.display());
    let node = File::options().write(true).open(path).doing(doing)?;
    let mut seconds: libc::c_int = 0;
    // SAFETY: WDIOC_GETTIMEOUT writes one int.
    let asked = unsafe { libc::ioctl(node.as_raw_fd(), GETTIMEOUT as _, &raw mut seconds) };
    // A driver without this call has a timeout of its own; most have a minute.
    let seconds = Errno::result(asked).ok().and(u64::try_from(seconds).ok()).unwrap_or(60);
    let timeout = Duration::from_secs(seconds.max(1));
    *watchdog() = Some(Watchdog { node, timeout, fed: None });
    progress();
    Ok(timeout)
}

/// Feeds the watchdog, if there is one and it is time. Called whenever something was done.
pub fn progress() {
    ask!(feed_watchdog());
    if let Some(watchdog) = watchdog().as_mut() {
        // Often enough that a late call does no harm.
        let due = watchdog.fed.is_none_or(|fed| fed.elapsed() >= watchdog.timeout / 4);
        if due && watchdog.node.write_all(b"\0").is_ok() {
            watchdog.fed = Some(Instant::now());
        }
    }
}

/// Leaves the watchdog running: from now on another process must feed it.
pub fn leave() {
    ask!(leave_watchdog());
    *watchdog() = None;
}

/// Stops the watchdog, where its driver allows it.
pub fn stop() {
    ask!(stop_watchdog());
    if let Some(mut watchdog) = watchdog().take() {
        // The character that the kernel wants to see before the close.
        let _ = watchdog.node.write_all(b"V");
    }
}
