//! Swap areas.

use std::ffi::CString;
use std::path::Path;

use nix::errno::Errno;

use super::errand::Errand;
use crate::error::Result;
use crate::pure::units::{Bytes, decimal};

/// A swap area that the kernel uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its node or file.
    pub path: String,
    /// Whether it is a file, and not a block device.
    pub is_file: bool,
    /// Its size.
    pub size: Bytes,
    /// How much of it is in use.
    pub used: Bytes,
    /// Its place among the others, as [`on`] takes it.
    pub flags: u32,
}

/// Whether it is zram, which keeps what it gets in RAM.
pub fn is_zram(path: &str) -> bool {
    path.starts_with("/dev/zram")
}

/// SWAP_FLAG_PREFER: the rest of the flags is the priority that the owner has given.
const PREFER: u32 = 0x8000;

/// Makes the kernel use the swap area on `path`; with the flags 0, after all others. An area that
/// is in use already stays as it is.
///
/// # Errors
/// EINVAL for what `mkswap` did not make, ENOSYS for a kernel without swap.
pub fn on(path: &Path, flags: u32) -> std::result::Result<(), Errno> {
    ask!(use_swap(path, flags));
    let c_path = c_path(path.to_str().unwrap_or_default())?;
    // SAFETY: swapon reads a C string, which lives through the call.
    let result = unsafe { libc::swapon(c_path.as_ptr(), flags as libc::c_int) };
    match Errno::result(result) {
        Err(Errno::EBUSY) if usage(path).is_some() => Ok(()),
        result => result.map(drop),
    }
}

/// Begins to read back what is in a swap area, after which the kernel no longer uses it. Another
/// process makes the call: it may take long, and if memory runs out meanwhile the kernel kills the
/// caller first (`set_current_oom_origin` in mm/swapfile.c), which leaves the area in use.
pub fn give_up(path: &str) -> Result<Errand> {
    ask!(give_up_swap(path));
    Errand::begin(c"cowflush-swap", "a process that reads swap back", None, || {
        let c_path = c_path(path)?;
        // SAFETY: swapoff reads a C string, which lives through the call.
        Errno::result(unsafe { libc::swapoff(c_path.as_ptr()) }).map(drop)
    })
}

fn c_path(path: &str) -> std::result::Result<CString, Errno> {
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// How much of the swap area on `path` is in use, and its size; `None` when the kernel does not use
/// it.
pub fn usage(path: &Path) -> Option<(Bytes, Bytes)> {
    let area = areas().into_iter().find(|area| Path::new(&area.path) == path)?;
    Some((area.used, area.size))
}

/// All areas that the kernel uses; none where it has no swap.
pub fn areas() -> Vec<Area> {
    parse(table("/proc/swaps"))
}

/// A line is: path, kind, size, used, priority; sizes in KiB.
fn parse(swaps: Vec<Row>) -> Vec<Area> {
    let kib = |word: &str| decimal::<u64>(word)?.checked_mul(1024).map(Bytes);
    let area = |[path, kind, size, used, priority]: Row| {
        let (is_file, size, used) = (kind == "file", kib(&size)?, kib(&used)?);
        // An area without a given priority has one below 0.
        let flags = decimal::<u32>(&priority).map_or(0, |given| PREFER | given & 0x7fff);
        Some(Area { path, is_file, size, used, flags })
    };
    swaps.into_iter().filter_map(area).collect()
}

/// The first five words of a line; empty where it has fewer.
pub type Row = [String; 5];

/// A list of the kernel's, or /etc/fstab; empty where it can't be read.
pub fn table(path: &str) -> Vec<Row> {
    ask!(text(Path::new(path)).map(|text| rows(text.as_bytes())).unwrap_or_default());
    rows(&std::fs::read(path).unwrap_or_default())
}

/// Splits lines into words. White space and backslashes in a word are written as `\040`
/// (mangle_path in the kernel's fs/seq_file.c).
pub fn rows(list: &[u8]) -> Vec<Row> {
    let text = String::from_utf8_lossy(list);
    let row = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut row = Row::default();
        for place in &mut row {
            unescape(words.next().unwrap_or_default(), place);
        }
        row
    };
    text.lines().map(row).collect()
}

fn unescape(word: &str, into: &mut String) {
    let mut parts = word.split('\\');
    into.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) if code.is_ascii() => {
                into.push(char::from(code));
                into.push_str(part.get(3..).unwrap_or_default());
            }
            _ => {
                into.push('\\');
                into.push_str(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_list_is_read() {
        let swaps = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/sda3   partition\t65532\t\t1024\t\t-2\n\
                     /my\\040swap\\134\\011\\012 file\t\t102396\t\t0\t\t32767\n\
                     /dev/x y\n";
        let area = |path: &str, is_file, size: u64, used: u64, flags| Area {
            path: path.into(),
            is_file,
            size: Bytes(size << 10),
            used: Bytes(used << 10),
            flags,
        };
        let disk = area("/dev/sda3", false, 65532, 1024, 0);
        let file = area("/my swap\\\t\n", true, 102_396, 0, 0xffff);
        assert_eq!(parse(rows(swaps.as_bytes())), [disk, file]);
    }

    fn unescaped(word: &str) -> String {
        let mut text = String::new();
        unescape(word, &mut text);
        text
    }

    #[test]
    fn what_is_no_escape_stays() {
        for word in ["\\", "a\\04", "\\08x", "\\777", "\\+07", "\\\\x", "\\\u{e9}1", "\\303"] {
            assert_eq!(unescaped(word), word);
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(rows(&list));
        }

        #[test]
        fn any_path_reads_back(path in "[^\0]{0,20}") {
            let mut word = String::new();
            for character in path.chars() {
                match character {
                    ' ' | '\t' | '\n' | '\\' => word.push_str(&format!("\\{:03o}", character as u32)),
                    character => word.push(character),
                }
            }
            prop_assert_eq!(unescaped(&word), path);
        }
    }
}
