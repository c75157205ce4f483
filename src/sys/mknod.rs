//! Makes nodes in /dev that are missing: OpenWrt's kernels have no devtmpfs, and its programs make a
//! node when they hear of a device, later than cowflush wants to open it.
//!
//! If a node can't be made, opening it fails, and says so.

use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::pure::units::DevNo;

/// Makes the node of a block device, unless the name is there.
pub fn block(path: &Path, device: DevNo) {
    if is_missing(path) {
        make(path, SFlag::S_IFBLK, device);
    }
}

/// Makes the node of a character device, unless the name is there.
pub fn character(path: &str, major: u32, minor: u32) {
    if is_missing(Path::new(path)) {
        make(Path::new(path), SFlag::S_IFCHR, DevNo { major, minor });
    }
}

/// Makes the node of one of the kernel's `misc` devices, which sysfs calls `name`, unless `path` is
/// there. Some are called otherwise in /dev.
pub fn misc(path: &str, name: &str) {
    if !is_missing(Path::new(path)) {
        return;
    }
    let text = std::fs::read_to_string(format!("/sys/class/misc/{name}/dev")).unwrap_or_default();
    if let Some(device) = DevNo::parse(text.trim()) {
        make(Path::new(path), SFlag::S_IFCHR, device);
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err()
}

fn make(path: &Path, kind: SFlag, device: DevNo) {
    let _ = path.parent().map(std::fs::create_dir_all);
    let number = makedev(device.major.into(), device.minor.into());
    let _ = mknod(path, kind, Mode::S_IRUSR | Mode::S_IWUSR, number);
}
