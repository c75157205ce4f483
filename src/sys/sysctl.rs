//! The kernel's settings under /proc/sys.

use crate::pure::units::decimal;

/// Reads a setting that is a number, such as `vm/swappiness`; `None` where this kernel does not
/// have it.
pub fn read(name: &str) -> Option<u64> {
    decimal(std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim())
}

/// Writes a setting. If that fails, it stays as it is.
pub fn write(name: &str, value: u64) {
    let _ = std::fs::write(format!("/proc/sys/{name}"), value.to_string());
}
