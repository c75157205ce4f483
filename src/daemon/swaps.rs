//! Switches off swap that ends on root while writes stay in RAM ([`users::OnRoot`] says why), and
//! logs that. A `stop` switches it on again.

use std::time::Duration;

use super::Daemon;
use crate::error::Error;
use crate::notes;
use crate::pure::dm::SnapshotStatus;
use crate::pure::units::{Bytes, DevNo};
use crate::sys::errand::{Ended, Errand};
use crate::sys::users::{self, OnRoot};
use crate::sys::{memory, swap};

/// How much memory must be left when all of the area is back in RAM, as beside a COW.
const SPARE: Bytes = Bytes(16 << 20);

/// The pause after a failure, in milliseconds.
const PAUSE: u64 = 60_000;

const ADVICE: &str = "Swap on root is RAM while writes stay in RAM. Take it out of /etc/fstab, or switch off the program that \
                      makes it; zram and a partition are fine.";

/// The area that is being switched off, and what was logged.
#[derive(Default)]
pub struct Swaps {
    /// The area's path, its line for the note, and the call.
    errand: Option<(String, String, Errand)>,
    told: Vec<String>,
    not_before: u64,
    /// Root's device on the stack.
    pub(super) root: Option<DevNo>,
}

/// What to do about an area.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GiveUp,
    /// Not now, for this reason.
    Leave(String),
    Nothing,
}

fn next(area: &OnRoot, available: Bytes) -> Next {
    match area.room {
        // zram is RAM: switching it off would gain nothing.
        Some(_) if swap::is_zram(&area.path) => {
            Next::Leave("it is zram, which puts on root what it gets rid of".to_owned())
        }
        Some((used, _)) if used.0 > 0 && used.0.saturating_add(SPARE.0) > available.0 => {
            Next::Leave(format!("it holds {used}, and {available} of RAM are available"))
        }
        Some(_) => Next::GiveUp,
        None => Next::Nothing,
    }
}

/// Why the area is still in use after the call.
fn failure(ended: Ended) -> Option<&'static str> {
    match ended {
        Ended::Done => None,
        Ended::Failed(errno) => Some(errno.desc()),
        Ended::Killed => Some("memory ran out meanwhile"),
    }
}

fn complaint(path: &str, why: &str) -> String {
    Error::new(format!("give up swap on {path}"), why.to_owned()).advise(ADVICE).to_string()
}

impl Daemon<'_> {
    /// Begins to switch off the next area, if RAM has room for what is in it.
    pub(super) fn give_up_swap(&mut self, running: u64) {
        let mut given_up = false;
        if let Some((path, line, mut errand)) = self.swaps.errand.take() {
            let Some(ended) = errand.wait(Duration::ZERO) else {
                self.swaps.errand = Some((path, line, errand));
                return;
            };
            if let Some(why) = failure(ended) {
                self.refused(path, running, why);
            } else {
                notes::swaps::note_given_up(&line);
                self.swaps.told.retain(|told| *told != path);
                self.notify.log(&format!("swap on {path} was given up. {ADVICE}"));
                given_up = true;
            }
        }
        if given_up {
            // Only now that it is noted: a stop that came meanwhile has either seen the note, or is
            // seen here.
            self.status();
        }
        let deferring = matches!(self.status, SnapshotStatus::Used(_) | SnapshotStatus::Overflow);
        if given_up && !deferring {
            notes::swaps::bring_back(&mut |said| self.notify.log(said));
        }
        if !deferring || running < self.swaps.not_before {
            return;
        }
        let Some(root) = self.swaps.root else { return };
        let available = memory::info().unwrap_or_default().available;
        for area in users::swap_on(root) {
            match next(&area, available) {
                Next::GiveUp => {
                    let line = notes::swaps::giving_up(&area.path);
                    match swap::give_up(&area.path) {
                        Ok(errand) => self.swaps.errand = Some((area.path, line, errand)),
                        Err(error) => self.refused(area.path, running, &error.to_string()),
                    }
                    return;
                }
                Next::Leave(why) => self.complain(area.path, &why),
                Next::Nothing => {}
            }
        }
    }

    fn refused(&mut self, path: String, running: u64, why: &str) {
        self.swaps.not_before = running.saturating_add(PAUSE);
        self.complain(path, why);
    }

    /// Logs why an area is still in use, once for each area.
    fn complain(&mut self, path: String, why: &str) {
        if !self.swaps.told.contains(&path) {
            self.notify.log(&complaint(&path, why));
            self.swaps.told.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_in_ram_is_not_read_back_and_zram_stays() {
        let next = |path: &str, used: u64, available: u64| {
            let room = Some((Bytes(used << 20), Bytes(100 << 20)));
            super::next(&OnRoot { path: path.into(), room }, Bytes(available << 20))
        };
        let leave = |why: &str| Next::Leave(why.to_owned());
        assert_eq!(next("/swapfile", 0, 0), Next::GiveUp, "there is nothing to read back");
        assert_eq!(next("/swapfile", 10, 26), Next::GiveUp);
        let short = "it holds 10.0 MiB, and 25.0 MiB of RAM are available";
        assert_eq!(next("/swapfile", 10, 25), leave(short));
        assert_eq!(next("/dev/loop0", 0, 50), Next::GiveUp);
        let zram = "it is zram, which puts on root what it gets rid of";
        assert_eq!(next("/dev/zram0", 0, 50), leave(zram));
        assert_eq!(next("/var/zram", 0, 50), Next::GiveUp, "a file of that name");
        let given_up = OnRoot { path: "/swapfile".into(), room: None };
        assert_eq!(super::next(&given_up, Bytes(0)), Next::Nothing);
    }

    #[test]
    fn only_what_the_kernel_has_let_go_is_given_up() {
        assert_eq!(failure(Ended::Done), None);
        assert_eq!(failure(Ended::Failed(nix::errno::Errno::ENOMEM)), Some("Out of memory"));
        assert_eq!(failure(Ended::Killed), Some("memory ran out meanwhile"));
        let said = complaint("/swapfile", "Out of memory");
        assert!(
            said.starts_with("cannot give up swap on /swapfile: Out of memory. Swap on root"),
            "{said}"
        );
    }
}
