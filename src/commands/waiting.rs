//! How a command takes the lock: it waits for the process that has it.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::flush::session::Session;
use crate::output::put;
use crate::pure::config::Config;
use crate::sys::signals::Held;

/// How long a command waits while another is at work, such as the daemon in a flush, so that
/// scripts need not try again. A slow card takes minutes to merge a full flush log.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long `start` waits: systemd gives a service's start 90 seconds.
pub const PATIENCE_OF_START: Duration = Duration::from_secs(60);

/// Takes the lock for a command once other commands have ended, and says that it waits. Afterwards
/// it checks again whether the command `may` run: a hold may have begun meanwhile.
pub fn begin<'a>(
    command: &'static str,
    may: fn(&'static str) -> Result<()>,
    patience: Duration,
    config: &'a Config,
    signals: &'a mut Held,
) -> Result<Session<'a>> {
    let (since, mut told) = (Instant::now(), false);
    let session = Session::begin(command, config, signals, &mut |busy| {
        if !std::mem::replace(&mut told, true) {
            let text = format!("{}; {command} waits for its end", busy.cause());
            put(std::io::stderr(), &format!("cowflush: {text}\n"));
        }
        since.elapsed() < patience
    })?;
    may(command)?;
    Ok(session)
}
