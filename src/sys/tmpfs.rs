//! Files in RAM, each in a tmpfs of its own that no other process can see.
//!
//! The tmpfs is never mounted where a path leads to it, and the file has no name any more. What
//! keeps both alive is the open file, later the loop device over it. So only root can reach a COW,
//! it works when /run is gone, and it vanishes with its last user.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::node::Node;
use super::process;
use crate::error::{Doing, Result};
use crate::pure::units::Bytes;

const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Room in the tmpfs beyond the file's data: the kernel counts a page for this and that.
const SLACK: u64 = 64 << 10;

/// A new, sparse file of `size` bytes that was called `name`.
///
/// The tmpfs has room for all of it, so that the file's end is always met before the tmpfs's: a
/// tmpfs without space makes a snapshot Invalid, and everything in it is lost.
pub fn file(name: &str, size: Bytes) -> Result<Node> {
    ask!(file_in_ram(name, size).map(Node::Model));
    with_room(name, size, Bytes(size.0.saturating_add(SLACK)))
}

/// The same in a tmpfs with room for so many bytes.
pub(super) fn with_room(name: &str, size: Bytes, room: Bytes) -> Result<Node> {
    let room = room.0.to_string();
    let file = match detached(&room).and_then(|folder| create(folder.as_fd(), name)) {
        // Kernels before 5.2 have no fsopen.
        Err(Errno::ENOSYS) => in_private_namespace(&room, name),
        result => result,
    };
    let file = file.doing(|| format!("make a file in RAM for {name}"))?;
    file.set_len(size.0).doing(|| format!("set the size of {name}"))?;
    Ok(Node::Real(file))
}

/// A tmpfs that is mounted nowhere.
fn detached(room: &str) -> std::result::Result<OwnedFd, Errno> {
    let context = fd(
        // SAFETY: fsopen takes a C string and flags, and returns a new descriptor.
        unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) },
    )?;
    let room = std::ffi::CString::new(room).map_err(|_| Errno::EINVAL)?;
    set(&context, c"size", &room)?;
    set(&context, c"mode", c"0700")?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: fsconfig with CMD_CREATE takes no key and no value.
    let created = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    Errno::result(created)?;
    // SAFETY: fsmount takes a context and flags, and returns a new descriptor.
    fd(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

fn set(context: &OwnedFd, key: &CStr, value: &CStr) -> std::result::Result<(), Errno> {
    // SAFETY: fsconfig with SET_STRING takes two C strings, which live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

fn fd(result: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as libc::c_int;
    // SAFETY: the kernel just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn create(folder: std::os::fd::BorrowedFd<'_>, name: &str) -> std::result::Result<File, Errno> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
    Ok(File::from(file))
}

/// Makes the file in a mount that only this process sees, for an instant.
///
/// The machine's own init stays in its namespace, which every process inherits; no other process
/// runs at that time.
fn in_private_namespace(room: &str, name: &str) -> std::result::Result<File, Errno> {
    const NONE: Option<&str> = None;
    if !process::is_the_machines() {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    }
    // Any folder that certainly exists will do.
    let place = "/proc";
    let options = format!("size={room},mode=0700");
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    let file = File::open(place)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        .and_then(|folder| create(folder.as_fd(), name));
    umount2(place, MntFlags::MNT_DETACH)?;
    file
}
