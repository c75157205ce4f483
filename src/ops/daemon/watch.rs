//! Tells when something under some paths changes.
//!
//! A path may name a folder, a file, or a link to one; it may come later, and go, and come again as another:
//! editors replace a file by renaming a new one over it. The kernel watches an inode and not a name, so the folder that
//! a path's name stands in is watched as well, for that name; where that folder is not there yet, the nearest one above.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// A watch over trees of folders.
pub struct Watch {
    /// Why there is none: the machine has no more of them.
    inotify: Result<Inotify, Errno>,
    trees: Vec<PathBuf>,
    watched: RefCell<Watched>,
    told: Cell<bool>,
}

/// What is watched, and what could not be.
#[derive(Default)]
struct Watched {
    places: Vec<(WatchDescriptor, Place)>,
    /// How many folders and files of the trees.
    count: usize,
    /// The first path that could not be watched, and why.
    lacking: Option<(PathBuf, Errno)>,
}

/// Why a folder or a file is watched.
enum Place {
    /// It belongs to a tree: whatever happens in it is a change.
    Inside,
    /// These names in it lead to trees: they come, go or are replaced.
    Above(Vec<OsString>),
}

/// IN_MASK_ADD of include/uapi/linux/inotify.h: one that is watched already is watched for these as well.
const ADDED: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);

/// Each costs the kernel about a kilobyte.
const MOST: usize = 4096;
/// As many links one after the other as the kernel follows (MAXSYMLINKS of include/linux/namei.h is 40; nobody has 8).
const MOST_LINKS: usize = 8;

/// What is a change of a folder or file inside a tree.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_ATTRIB);
/// What may happen to a name in the folder above.
const NAMES: AddWatchFlags =
    AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_DELETE).union(AddWatchFlags::IN_MOVE);

