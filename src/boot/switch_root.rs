//! From the initramfs to the real root.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};

use super::messages::BootMessages;
use crate::error::{Doing, Error, Result};
use crate::sys::process::{could_start, is_in_initramfs, turn_into};

const NONE: Option<&str> = None;

/// The inits that the kernel tries as well, in its order.
const USUAL: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Moves the kernel's filesystems over, frees the initramfs, makes `root` the root and becomes
/// `init`. Returns only on failure, and there is no way back then.
pub fn run(root: &Path, init: &str, arguments: Vec<OsString>, log: &mut BootMessages) -> Error {
    match try_run(root, init, arguments, log) {
        Err(error) => error,
    }
}

fn try_run(
    root: &Path,
    init: &str,
    arguments: Vec<OsString>,
    log: &mut BootMessages,
) -> Result<Infallible> {
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
    let words = std::iter::once(OsString::from(init)).chain(arguments);
    let words: Vec<CString> = words.filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let path = words.first().cloned().unwrap_or_default();
    Err(not_started(init, turn_into(&path, &words)))
}

fn not_started(init: &str, errno: Errno) -> Error {
    Error::new(format!("start {init}"), errno.desc())
        .advise("Is it a program for this processor, and are its libraries there?")
}

/// The first program on `root` that the kernel would start as init. Called before anything is
/// moved: until then the rescue prompt can still try something else.
pub fn find_init<'a>(
    root: &Path,
    wanted: Option<&'a str>,
    log: &mut BootMessages,
) -> Result<&'a str> {
    for init in wanted.into_iter().chain(USUAL) {
        let Ok(program) = CString::new(init) else { continue };
        match could_start(root, &program) {
            Ok(()) => return Ok(init),
            // The kernel gives the same error for a missing library. A missing init is skipped only
            // if it was not the one asked for.
            Err(Errno::ENOENT) if wanted != Some(init) && !is_there(root, init) => {}
            Err(errno) => log.error(&not_started(init, errno).to_string()),
        }
    }
    Err(Error::new(
        "find an init on root",
        "none of /sbin/init, /etc/init, /bin/init, /bin/sh can be started",
    )
    .advise("Is this the right partition? Look at root= on the kernel command line."))
}

fn is_there(root: &Path, init: &str) -> bool {
    root.join(init.trim_start_matches('/')).symlink_metadata().is_ok()
}

/// Deletes what the initramfs holds: RAM that no process could reach any more.
fn free_initramfs(root: &Path) {
    if let (true, Ok(meta)) = (is_in_initramfs(), Path::new("/").metadata()) {
        wipe(Path::new("/"), meta.dev(), root);
    }
}

/// Deletes everything below `folder` on the same device. Errors are ignored: they only cost memory.
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
