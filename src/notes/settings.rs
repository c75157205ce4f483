//! The machine's settings (sysctls) that cowflush changes, and puts back: a note in /run/cowflush,
//! written before the change, holds what they were. So if the process that changed them is killed,
//! the next command can put them back.

use super::run_dir;
use crate::pure::units::decimal;
use crate::sys::sysctl;

const NOTE: &str = "settings";

/// A setting in bytes and its twin in percent of the memory. Only one of the two is in force;
/// writing one sets the other to 0.
type Twin = (&'static str, &'static str);

/// How much written data the kernel may keep in the page cache, for all filesystems: from where on
/// it writes, and from where on writers wait.
pub const DIRTY: [Twin; 2] = [
    ("vm/dirty_background_bytes", "vm/dirty_background_ratio"),
    ("vm/dirty_bytes", "vm/dirty_ratio"),
];
/// How readily the kernel swaps.
pub const SWAPPINESS: &str = "vm/swappiness";

/// Sets both limits of [`DIRTY`], in bytes. A limit that can't be set stays as it is.
pub fn limit_dirty(most: u64) {
    let wanted = [most / 2, most];
    let now = DIRTY.map(|(bytes, _)| sysctl::read(bytes));
    if now == wanted.map(Some) || now.contains(&None) {
        return;
    }
    remember(DIRTY.iter().flat_map(|(bytes, ratio)| [*bytes, *ratio]));
    // The lower one is set a second time: the kernel halves it if it is not below the other.
    for ((bytes, _), value) in DIRTY.iter().zip(wanted).chain(DIRTY.iter().zip(wanted).take(1)) {
        sysctl::write(bytes, value);
    }
}

/// Sets one setting. If it can't be set, it stays as it is.
pub fn set(name: &'static str, value: u64) {
    if sysctl::read(name).is_some_and(|now| now != value) {
        remember([name]);
        sysctl::write(name, value);
    }
}

/// Puts these settings back to what they were before cowflush changed them.
pub fn restore(names: &[&str]) {
    let note = run_dir::read_of_this_boot(NOTE).unwrap_or_default();
    let (back, rest): (Vec<_>, Vec<_>) =
        parse(&note).into_iter().partition(|(name, _)| names.contains(name));
    for (name, value) in order(&back) {
        if sysctl::read(name) != Some(value) {
            sysctl::write(name, value);
        }
    }
    if !back.is_empty() {
        let _ = run_dir::write_for_this_boot(NOTE, &text(&rest));
    }
}

/// The names of [`DIRTY`].
pub fn dirty() -> [&'static str; 4] {
    let [(a, b), (c, d)] = DIRTY;
    [a, b, c, d]
}

/// Notes what these settings are, unless they are noted already: then cowflush has changed them
/// before.
fn remember(names: impl IntoIterator<Item = &'static str>) {
    let note = run_dir::read_of_this_boot(NOTE).unwrap_or_default();
    let mut known = parse(&note);
    for name in names {
        if !known.iter().any(|(known, _)| *known == name)
            && let Some(value) = sysctl::read(name)
        {
            known.push((name, value));
        }
    }
    // An error is ignored: a missing /run must not let the COW overflow.
    let _ = run_dir::write_for_this_boot(NOTE, &text(&known));
}

/// The order in which to put values back. A setting that is 0 becomes 0 by itself when its twin is
/// set.
fn order<'a>(values: &[(&'a str, u64)]) -> Vec<(&'a str, u64)> {
    let (last, mut first): (Vec<_>, Vec<_>) = values.iter().partition(|(_, value)| *value == 0);
    first.extend(last);
    first
}

fn parse(note: &str) -> Vec<(&str, u64)> {
    let pairs = note.lines().filter_map(|line| line.split_once('='));
    pairs.filter_map(|(name, value)| Some((name, decimal(value)?))).collect()
}

fn text(values: &[(&str, u64)]) -> String {
    values.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_noted_and_read_again() {
        let values = [("vm/dirty_bytes", 0), ("vm/dirty_ratio", 20), ("vm/swappiness", 60)];
        assert_eq!(parse(&text(&values)), values);
        assert!(parse("").is_empty() && parse("vm/x\nvm/y=z\n").is_empty());
    }

    #[test]
    fn what_counts_is_put_back_before_what_becomes_0_by_itself() {
        let values =
            [("vm/dirty_bytes", 0), ("vm/dirty_ratio", 20), ("vm/dirty_background_bytes", 4096)];
        let names: Vec<_> = order(&values).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["vm/dirty_ratio", "vm/dirty_background_bytes", "vm/dirty_bytes"]);
    }
}
