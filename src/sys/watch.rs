//! Notices changes under some paths.
//!
//! A path may name a folder, a file, or a link to one; it may come later, and go, and come again as
//! another: editors replace a file by renaming a new one over it. The kernel watches an inode and
//! not a name, so the folder that a path's name stands in is watched as well, for that name; where
//! that folder is not there yet, the nearest one above. A filesystem that is mounted over a folder
//! hides its inode, and inotify does not report that. The kernel reports mounts by
//! /proc/self/mountinfo, and then all paths are looked up again.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::{lstat, stat};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Doing, Result as Cowflush};
use crate::pure::config::{is_in, left_out};
use crate::pure::units::DevNo;

/// The kernel's list of mounts, which can be polled for changes.
pub struct Mounts(File);

impl Mounts {
    /// What to poll it for; the poll resets it (`mounts_poll` in fs/proc_namespace.c).
    pub const EVENT: PollFlags = PollFlags::POLLERR;

    /// Opens the list: from now on it shows each mount that comes or goes.
    pub fn watch() -> Cowflush<Self> {
        const LIST: &str = "/proc/self/mountinfo";
        #[cfg(test)]
        if super::kernel::model().is_some() {
            // A model's mounts come and go by what `events::wait` returns.
            return File::open("/dev/null").map(Self).doing(|| format!("open {LIST}"));
        }
        File::open(LIST).map(Self).doing(|| format!("open {LIST}"))
    }
}

impl AsFd for Mounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A watch over trees of folders.
pub struct Watch {
    /// An error: the machine has no more inotify instances.
    inotify: Result<Inotify, Errno>,
    trees: Vec<PathBuf>,
    /// The paths that are watched, and with a `!` before them those that are left out.
    paths: Vec<String>,
    /// Root's device on the stack.
    root: Option<DevNo>,
    watched: RefCell<Watched>,
    /// What changed last.
    last: RefCell<PathBuf>,
    told: Cell<bool>,
}

/// What is watched, and what could not be watched.
#[derive(Default)]
struct Watched {
    places: Vec<Place>,
    /// How many folders and files of the trees are watched.
    count: usize,
    /// The first path that could not be watched, and why.
    lacking: Option<(PathBuf, Errno)>,
}

/// A folder or a file that is watched, and why.
struct Place {
    inode: WatchDescriptor,
    /// Set if it is part of a tree: then everything that happens in it is a change.
    inside: Option<Inside>,
    /// Names in it that lead to trees, and may come, go or be replaced.
    names: Vec<OsString>,
}

/// A folder or a file of a tree.
struct Inside {
    path: PathBuf,
    /// Whether it is certainly not on root: a block device other than root's has it.
    elsewhere: bool,
}

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Some of it may be on root.
    pub on_root: bool,
}

/// IN_MASK_ADD of include/uapi/linux/inotify.h: adds events to those that an inode is watched for
/// already.
const ADDED: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);

/// The most watches: each costs the kernel about a kilobyte.
const MOST: usize = 4096;
/// How many links in a row are followed. The kernel follows 40 (MAXSYMLINKS in
/// include/linux/namei.h); real paths have fewer than 8.
const MOST_LINKS: usize = 8;

/// The longest part of a path that is reported, in characters.
const LONGEST: usize = 200;

/// The events that are a change of a folder or file inside a tree.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_ATTRIB);
/// The events of a name in the folder above.
const NAMES: AddWatchFlags =
    AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_DELETE).union(AddWatchFlags::IN_MOVE);

impl Watch {
    /// Watches everything under `paths`, and the files among them; `root` is the stack's device.
    pub fn new(paths: &[String], root: Option<DevNo>) -> Self {
        let watch = Self {
            inotify: instance(),
            trees: paths
                .iter()
                .filter(|path| left_out(path).is_none())
                .map(PathBuf::from)
                .collect(),
            paths: paths.to_vec(),
            root,
            watched: RefCell::default(),
            last: RefCell::default(),
            told: Cell::new(false),
        };
        watch.add_all();
        watch
    }

