//! From the initramfs to the real root.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, access, chdir, chroot, execv};

use super::console::Log;
use crate::error::{Doing, Error, Result};

const NONE: Option<&str> = None;

/// What the kernel tries as well, in its order.
const USUAL: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Moves the kernel's filesystems over, frees the initramfs, makes `root` the root and becomes
/// its init. Returns only on failure.
pub fn run(root: &Path, wanted: Option<&str>, arguments: Vec<OsString>, log: &mut Log) -> Error {
    match try_run(root, wanted, arguments, log) {
        Err(error) => error,
    }
}

fn try_run(
    root: &Path,
    wanted: Option<&str>,
    arguments: Vec<OsString>,
    log: &mut Log,
) -> Result<Infallible> {
    // Looked for before anything is moved: without an init the rescue prompt needs /dev.
    let init = find_init(root, wanted, log)?;
    for place in ["/dev", "/proc", "/sys", "/run"] {
        let target = root.join(place.trim_start_matches('/'));
        let moved = mount(Some(place), &target, NONE, MsFlags::MS_MOVE, NONE);
        if let Err(errno) = moved {
            let why = errno.desc();
            log.error(&format!(
                "cannot move {place} to the new root: {why}. Root needs a folder {place}."
            ));
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
    }
    free_initramfs(root);
    let what = || format!("make {} the root", root.display());
    chdir(root).doing(what)?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).doing(what)?;
    chroot(".").doing(what)?;
    chdir("/").doing(what)?;
    let words = std::iter::once(OsString::from(&init)).chain(arguments);
    let words: Vec<CString> = words.filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let path = words.first().cloned().unwrap_or_default();
    execv(&path, &words).doing(|| format!("start {init}")).map_err(|error| {
        error.advise("Is it a program for this processor, and are its libraries there?")
    })
}

fn find_init(root: &Path, wanted: Option<&str>, log: &mut Log) -> Result<String> {
    let there = |init: &str| {
        let path = root.join(init.trim_start_matches('/'));
        // A link may be absolute and lead to the right place only once root is the root.
        path.symlink_metadata().is_ok_and(|meta| meta.is_symlink())
            || access(&path, AccessFlags::X_OK).is_ok() && path.is_file()
    };
    if let Some(wanted) = wanted {
        if there(wanted) {
            return Ok(wanted.to_owned());
        }
        log.error(&format!("init={wanted} is no program on root; trying the usual ones."));
    }
    USUAL.into_iter().find(|init| there(init)).map(str::to_owned).ok_or_else(|| {
        Error::new(
            "find an init on root",
            "there is none of /sbin/init, /etc/init, /bin/init, /bin/sh",
        )
        .advise("Is this the right partition? Look at root= on the kernel command line.")
    })
}

/// include/uapi/linux/magic.h
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6u32 as _);

/// Deletes what the initramfs holds, which is RAM that nobody could reach any more.
fn free_initramfs(root: &Path) {
    let is_initramfs =
        statfs("/").is_ok_and(|fs| [RAMFS_MAGIC, TMPFS_MAGIC].contains(&fs.filesystem_type()));
    if let (true, Ok(meta)) = (is_initramfs, Path::new("/").metadata()) {
        wipe(Path::new("/"), meta.dev(), root);
    }
}

/// Deletes below `folder`, staying on its device. Failing to free memory stops no boot.
fn wipe(folder: &Path, device: u64, keep: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(meta) if meta.dev() != device || path == keep => {}
            Ok(meta) if meta.is_dir() => {
                wipe(&path, device, keep);
                let _ = std::fs::remove_dir(&path);
            }
            _ => {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}
