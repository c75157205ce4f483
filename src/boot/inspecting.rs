//! Looks on root, through the stack, for something that would flush it; [`served`] decides.
//!
//! The stack is built, and nothing else uses root yet. Mounting it may replay its journal, which
//! goes to RAM like any write, and shows the flush log's content as well. If root must not stay
//! there, the stack is taken away, and all that was written with it; then the plain card gets what
//! is in the log, and is mounted, as by every boot without a stack.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, lstat};

use super::mounting;
use crate::error::Result;
use crate::pure::cmdline::Options;
use crate::pure::disk::filesystem::Filesystem;
use crate::pure::policy::served::{self, Seen};
use crate::sys::{ask, process};

/// Where root is mounted for the inspection.
const PLACE: &str = "/run/cowflush-look";

/// Refuses a root that nothing would flush. `device` is the stack.
pub fn root(device: &Path, found: Option<&Filesystem>, options: &Options) -> Result<()> {
    let place = Path::new(PLACE);
    // The real mount reports why it fails.
    if mounting::root(device, place, found, options, false).is_err() {
        return Ok(());
    }
    let (program, service) = look(place);
    served::judge(program, service, options.vouched)
}

/// Whether root, mounted at `place`, has the program and its service. Unmounts it.
fn look(place: &Path) -> (Seen, Seen) {
    ask!(look_on_root());
    let seen = if process::is_in_initramfs() {
        (program(place), service(place))
    } else {
        // OpenWrt with a squashfs root calls this program from there. This is the filesystem that
        // comes over it, and may say that they were removed.
        (unless_hidden(&place.join("upper/usr/sbin/cowflush")), service_above(place))
    };
    let _ = nix::mount::umount(place);
    let _ = std::fs::remove_dir(place);
    seen
}

/// What an answer of the kernel means.
fn seen(answer: nix::Result<()>) -> Seen {
    match answer {
        Ok(()) => Seen::There,
        // The last two: no program for this kernel, or not executable.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENOEXEC | Errno::EACCES) => Seen::Missing,
        Err(_) => Seen::Unclear,
    }
}

fn file(root: &Path, name: &str) -> Seen {
    seen(lstat(&root.join(name)).map(drop))
}

fn program(root: &Path) -> Seen {
    let found =
        served::PROGRAMS.iter().map(|program| seen(process::could_start(root, program))).max();
    match found {
        // On another filesystem, which the system mounts later.
        Some(Seen::Missing) if file(root, "usr/sbin") == Seen::Missing => Seen::Unclear,
        found => found.unwrap_or(Seen::Unclear),
    }
}

fn service(root: &Path) -> Seen {
    let called = |both: &[&str; 2]| both.iter().map(|name| file(root, name)).min();
    let switched_on = |folder: &&str| link(&root.join(folder));
    let called = served::CALLERS.iter().filter_map(called).max();
    let on = served::SERVICES.iter().map(switched_on).max();
    called.max(on).unwrap_or(Seen::Unclear)
}

/// Whether a folder has a link to cowflush's service.
fn link(folder: &Path) -> Seen {
    match ours(folder, |_| Seen::There) {
        Ok(found) => found.unwrap_or(Seen::Missing),
        Err(error) => seen(Err(Errno::from_raw(error.raw_os_error().unwrap_or(0)))),
    }
}

/// The best that `judge` says of what has our name in a folder; `None` when nothing has.
fn ours(folder: &Path, judge: fn(&Path) -> Seen) -> io::Result<Option<Seen>> {
    let mut best = None;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains("cowflush") {
            best = best.max(Some(judge(&entry.path())));
        }
    }
    Ok(best)
}

/// The service, as the writable layer of an OpenWrt has it: to switch it off hides all its links,
/// whatever their numbers.
fn service_above(root: &Path) -> Seen {
    let links = ours(&root.join("upper/etc/rc.d"), unless_hidden);
    links.ok().flatten().unwrap_or(Seen::There)
}

