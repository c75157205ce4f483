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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A tree with a file, an empty folder and a folder with a file, and a folder beside it.
    fn tree(name: &str) -> (PathBuf, PathBuf) {
        let all =
            std::env::temp_dir().join(format!("cowflush-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&all);
        let (tree, beside) = (all.join("tree"), all.join("beside"));
        for folder in [&tree.join("deep/er"), &tree.join("empty"), &beside] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in [tree.join("file"), tree.join("deep/er/file"), beside.join("file")] {
            fs::write(file, "before").unwrap();
        }
        (tree, beside)
    }

    #[test]
    fn every_kind_of_change_is_seen_at_every_depth() {
        type Change = (&'static str, fn(&Path, &Path));
        let changes: [Change; 13] = [
            ("a file written", |tree, _| fs::write(tree.join("file"), "after").unwrap()),
            ("a file written in a folder's folder", |tree, _| {
                fs::write(tree.join("deep/er/file"), "after").unwrap();
            }),
            ("a file made", |tree, _| fs::write(tree.join("deep/new"), "").unwrap()),
            ("a file removed", |tree, _| fs::remove_file(tree.join("deep/er/file")).unwrap()),
            ("a folder made", |tree, _| fs::create_dir(tree.join("new")).unwrap()),
            ("a folder removed", |tree, _| fs::remove_dir(tree.join("empty")).unwrap()),
            ("a link made", |tree, _| symlink("file", tree.join("link")).unwrap()),
            ("a hard link made", |tree, beside| {
                fs::hard_link(beside.join("file"), tree.join("link")).unwrap();
            }),
            ("a file moved in", |tree, beside| {
                fs::rename(beside.join("file"), tree.join("moved")).unwrap();
            }),
            ("a file moved out", |tree, beside| {
                fs::rename(tree.join("file"), beside.join("moved")).unwrap();
            }),
            ("a file renamed over another, as editors do", |tree, _| {
                fs::rename(tree.join("deep/er/file"), tree.join("file")).unwrap();
            }),
            ("a mode changed", |tree, _| {
                fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("a file emptied", |tree, _| drop(fs::File::create(tree.join("file")).unwrap())),
        ];
        for (what, change) in changes {
            let (tree, beside) = tree("kinds");
            let watch = Watch::new(&[tree.to_string_lossy().into_owned()]).unwrap();
            assert!(!watch.changed(), "{what}: not yet");
            change(&tree, &beside);
            assert!(watch.changed(), "{what}");
            assert!(!watch.changed(), "{what}: it came once");
        }
        fs::remove_dir_all(tree("kinds").0.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_was_made_since_is_watched_and_a_read_is_no_change() {
        let (tree, beside) = tree("grown");
        let paths = [tree.join("file"), tree.join("deep"), tree.join("not-there")];
        let watch = Watch::new(&paths.map(|path| path.to_string_lossy().into_owned())).unwrap();
        fs::read(tree.join("file")).unwrap();
        fs::read_dir(tree.join("deep/er")).unwrap().count();
        fs::write(beside.join("file"), "after").unwrap();
        fs::write(tree.join("other"), "").unwrap();
        assert!(!watch.changed(), "nothing of it is named");
        fs::write(tree.join("file"), "after").unwrap();
        assert!(watch.changed(), "a single file");
        fs::create_dir(tree.join("deep/new")).unwrap();
        assert!(watch.changed());
        fs::write(tree.join("deep/new/file"), "").unwrap();
        assert!(watch.changed(), "in a folder that is new");
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }
}
