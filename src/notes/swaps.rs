//! Swap on root that the daemon has switched off, and that is used again when root writes through.

use std::path::Path;

use super::run_dir;
use crate::error::Error;
use crate::pure::units::{DevNo, decimal};
use crate::sys::file;
use crate::sys::swap::{self, table};
use crate::sys::users::{OnRoot, file_of, swap_on};

/// The note of the areas that the daemon has switched off, a line each, in the order of their use:
/// areas without a given priority are used in that order.
const GIVEN_UP: &str = "swap";

/// The line for an area that the daemon is about to switch off: all that must still be the same if
/// it is to be used again, and how the kernel used it, which the kernel then forgets.
pub fn giving_up(path: &str) -> String {
    let used = swap::areas().into_iter().find(|area| area.path == path);
    as_it_is(path, used.map_or(0, |area| area.flags))
}

/// The area's line as it would be now. It has the inode of the area's file, by whatever name the
/// file is reached, and whether /etc/fstab lists the area: an owner who removes it there does not
/// want it back.
fn as_it_is(path: &str, flags: u32) -> String {
    let file = file_of(path, !path.starts_with("/dev/"));
    let inode = file.and_then(|file| file::inode(Path::new(&file))).unwrap_or(0);
    let listed = table("/etc/fstab").iter().any(|[listed, ..]| listed == path);
    to_line(flags, inode, listed, path)
}

/// The path comes last: it may have spaces.
fn to_line(flags: u32, inode: u64, listed: bool, path: &str) -> String {
    format!("{flags} {inode} {} {path}", u8::from(listed))
}

/// The flags and the path.
fn of_line(line: &str) -> Option<(u32, &str)> {
    let (flags, rest) = line.split_once(' ')?;
    let (_inode, rest) = rest.split_once(' ')?;
    let (_listed, path) = rest.split_once(' ')?;
    Some((decimal(flags)?, path))
}

/// Notes that the daemon has switched off the area of this line.
pub fn note_given_up(line: &str) {
    let mut note = String::new();
    let path = of_line(line).map(|(_, path)| path);
    // An older line of the same area no longer counts.
    let others = given_up();
    let others = others.lines().filter(|other| of_line(other).map(|(_, path)| path) != path);
    for line in others.chain([line]) {
        note.push_str(line);
        note.push('\n');
    }
    let _ = run_dir::write_for_this_boot(GIVEN_UP, &note);
}

fn given_up() -> String {
    run_dir::read_of_this_boot(GIVEN_UP).unwrap_or_default()
}

/// Uses the areas again that the daemon switched off, if they are unchanged. Called when root
/// writes through.
pub fn bring_back(log: &mut dyn FnMut(&str)) {
    let (noted, mut left) = (given_up(), String::new());
    if noted.is_empty() {
        return;
    }
    for line in noted.lines() {
        let Some((flags, path)) = of_line(line) else { continue };
        // The owner uses it already.
        if swap::usage(Path::new(path)).is_some() {
            continue;
        }
        let why = if as_it_is(path, flags) != line {
            "it is another one by now, or was taken out of /etc/fstab"
        } else if let Err(errno) = swap::on(Path::new(path), flags) {
            // It stays noted, so the next stop tries again.
            left.push_str(line);
            left.push('\n');
            errno.desc()
        } else {
            log(&format!("swap on {path} is in use again"));
            continue;
        };
        let failed = Error::new(format!("use swap on {path} again"), why);
        log(&failed.advise("`swapon` does, if you want it.").to_string());
    }
    let _ = run_dir::write_for_this_boot(GIVEN_UP, &left);
}

/// All swap on root, for people: areas in use, and those that the daemon switched off.
pub fn all_swap_on(root: DevNo) -> Vec<OnRoot> {
    let mut all = swap_on(root);
    for (_, path) in given_up().lines().filter_map(of_line) {
        if !all.iter().any(|area| area.path == path) {
            all.push(OnRoot { path: path.to_owned(), room: None });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_what_was_given_up_reads_back() {
        for (flags, path) in [(0, "/swapfile"), (0x8005, "/my  swap "), (u32::MAX, "")] {
            for (inode, listed) in [(0, false), (u64::MAX, true)] {
                assert_eq!(of_line(&to_line(flags, inode, listed, path)), Some((flags, path)));
            }
        }
        for line in ["", "/swapfile", "1 2 3", "-1 2 1 /x", "99999999999 2 1 /x", " 1 2 1 /x"] {
            assert_eq!(of_line(line), None, "{line}");
        }
        assert_ne!(to_line(0, 7, true, "/x"), to_line(0, 8, true, "/x"), "another file");
        assert_ne!(to_line(0, 7, true, "/x"), to_line(0, 7, false, "/x"), "taken out of fstab");
    }
}