impl Watch {
    /// Watches everything under `paths`, and the files among them.
    pub fn new(paths: &[String]) -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let inotify = Inotify::init(flags);
        let trees = paths.iter().map(PathBuf::from).collect();
        let watch = Self { inotify, trees, watched: RefCell::default(), told: Cell::new(false) };
        watch.add_all();
        watch
    }

    /// Why not everything is watched, for people; told once.
    pub fn complaint(&self) -> Option<String> {
        if self.told.get() {
            return None;
        }
        let (path, errno) = match &self.inotify {
            Err(errno) => (self.trees.first()?.clone(), *errno),
            Ok(_) => self.watched.borrow_mut().lacking.take()?,
        };
        self.told.set(true);
        let advice = match errno {
            Errno::EMFILE => "raise fs.inotify.max_user_instances",
            Errno::ENOSPC => "raise fs.inotify.max_user_watches, or name fewer folders",
            _ => "name what can be watched",
        };
        Some(format!(
            "changes under {} are not watched: {}. They are flushed with everything else; {advice}",
            path.display(),
            errno.desc()
        ))
    }

    fn add_all(&self) {
        let Ok(inotify) = &self.inotify else { return };
        let mut watched = Watched::default();
        for tree in &self.trees {
            watched.add_above(inotify, tree);
            watched.add(inotify, tree);
        }
        *self.watched.borrow_mut() = watched;
    }

    /// Whether anything changed since the last call.
    pub fn changed(&self) -> bool {
        let Ok(inotify) = &self.inotify else { return false };
        let (mut changed, mut moved) = (false, false);
        loop {
            match inotify.read_events() {
                Ok(events) => {
                    for event in &events {
                        match self.watched.borrow().what(event) {
                            What::Change => changed = true,
                            What::Grown => (changed, moved) = (true, true),
                            What::Above => moved = true,
                            What::Nothing => {}
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if moved {
            // A name that leads to a tree came, went or is another's now. That is a change if the tree is there, or was.
            let before = self.watched.borrow().inside();
            self.add_all();
            changed |= before != self.watched.borrow().inside();
        }
        changed
    }

    /// What to wait for, if anything is watched.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().ok().map(AsFd::as_fd)
    }
}

/// What an event means.
enum What {
    /// Something in a tree changed.
    Change,
    /// The same, and there is more to watch, or less.
    Grown,
    /// A name above a tree changed.
    Above,
    Nothing,
}

impl Watched {
    /// Adds a folder or file and the folders in it; one that is watched already stays so. Links inside a
    /// tree are not followed.
    fn add(&mut self, inotify: &Inotify, path: &Path) {
        if self.count >= MOST {
            self.lack(path, Errno::ENOSPC);
            return;
        }
        match inotify.add_watch(path, CHANGES) {
            Ok(inode) => match self.place(inode) {
                Some(place) => *place = Place::Inside,
                None => self.places.push((inode, Place::Inside)),
            },
            // What comes later is seen from above.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return,
            Err(errno) => {
                self.lack(path, errno);
                return;
            }
        }
        self.count += 1;
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(inotify, &entry.path());
            }
        }
    }

    /// Watches the names by which a tree is reached: its own, and where that is a link, the one it leads to.
    fn add_above(&mut self, inotify: &Inotify, tree: &Path) {
        let mut name = tree.to_owned();
        for _ in 0..MOST_LINKS {
            self.add_name(inotify, &name);
            let Ok(target) = std::fs::read_link(&name) else { return };
            name = name.parent().unwrap_or(Path::new("/")).join(target);
        }
    }

    /// Watches a name in the folder that it stands in, or else the way to that.
    fn add_name(&mut self, inotify: &Inotify, wanted: &Path) {
        let mut path = wanted;
        while let (Some(above), Some(name)) = (path.parent(), path.file_name()) {
            // A mask that adds: the folder may be one of a tree itself, which is told by more.
            match inotify.add_watch(above, NAMES.union(ADDED)) {
                Ok(inode) => {
                    match self.place(inode) {
                        Some(Place::Above(names)) if !names.iter().any(|known| known == name) => {
                            names.push(name.to_owned());
                        }
                        Some(_) => {}
                        None => self.places.push((inode, Place::Above(vec![name.to_owned()]))),
                    }
                    // What was made a moment before is told of by nobody: go on from there.
                    if path == wanted || path.symlink_metadata().is_err() {
                        return;
                    }
                    path = wanted;
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => path = above,
                Err(errno) => {
                    self.lack(wanted, errno);
                    return;
                }
            }
        }
    }

    /// Why an inode is watched.
    fn place(&mut self, inode: WatchDescriptor) -> Option<&mut Place> {
        self.places.iter_mut().find(|(known, _)| *known == inode).map(|(_, place)| place)
    }

    fn lack(&mut self, path: &Path, errno: Errno) {
        self.lacking.get_or_insert_with(|| (path.to_owned(), errno));
    }

    /// The inodes of the trees that are watched.
    fn inside(&self) -> Vec<WatchDescriptor> {
        let inside = self.places.iter().filter(|(_, place)| matches!(place, Place::Inside));
        inside.map(|(inode, _)| *inode).collect()
    }

    fn what(&self, event: &InotifyEvent) -> What {
        let has = |flag| event.mask.intersects(flag);
        if has(AddWatchFlags::IN_Q_OVERFLOW) {
            return What::Grown;
        }
        match self.places.iter().find(|(inode, _)| *inode == event.wd).map(|(_, place)| place) {
            Some(Place::Inside) if has(AddWatchFlags::IN_ISDIR | AddWatchFlags::IN_IGNORED) => {
                What::Grown
            }
            Some(Place::Inside) => What::Change,
            Some(Place::Above(names)) => {
                let named = |name: &OsString| Some(name.as_os_str()) == event.name.as_deref();
                let gone = has(AddWatchFlags::IN_IGNORED);
                if gone || names.iter().any(named) { What::Above } else { What::Nothing }
            }
            None => What::Nothing,
        }
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
            let watch = Watch::new(&[tree.to_string_lossy().into_owned()]);
            assert!(!watch.changed(), "{what}: not yet");
            change(&tree, &beside);
            assert!(watch.changed(), "{what}");
            assert!(!watch.changed(), "{what}: it came once");
        }
        fs::remove_dir_all(tree("kinds").0.parent().unwrap()).unwrap();
    }

    fn watch(path: &Path) -> Watch {
        let watch = Watch::new(&[path.to_string_lossy().into_owned()]);
        assert!(!watch.changed() && watch.complaint().is_none());
        watch
    }

    /// As an editor does, and `uci commit`: the file's name is another inode's after that.
    fn replace(file: &Path) {
        let new = file.with_extension("new");
        fs::write(&new, "after").unwrap();
        fs::rename(new, file).unwrap();
    }

    #[test]
    fn a_file_is_watched_however_often_another_takes_its_place() {
        let (tree, _) = tree("replaced");
        let file = tree.join("file");
        let watch = watch(&file);
        for round in 0..3 {
            replace(&file);
            assert!(watch.changed(), "replacement {round}");
            assert!(!watch.changed());
            fs::write(&file, "once more").unwrap();
            assert!(watch.changed(), "written after replacement {round}");
            fs::write(tree.join("other"), "").unwrap();
            assert!(!watch.changed(), "nothing of it is named");
        }
        fs::remove_file(&file).unwrap();
        assert!(watch.changed() && !watch.changed());
        fs::write(&file, "back").unwrap();
        assert!(watch.changed());
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_comes_later_is_watched_from_then_on() {
        let (tree, _) = tree("later");
        let watch = watch(&tree.join("a/b/c"));
        fs::create_dir(tree.join("x")).unwrap();
        fs::create_dir(tree.join("a")).unwrap();
        assert!(!watch.changed(), "it is not there yet");
        fs::create_dir(tree.join("a/b")).unwrap();
        assert!(!watch.changed());
        fs::create_dir(tree.join("a/b/c")).unwrap();
        assert!(watch.changed() && !watch.changed());
        fs::write(tree.join("a/b/c/file"), "").unwrap();
        assert!(watch.changed());
        fs::remove_dir_all(tree.join("a")).unwrap();
        assert!(watch.changed(), "it went");
        watch.changed();
        // All at once.
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        assert!(watch.changed());
        fs::write(tree.join("a/b/c/file"), "").unwrap();
        assert!(watch.changed());
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_link_is_followed_to_what_it_leads_to_now() {
        let (tree, beside) = tree("link");
        let link = tree.join("link");
        symlink(&beside, &link).unwrap();
        let seen = watch(&link);
        fs::write(beside.join("file"), "after").unwrap();
        assert!(seen.changed(), "a folder");
        fs::remove_file(&link).unwrap();
        symlink("deep", &link).unwrap();
        assert!(seen.changed() && !seen.changed(), "it leads elsewhere");
        fs::write(beside.join("file"), "again").unwrap();
        assert!(!seen.changed());
        fs::write(tree.join("deep/er/file"), "after").unwrap();
        assert!(seen.changed());
        // As /etc/resolv.conf on a router: to a file that is replaced, and not there at first.
        let link = tree.join("resolv.conf");
        symlink(beside.join("resolv.conf"), &link).unwrap();
        let seen = watch(&link);
        for _ in 0..2 {
            replace(&beside.join("resolv.conf"));
            assert!(seen.changed() && !seen.changed());
        }
        symlink("circle", tree.join("circle")).unwrap();
        assert!(!Watch::new(&[tree.join("circle").to_string_lossy().into_owned()]).changed());
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_can_not_be_watched_is_told_once() {
        let (tree, _) = tree("lacking");
        let path = tree.to_string_lossy().into_owned();
        let lacking = Watch { inotify: Err(Errno::EMFILE), ..watch(&tree) };
        let told = lacking.complaint().unwrap();
        let words = "are not watched: Too many open files. They are flushed with everything else; \
                     raise fs.inotify.max_user_instances";
        assert!(told.starts_with("changes under /") && told.ends_with(words), "{told}");
        assert!(lacking.complaint().is_none(), "once");
        assert!(!lacking.changed() && lacking.events().is_none());
        // Nothing to watch lacks nothing.
        let idle = Watch { trees: Vec::new(), told: Cell::new(false), ..lacking };
        assert!(idle.complaint().is_none());
        for number in 0..=MOST {
            fs::create_dir(tree.join(number.to_string())).unwrap();
        }
        let most = Watch::new(&[path]);
        let told = most.complaint().unwrap();
        let words = "are not watched: No space left on device. They are flushed with everything \
                     else; raise fs.inotify.max_user_watches, or name fewer folders";
        assert!(told.starts_with("changes under /") && told.ends_with(words), "{told}");
        assert!(most.complaint().is_none(), "once");
        // As a folder on a network's filesystem whose server is gone.
        let stale = Watch { told: Cell::new(false), ..watch(&tree.join("0")) };
        stale.watched.borrow_mut().lack(&tree, Errno::ESTALE);
        let told = stale.complaint().unwrap();
        let words = "are not watched: Stale file handle. They are flushed with everything else; \
                     name what can be watched";
        assert!(told.ends_with(words), "{told}");
        fs::write(tree.join("file"), "after").unwrap();
        assert!(most.changed(), "the rest is watched");
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_was_made_since_is_watched_and_a_read_is_no_change() {
        let (tree, beside) = tree("grown");
        let paths = [tree.join("file"), tree.join("deep"), tree.join("not-there")];
        let watch = Watch::new(&paths.map(|path| path.to_string_lossy().into_owned()));
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
