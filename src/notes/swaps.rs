//! Swap on root that the daemon has given up.

use super::run_dir;
use crate::pure::units::DevNo;
use crate::sys::users::{OnRoot, swap_on};

/// The note of those that the daemon has given up, a line each.
const GIVEN_UP: &str = "swap";

/// The daemon has given up this one.
pub fn note_given_up(path: &str) {
    let mut note = given_up();
    if !note.lines().any(|known| known == path) {
        note.push_str(path);
        note.push('\n');
    }
    // For people; a /run that is gone is no error.
    let _ = run_dir::write_for_this_boot(GIVEN_UP, &note);
}

fn given_up() -> String {
    run_dir::read_of_this_boot(GIVEN_UP).unwrap_or_default()
}

/// What people are to know of swap on root: also what the daemon has given up, if it is not in use again.
pub fn all_swap_on(root: DevNo) -> Vec<OnRoot> {
    let mut all = swap_on(root);
    for path in given_up().lines() {
        if !all.iter().any(|area| area.path == path) {
            all.push(OnRoot { path: path.to_owned(), room: None });
        }
    }
    all
}
