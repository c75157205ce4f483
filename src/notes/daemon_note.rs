//! The daemon's note in /run/cowflush, for `cowflush status`: that the daemon runs, and when it
//! flushes next.

use std::path::Path;

use super::value;
use crate::notes::run_dir;
use crate::pure::units::decimal;
use crate::sys::{file, time};

const NOTE: &str = "daemon";

/// What the note says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonNote {
    /// The daemon's process.
    pub pid: u32,
    /// When the interval is over, in milliseconds since boot.
    pub interval: Option<u64>,
    /// The next time of day to flush at, in minutes since midnight.
    pub at: Option<u16>,
    /// When what changed under an urgent path is flushed, in milliseconds since boot.
    pub urgent: Option<u64>,
    /// When what changed among the files that a boot loader reads is flushed, in milliseconds since
    /// boot.
    pub boot: Option<u64>,
}

impl DaemonNote {
    fn to_text(self) -> String {
        let Self { pid, interval, at, urgent, boot } = self;
        let text = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let (interval, at) = (text(interval), text(at.map(u64::from)));
        let (urgent, boot) = (text(urgent), text(boot));
        format!("pid={pid}\ninterval={interval}\nat={at}\nurgent={urgent}\nboot={boot}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            pid: decimal(value(text, "pid"))?,
            interval: decimal(value(text, "interval")),
            at: decimal(value(text, "at")).filter(|at| *at < 1440),
            urgent: decimal(value(text, "urgent")),
            boot: decimal(value(text, "boot")),
        })
    }

    /// Writes the note, unless it is there. A missing /run is not an error.
    pub fn leave(self) {
        if read() != Some(self) {
            let _ = run_dir::write(NOTE, &self.to_text());
        }
    }

    /// Removes the note of this process. Another daemon's stays.
    pub fn remove(pid: u32) {
        if read().is_some_and(|note| note.pid == pid) {
            let _ = file::remove(&Path::new(run_dir::PATH).join(NOTE));
        }
    }

    /// Seconds until the next flush for the clock or for a change that has come, and its reason.
    pub fn next(self) -> Option<(u64, &'static str)> {
        let left = |at: u64| at.saturating_sub(time::running()).div_ceil(1000);
        let minute = time::local().1;
        let all = [
            (self.urgent.map(left), "urgent"),
            (self.boot.map(left), "boot files"),
            (self.interval.map(left), "interval"),
            (self.at.map(|at| seconds_until(at, minute)), "at"),
        ];
        all.into_iter().filter_map(|(seconds, why)| Some((seconds?, why))).min()
    }
}

/// Seconds from one minute of the day to the next time that it is `at`, to the minute.
fn seconds_until(at: u16, minute: u16) -> u64 {
    let minutes = (i64::from(at) - i64::from(minute)).rem_euclid(1440);
    minutes.unsigned_abs() * 60
}

/// Which of `times` comes first after `minute`, in minutes since midnight.
pub fn first_after(times: &[u16], minute: u16) -> Option<u16> {
    // A time that is now has come already.
    times.iter().copied().min_by_key(|at| match seconds_until(*at, minute) {
        0 => u64::MAX,
        seconds => seconds,
    })
}

fn read() -> Option<DaemonNote> {
    DaemonNote::parse(&run_dir::read(NOTE)?)
}

/// The note of a running daemon. The note of one that was killed does not count.
pub fn running() -> Option<DaemonNote> {
    let note = read()?;
    let name = |pid: &str| file::read(Path::new(&format!("/proc/{pid}/comm"))).ok();
    let theirs = name(&note.pid.to_string())?;
    (Some(theirs) == name("self")).then_some(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back() {
        let note = DaemonNote {
            pid: 12,
            interval: Some(1_800_000),
            at: Some(210),
            urgent: Some(7),
            boot: Some(8),
        };
        assert_eq!(DaemonNote::parse(&note.to_text()), Some(note));
        let bare = DaemonNote { pid: 12, ..DaemonNote::default() };
        assert_eq!(DaemonNote::parse(&bare.to_text()), Some(bare));
        assert_eq!(DaemonNote::parse("pid=x\n"), None);
    }

    #[test]
    fn the_next_time_of_day() {
        assert_eq!(first_after(&[210, 900], 100), Some(210));
        assert_eq!(first_after(&[210, 900], 210), Some(900));
        assert_eq!(first_after(&[210, 900], 1000), Some(210));
        assert_eq!(first_after(&[210], 210), Some(210));
        assert_eq!(first_after(&[], 0), None);
        assert_eq!(seconds_until(10, 1430), 20 * 60);
    }
}
