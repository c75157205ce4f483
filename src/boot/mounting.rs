//! Mounts the kernel's own filesystems, and root.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::error::{Doing, Error, Result};
use crate::pure::cmdline::Options;
use crate::pure::disk::filesystem::Filesystem;
use crate::sys::{ask, mknod};

const NOSUID: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Mounts /proc, /sys, /dev and /run, each unless it is there already.
pub fn kernel_filesystems() {
    proc();
    unless_mounted("sysfs", "/sys", NOSUID | MsFlags::MS_NOEXEC, "");
    if !unless_mounted("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755") {
        // OpenWrt's kernels have none. A device gets its node when it is opened; these are for what
        // is not a device to look for.
        unless_mounted("tmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755,size=512K");
        for (path, major, minor) in [
            ("/dev/null", 1, 3),
            ("/dev/urandom", 1, 9),
            ("/dev/kmsg", 1, 11),
            ("/dev/console", 5, 1),
        ] {
            mknod::character(path, major, minor);
        }
    }
    unless_mounted("tmpfs", "/run", NOSUID, "mode=0755,size=10%");
}

/// Mounts /proc, unless it is there already. Returns whether it did.
pub fn proc() -> bool {
    unless_mounted("proc", "/proc", NOSUID | MsFlags::MS_NOEXEC, "")
}

fn unless_mounted(kind: &str, place: &str, flags: MsFlags, options: &str) -> bool {
    if is_mounted(place) {
        return false;
    }
    let _ = std::fs::create_dir_all(place);
    // An error is ignored: what fails next for lack of the filesystem has a better message.
    mount(Some(kind), place, Some(kind), flags, Some(options)).is_ok()
}

/// Whether a place is a mount point: it is on another device than its parent.
fn is_mounted(place: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let place = Path::new(place);
    let here = device(place);
    here.is_some() && here != place.parent().and_then(device)
}

/// Mounts root, for writes if `writable`. Tries the types that were asked for; else what the
/// superblock says, then every type that the kernel has.
pub fn root(
    device: &Path,
    place: &Path,
    found: Option<&Filesystem>,
    options: &Options,
    writable: bool,
) -> Result<&'static str> {
    ask!(mount(device, writable));
    let (mut flags, data) = split_options(&options.flags);
    if !writable {
        flags |= MsFlags::MS_RDONLY;
    }
    let what = || format!("mount {}", device.display());
    std::fs::create_dir_all(place).doing(|| format!("make {}", place.display()))?;
    let mut first = None;
    for kind in types(options, found) {
        let try_it =
            |flags| mount(Some(device), place, Some(kind.as_str()), flags, Some(data.as_str()));
        let mounted = match try_it(flags) {
            // A write-protected device can still be read.
            Err(Errno::EACCES | Errno::EROFS) => {
                flags |= MsFlags::MS_RDONLY;
                try_it(flags)
            }
            result => result,
        };
        match mounted {
            Ok(()) => return Ok(if flags.contains(MsFlags::MS_RDONLY) { "ro" } else { "rw" }),
            // The kernel lacks this type.
            Err(Errno::ENODEV) => {}
            Err(errno) => first = first.or(Some((errno, kind))),
        }
    }
    Err(match first {
        Some((errno, kind)) => Error::new(what(), format!("as {kind}: {}", errno.desc()))
            .advise("Let fsck look at it on another machine; is rootflags= right, if it is set?"),
        None => Error::new(what(), "the kernel has no filesystem type for it")
            .advise("Build its driver in; is rootfstype= right, if it is set?"),
    })
}

fn types(options: &Options, found: Option<&Filesystem>) -> Vec<String> {
    if !options.types.is_empty() {
        return options.types.clone();
    }
    let mut types = Vec::new();
    if let Some(found) = found {
        types.push(found.kind.to_owned());
        // ext4's driver reads ext2 and ext3 where theirs is not built.
        if found.kind.starts_with("ext") {
            types.push("ext4".to_owned());
        }
        return types;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let on_devices = known.lines().filter(|line| !line.starts_with("nodev"));
    types.extend(on_devices.map(|line| line.trim().to_owned()).filter(|kind| !kind.is_empty()));
    types
}

/// Splits a list of options as for `mount -o` into flags that the kernel knows for every
/// filesystem, and the remaining options, which are the filesystem's.
fn split_options(list: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut rest: Vec<&str> = Vec::new();
    for option in list.split(',') {
        match option {
            "" | "defaults" | "rw" | "ro" => {}
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "lazytime" => flags |= MsFlags::MS_LAZYTIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            other => rest.push(other),
        }
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_split() {
        let (flags, rest) = split_options("noatime,errors=remount-ro,,sync,data=ordered");
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_SYNCHRONOUS);
        assert_eq!(rest, "errors=remount-ro,data=ordered");
        assert_eq!(split_options("defaults"), (MsFlags::empty(), String::new()));
    }
}