    /// Why not everything is watched, for people. Returned once.
    pub fn complaint(&self) -> Option<String> {
        #[cfg(test)]
        if super::kernel::model().is_some() {
            // A model watches everything that it is asked to.
            return None;
        }
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

    /// Looks up all that is to be watched. Returns what was watched before.
    fn add_all(&self) -> Watched {
        let mut watched = Watched::default();
        if let Ok(inotify) = &self.inotify {
            for tree in &self.trees {
                // From the top down, so that an automount above is noticed before anything behind
                // it is touched.
                let ancestors: Vec<_> = tree.ancestors().collect();
                if ancestors.iter().rev().any(|path| is_automount(path)) {
                    continue;
                }
                watched.add_above(inotify, tree);
                self.add(&mut watched, inotify, tree);
            }
        }
        self.watched.replace(watched)
    }

    /// Watches a folder or file and the folders in it. Links inside a tree are not followed.
    fn add(&self, watched: &mut Watched, inotify: &Inotify, path: &Path) {
        if watched.count >= MOST {
            watched.lack(path, Errno::ENOSPC);
            return;
        }
        // This triggers no automount: the C library passes AT_NO_AUTOMOUNT.
        let device = stat(path).ok().map(|found| DevNo::from_huge(found.st_dev));
        match inotify.add_watch(path, CHANGES) {
            Ok(inode) => {
                if let Some(place) = watched.place(inode) {
                    // A filesystem without a block device may be on root, as an overlay is.
                    let elsewhere = device.is_some_and(|number| number.major > 0)
                        && self.root.is_some_and(|root| Some(root) != device);
                    place.inside = Some(Inside { path: path.to_owned(), elsewhere });
                }
            }
            // If it comes later, the watch on the folder above shows it.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return,
            Err(errno) => {
                watched.lack(path, errno);
                return;
            }
        }
        watched.count += 1;
        if device.is_none_or(|number| number.major == 0) && is_automount(path) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if !self.leaves_out(&path) {
                    self.add(watched, inotify, &path);
                }
            }
        }
    }

    /// Whether the innermost configured path around this one is one to leave out.
    fn leaves_out(&self, path: &Path) -> bool {
        let Some(path) = path.to_str() else { return false };
        let mut closest = "";
        for named in &self.paths {
            let of = left_out(named).unwrap_or(named);
            if is_in(path, of) && of.len() >= left_out(closest).unwrap_or(closest).len() {
                closest = named;
            }
        }
        left_out(closest).is_some()
    }

    /// Whether anything changed since the last call, and whether that may be on root. `mounted`: a
    /// mount came or went.
    pub fn changed(&self, mounted: bool) -> Option<Change> {
        #[cfg(test)]
        if let Some(model) = super::kernel::model() {
            let (path, change) = model.changed(&self.paths)?;
            *self.last.borrow_mut() = path;
            return Some(change);
        }
        let Ok(inotify) = &self.inotify else { return None };
        let (mut change, mut moved, mut renamed) = (None, mounted, false);
        let mut note = |path: PathBuf, elsewhere: bool| {
            *self.last.borrow_mut() = path;
            change.get_or_insert(Change { on_root: false }).on_root |= !elsewhere;
        };
        loop {
            match inotify.read_events() {
                Ok(events) => {
                    for event in &events {
                        let watched = self.watched.borrow();
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            // The queue overflowed: some events are missing.
                            note(self.trees.first().cloned().unwrap_or_default(), false);
                            moved = true;
                        }
                        let Some(place) = watched.known(event) else { continue };
                        renamed |= place.is_named(event);
                        moved |= renamed || place.moves(event);
                        if let Some(Inside { path, elsewhere }) = &place.inside {
                            let path =
                                event.name.as_ref().map_or(path.clone(), |name| path.join(name));
                            if !self.leaves_out(&path) {
                                note(path, *elsewhere);
                            }
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if moved {
            // A name that leads to a tree came, went or was replaced. That is a change if the tree
            // exists, or did.
            let before = self.add_all();
            let after = self.watched.borrow();
            let (mut before, mut after) = (before.inside(), after.inside());
            let found = loop {
                match (before.next(), after.next()) {
                    (Some((one, _)), Some((other, _))) if one == other => {}
                    (one, other) => break [other, one],
                }
            };
            // A mount that hides or uncovers files does not change them.
            let elsewhere = !renamed && found.iter().flatten().any(|(_, inside)| inside.elsewhere);
            if let Some((_, inside)) = found.into_iter().flatten().next() {
                // For a deleted file `last` may name its neighbour: an event's own name is more
                // exact.
                if change.is_none() {
                    *self.last.borrow_mut() = inside.path.clone();
                }
                change.get_or_insert(Change { on_root: false }).on_root |= !elsewhere;
            }
        }
        change
    }

    /// The path that changed last, for people.
    pub fn last(&self) -> String {
        let text = self.last.borrow().to_string_lossy().into_owned();
        // A line of a note, and of the system's log.
        text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()
    }

    /// The descriptor to poll, if anything is watched.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().ok().map(AsFd::as_fd)
    }
}

/// A new inotify instance. Where a model answers there is none: no path of this machine is watched.
fn instance() -> Result<Inotify, Errno> {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        return Err(Errno::ENOSYS);
    }
    Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
}

impl Place {
    /// Whether the event may replace a name that leads to a tree.
    fn is_named(&self, event: &InotifyEvent) -> bool {
        self.names.iter().any(|name| Some(name.as_os_str()) == event.name.as_deref())
    }

    /// Whether a folder came or went, so that there is more or less to watch.
    fn moves(&self, event: &InotifyEvent) -> bool {
        let has = |flag| event.mask.intersects(flag);
        has(AddWatchFlags::IN_IGNORED) || (self.inside.is_some() && has(AddWatchFlags::IN_ISDIR))
    }
}

/// Whether a look into the path would make an automounter mount something, and wait for that. A
/// program that writes there triggers the mount as well, and the kernel reports it.
fn is_automount(path: &Path) -> bool {
    // AUTOFS_SUPER_MAGIC of include/uapi/linux/magic.h. Only an open with O_PATH does not trigger
    // the mount (open(2)).
    let place = File::options().read(true).custom_flags(libc::O_PATH).open(path);
    let found = place.ok().and_then(|place| fstatfs(place).ok());
    found.is_some_and(|found| found.filesystem_type() == FsType(0x0187))
}

impl Watched {
    /// Watches the names by which a tree is reached: its own, and where that is a link, the name
    /// that it leads to.
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
            // The mask adds to the present one: the folder may itself be in a tree, and watched for
            // more events.
            match inotify.add_watch(above, NAMES.union(ADDED)) {
                Ok(inode) => {
                    if let Some(Place { names, .. }) = self.place(inode)
                        && !names.iter().any(|known| known == name)
                    {
                        names.push(name.to_owned());
                    }
                    // If the name came a moment ago, no event will report it: go on from there.
                    if path == wanted || lstat(path).is_err() {
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

    /// Why an inode is watched, to add to it.
    fn place(&mut self, inode: WatchDescriptor) -> Option<&mut Place> {
        if !self.places.iter().any(|place| place.inode == inode) {
            self.places.push(Place { inode, inside: None, names: Vec::new() });
        }
        self.places.iter_mut().find(|place| place.inode == inode)
    }

    /// The place that an event belongs to.
    fn known(&self, event: &InotifyEvent) -> Option<&Place> {
        self.places.iter().find(|place| place.inode == event.wd)
    }

    fn lack(&mut self, path: &Path, errno: Errno) {
        self.lacking.get_or_insert_with(|| (path.to_owned(), errno));
    }

    /// The watched folders and files of the trees.
    fn inside(&self) -> impl Iterator<Item = (WatchDescriptor, &Inside)> {
        self.places.iter().filter_map(|place| Some((place.inode, place.inside.as_ref()?)))
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
            let watch = Watch::new(&[tree.to_string_lossy().into_owned()], None);
            assert!(watch.changed(false).is_none(), "{what}: not yet");
            change(&tree, &beside);
            assert!(watch.changed(false).is_some(), "{what}");
            assert!(watch.changed(false).is_none(), "{what}: it came once");
        }
        fs::remove_dir_all(tree("kinds").0.parent().unwrap()).unwrap();
    }

    fn watch(path: &Path) -> Watch {
        let watch = Watch::new(&[path.to_string_lossy().into_owned()], None);
        assert!(watch.changed(false).is_none() && watch.complaint().is_none());
        watch
    }

    /// Replaces a file as an editor and `uci commit` do: afterwards another inode has its name.
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
            assert!(watch.changed(false).is_some(), "replacement {round}");
            assert!(watch.changed(false).is_none());
            fs::write(&file, "once more").unwrap();
            assert!(watch.changed(false).is_some(), "written after replacement {round}");
            fs::write(tree.join("other"), "").unwrap();
            assert!(watch.changed(false).is_none(), "nothing of it is named");
        }
        fs::remove_file(&file).unwrap();
        assert!(watch.changed(false).is_some() && watch.changed(false).is_none());
        fs::write(&file, "back").unwrap();
        assert!(watch.changed(false).is_some());
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_comes_later_is_watched_from_then_on() {
        let (tree, _) = tree("later");
        let watch = watch(&tree.join("a/b/c"));
        fs::create_dir(tree.join("x")).unwrap();
        fs::create_dir(tree.join("a")).unwrap();
        assert!(watch.changed(false).is_none(), "it is not there yet");
        fs::create_dir(tree.join("a/b")).unwrap();
        assert!(watch.changed(false).is_none());
        fs::create_dir(tree.join("a/b/c")).unwrap();
        assert!(watch.changed(false).is_some() && watch.changed(false).is_none());
        fs::write(tree.join("a/b/c/file"), "").unwrap();
        assert!(watch.changed(false).is_some());
        fs::remove_dir_all(tree.join("a")).unwrap();
        assert!(watch.changed(false).is_some(), "it went");
        watch.changed(false);
        // All at once.
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        assert!(watch.changed(false).is_some());
        fs::write(tree.join("a/b/c/file"), "").unwrap();
        assert!(watch.changed(false).is_some());
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_link_is_followed_to_what_it_leads_to_now() {
        let (tree, beside) = tree("link");
        let link = tree.join("link");
        symlink(&beside, &link).unwrap();
        let seen = watch(&link);
        fs::write(beside.join("file"), "after").unwrap();
        assert!(seen.changed(false).is_some(), "a folder");
        fs::remove_file(&link).unwrap();
        symlink("deep", &link).unwrap();
        assert!(
            seen.changed(false).is_some() && seen.changed(false).is_none(),
            "it leads elsewhere"
        );
        fs::write(beside.join("file"), "again").unwrap();
        assert!(seen.changed(false).is_none());
        fs::write(tree.join("deep/er/file"), "after").unwrap();
        assert!(seen.changed(false).is_some());
        // As /etc/resolv.conf on a router: to a file that is replaced, and not there at first.
        let link = tree.join("resolv.conf");
        symlink(beside.join("resolv.conf"), &link).unwrap();
        let seen = watch(&link);
        for _ in 0..2 {
            replace(&beside.join("resolv.conf"));
            assert!(seen.changed(false).is_some() && seen.changed(false).is_none());
        }
        symlink("circle", tree.join("circle")).unwrap();
        assert!(
            Watch::new(&[tree.join("circle").to_string_lossy().into_owned()], None)
                .changed(false)
                .is_none()
        );
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_left_out_changes_nothing_and_what_is_named_in_it_does() {
        let (tree, _) = tree("left-out");
        let named = |path: &str| tree.join(path).to_string_lossy().into_owned();
        fs::create_dir_all(tree.join("deep/er/still")).unwrap();
        fs::create_dir(tree.join("deeper")).unwrap();
        let without = |path: &str| format!("!{}", named(path));
        let watch = Watch::new(
            &[named(""), without("deep"), named("deep/er/still"), without("file")],
            None,
        );
        let changes = |path: &str| {
            fs::write(tree.join(path), "after").unwrap();
            watch.changed(false).map(|_| watch.last())
        };
        for silent in ["file", "deep/new", "deep/er/file"] {
            assert_eq!(changes(silent), None, "{silent}");
        }
        // One whose name only begins so is another.
        for said in ["other", "deeper/file", "deep/er/still/file"] {
            assert_eq!(changes(said), Some(named(said)));
        }
        // Made anew it is left out as before, and what is named in it is watched again.
        fs::remove_dir_all(tree.join("deep")).unwrap();
        assert!(watch.changed(false).is_some(), "what is named in it went");
        fs::create_dir_all(tree.join("deep/er")).unwrap();
        assert_eq!(watch.changed(false), None);
        assert_eq!(changes("deep/er/file"), None);
        fs::create_dir(tree.join("deep/er/still")).unwrap();
        watch.changed(false);
        assert_eq!(changes("deep/er/still/file"), Some(named("deep/er/still/file")));
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_changed_last_is_named_in_one_line() {
        let (tree, _) = tree("named");
        let watch = watch(&tree);
        // As a program writes that wants its file whole.
        fs::write(tree.join("empty/tmp.Xy3"), "").unwrap();
        fs::rename(tree.join("empty/tmp.Xy3"), tree.join("file")).unwrap();
        assert_eq!(watch.changed(false), Some(Change { on_root: true }));
        assert_eq!(watch.last(), tree.join("file").to_string_lossy());
        // And not what stands behind it.
        fs::remove_dir(tree.join("empty")).unwrap();
        assert!(watch.changed(false).is_some());
        assert!(watch.last().ends_with("/empty"), "{}", watch.last());
        fs::write(tree.join("a\nb"), "").unwrap();
        watch.changed(false);
        assert_eq!(watch.last(), format!("{}/a?b", tree.to_string_lossy()));
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    /// A mount makes another inode of a name without any event of inotify's. Here a name's folder
    /// is moved away unseen.
    #[test]
    fn what_a_mount_changes_is_watched_when_the_kernel_tells_of_it() {
        let (tree, beside) = tree("mounted");
        let link = beside.join("link");
        symlink(&tree, &link).unwrap();
        // Its folder is a link, which is not watched, so a change of the link's target is not seen.
        let path = link.join("deep");
        let device = DevNo::from_huge(stat(&tree).unwrap().st_dev);
        let not_root = Some(DevNo { major: device.major, minor: device.minor + 1 });
        let watch = Watch::new(&[path.to_string_lossy().into_owned()], not_root);
        fs::create_dir_all(beside.join("other/deep")).unwrap();
        fs::remove_file(&link).unwrap();
        symlink(beside.join("other"), &link).unwrap();
        assert_eq!(watch.changed(false), None);
        fs::write(path.join("file"), "").unwrap();
        assert_eq!(watch.changed(false), None, "so it has to be told");
        let on_root = device.major == 0;
        assert_eq!(watch.changed(true), Some(Change { on_root }));
        assert_eq!(watch.changed(true), None, "nothing else was mounted");
        fs::write(path.join("file"), "").unwrap();
        assert_eq!(watch.changed(false), Some(Change { on_root }));
        assert_eq!(watch.last(), path.join("file").to_string_lossy());
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
        assert!(lacking.changed(false).is_none() && lacking.events().is_none());
        // Without paths there is nothing to complain about.
        let idle = Watch { trees: Vec::new(), told: Cell::new(false), ..lacking };
        assert!(idle.complaint().is_none());
        for number in 0..=MOST {
            fs::create_dir(tree.join(number.to_string())).unwrap();
        }
        let most = Watch::new(&[path], None);
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
        assert!(most.changed(false).is_some(), "the rest is watched");
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_was_made_since_is_watched_and_a_read_is_no_change() {
        let (tree, beside) = tree("grown");
        let paths = [tree.join("file"), tree.join("deep"), tree.join("not-there")];
        let watch = Watch::new(&paths.map(|path| path.to_string_lossy().into_owned()), None);
        fs::read(tree.join("file")).unwrap();
        fs::read_dir(tree.join("deep/er")).unwrap().count();
        fs::write(beside.join("file"), "after").unwrap();
        fs::write(tree.join("other"), "").unwrap();
        assert!(watch.changed(false).is_none(), "nothing of it is named");
        fs::write(tree.join("file"), "after").unwrap();
        assert!(watch.changed(false).is_some(), "a single file");
        fs::create_dir(tree.join("deep/new")).unwrap();
        assert!(watch.changed(false).is_some());
        fs::write(tree.join("deep/new/file"), "").unwrap();
        assert!(watch.changed(false).is_some(), "in a folder that is new");
        fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    }
}
