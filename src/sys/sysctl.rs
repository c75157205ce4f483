//! The kernel's settings under /proc/sys.

use std::path::{Path, PathBuf};

use super::file;
use crate::pure::units::decimal;

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Reads a setting that is a number, such as `vm/swappiness`; `None` where this kernel does not
/// have it.
pub fn read(name: &str) -> Option<u64> {
    decimal(file::read(&path(name)).ok()?.trim())
}

/// Writes a setting. If that fails, it stays as it is.
pub fn write(name: &str, value: u64) {
    let _ = file::set(&path(name), &value.to_string());
}