/// `Missing` for a file that root's overlay hides: an overlay marks a removed file with a device
/// 0:0 of its name.
fn unless_hidden(path: &Path) -> Seen {
    match lstat(path) {
        Ok(stat)
            if stat.st_rdev == 0
                && stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() =>
        {
            Seen::Missing
        }
        _ => Seen::There,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    fn with(files: &[&str]) -> Seen {
        let root = std::env::temp_dir().join(format!("cowflush-served-{}", std::process::id()));
        create_dir_all(&root).unwrap();
        for file in files {
            let path = root.join(file);
            create_dir_all(path.parent().unwrap()).unwrap();
            if path.extension().is_some_and(|name| name == "d") {
                create_dir_all(path).unwrap();
            } else if file.starts_with("etc") {
                // Where it leads to can be on another filesystem.
                symlink("../nowhere", path).unwrap();
            } else {
                write(path, "").unwrap();
            }
        }
        let seen = service(&root);
        std::fs::remove_dir_all(root).unwrap();
        seen
    }

    #[test]
    fn a_service_is_there_where_somebody_calls_it_and_not_where_its_files_lie_about() {
        let hook = "usr/lib/systemd/system-shutdown/cowflush";
        for there in [
            &["etc/rc.d/K89cowflush"][..],
            &["etc/rc0.d/K01cowflush", "etc/rc0.d/K01other"],
            &["etc/rc6.d/K07cowflush"],
            &["etc/systemd/system/sysinit.target.wants/cowflush-shutdown.service"],
            &["etc/systemd/system/multi-user.target.wants/cowflush.service"],
            &["etc/runlevels/default/cowflush"],
            &[hook, "usr/lib/systemd/systemd"],
            &["lib/systemd/system-shutdown/cowflush", "lib/systemd/systemd"],
            &["usr/sbin/flusher"],
        ] {
            assert_eq!(with(there), Seen::There, "{there:?}");
        }
        for missing in [
            &[][..],
            &["etc/init.d/cowflush", "etc/rc.d", "etc/rc0.d/K01other"],
            // The package has that file whatever init there is.
            &[hook, "sbin/init"],
            &[hook, "lib/systemd/systemd"],
            &["usr/lib/systemd/system/cowflush.service"],
        ] {
            assert_eq!(with(missing), Seen::Missing, "{missing:?}");
        }
    }

    /// To make a device needs root rights, but for 0:0, from Linux 5.8 on.
    #[test]
    fn a_service_that_the_writable_layer_hides_is_missing_whatever_its_links_are_called() {
        let root = std::env::temp_dir().join(format!("cowflush-hidden-{}", std::process::id()));
        let folder = root.join("upper/etc/rc.d");
        assert_eq!(service_above(&root), Seen::There, "nothing is hidden");
        create_dir_all(&folder).unwrap();
        symlink("../init.d/log", folder.join("S12log")).unwrap();
        assert_eq!(service_above(&root), Seen::There);
        for name in ["S13cowflush", "K00cowflush", "K89cowflush_1"] {
            let mode = nix::sys::stat::Mode::empty();
            nix::sys::stat::mknod(&folder.join(name), SFlag::S_IFCHR, mode, 0).unwrap();
        }
        assert_eq!(service_above(&root), Seen::Missing);
        // Switched on again, by other links.
        symlink("../init.d/cowflush", folder.join("K90cowflush")).unwrap();
        assert_eq!(service_above(&root), Seen::There);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_can_not_be_read_is_not_missing() {
        for errno in [Errno::ENOENT, Errno::ENOTDIR, Errno::ENOEXEC, Errno::EACCES] {
            assert_eq!(seen(Err(errno)), Seen::Missing, "{errno}");
        }
        for errno in [Errno::EIO, Errno::ENOMEM, Errno::ELOOP, Errno::EUCLEAN, Errno::UnknownErrno]
        {
            assert_eq!(seen(Err(errno)), Seen::Unclear, "{errno}");
        }
        assert_eq!(seen(Ok(())), Seen::There);
    }
}
