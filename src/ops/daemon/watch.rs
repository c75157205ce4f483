//! Tells when something under some paths changes.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Doing, Result};

/// A watch over trees of folders.
pub struct Watch {
    inotify: Inotify,
    trees: Vec<PathBuf>,
}

/// Each folder costs the kernel about a kilobyte.
const MOST_FOLDERS: usize = 4096;

impl Watch {
    /// Watches everything under `paths`, and the files among them. What is not there is not watched.
    pub fn new(paths: &[String]) -> Result<Self> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let inotify = Inotify::init(flags).doing(|| "watch for changes")?;
        let watch = Self { inotify, trees: paths.iter().map(PathBuf::from).collect() };
        watch.add_all();
        Ok(watch)
    }

    fn add_all(&self) {
        let mut left = MOST_FOLDERS;
        for tree in &self.trees {
            self.add(tree, &mut left);
        }
    }

    /// Adds a folder and those in it; one that is watched already stays so.
    fn add(&self, path: &Path, left: &mut usize) {
        let wanted = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DONT_FOLLOW;
        if *left == 0 || self.inotify.add_watch(path, wanted).is_err() {
            return;
        }
        *left -= 1;
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(&entry.path(), left);
            }
        }
    }

    /// Whether anything changed since the last call.
    pub fn changed(&self) -> bool {
        let (mut changed, mut grown) = (false, false);
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    changed |= !events.is_empty();
                    // New folders have to be watched as well.
                    grown |= events.iter().any(|event| {
                        let grows = AddWatchFlags::IN_ISDIR | AddWatchFlags::IN_Q_OVERFLOW;
                        event.mask.intersects(grows)
                    });
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if grown {
            self.add_all();
        }
        changed
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
