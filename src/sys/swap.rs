//! Swap areas.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::units::{Bytes, decimal};

/// Lets the kernel use the swap area on `path`, after all others. One in use already stays so.
///
/// # Errors
/// EINVAL for what `mkswap` did not make, ENOSYS for a kernel without swap.
pub fn on(path: &Path) -> Result<(), Errno> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: swapon reads a C string, which lives through the call.
    let result = unsafe { libc::swapon(c_path.as_ptr(), 0) };
    match Errno::result(result) {
        Err(Errno::EBUSY) if usage(path).is_some() => Ok(()),
        result => result.map(drop),
    }
}

/// How much of the swap area on `path` is in use, and its size; `None` when the kernel does not use
/// it.
pub fn usage(path: &Path) -> Option<(Bytes, Bytes)> {
    parse(&std::fs::read_to_string("/proc/swaps").ok()?, path)
}

/// A line is: path, kind, size, used, priority; sizes in KiB.
fn parse(swaps: &str, path: &Path) -> Option<(Bytes, Bytes)> {
    let fields = |line: &str| -> Option<(Bytes, Bytes)> {
        let mut words = line.split_ascii_whitespace();
        if Path::new(words.next()?) != path {
            return None;
        }
        let mut kib = words.skip(1).map(|word| decimal::<u64>(word)?.checked_mul(1024));
        let (size, used) = (kib.next()??, kib.next()??);
        Some((Bytes(used), Bytes(size)))
    };
    swaps.lines().find_map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let swaps = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/sda3   partition\t65532\t\t1024\t\t-2\n";
        let (used, size) = (Bytes(1 << 20), Bytes(65532 << 10));
        assert_eq!(parse(swaps, Path::new("/dev/sda3")), Some((used, size)));
        assert_eq!(parse(swaps, Path::new("/dev/sda")), None);
        assert_eq!(parse("/dev/x y", Path::new("/dev/x")), None);
    }
}
