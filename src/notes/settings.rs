//! The machine's settings (sysctls) that cowflush changes, and puts back: a note in /run/cowflush, written before the
//! change, holds what they were. So whoever comes next can put them back when the one that changed them was killed.

use super::run_dir;
use crate::pure::units::decimal;
use crate::sys::sysctl;

const NOTE: &str = "settings";

/// A setting that stands for a share of the memory while its twin in bytes is 0; writing one drops the other.
type Twin = (&'static str, &'static str);

/// How much of written data the kernel may keep in the page cache, for all filesystems: when it begins to write, and
/// when it makes writers wait.
pub const DIRTY: [Twin; 2] = [
    ("vm/dirty_background_bytes", "vm/dirty_background_ratio"),
    ("vm/dirty_bytes", "vm/dirty_ratio"),
];
/// How gladly the kernel swaps.
pub const SWAPPINESS: &str = "vm/swappiness";

/// Sets both limits of [`DIRTY`], in bytes. What can't be set stays.
pub fn limit_dirty(most: u64) {
    let wanted = [most / 2, most];
    let now = DIRTY.map(|(bytes, _)| sysctl::read(bytes));
    if now == wanted.map(Some) || now.contains(&None) {
        return;
    }
    remember(DIRTY.iter().flat_map(|(bytes, ratio)| [*bytes, *ratio]));
    // The lower one again: the kernel halves one that is not below the other.
    for ((bytes, _), value) in DIRTY.iter().zip(wanted).chain(DIRTY.iter().zip(wanted).take(1)) {
        sysctl::write(bytes, value);
    }
}

/// Sets one setting. What can't be set stays.
pub fn set(name: &'static str, value: u64) {
    if sysctl::read(name).is_some_and(|now| now != value) {
        remember([name]);
        sysctl::write(name, value);
    }
}

/// Puts back what these were before cowflush changed them, as far as it did.
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

/// Notes what these are, unless that is noted: then it was changed before.
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
    // A /run that is gone is no reason to let the COW overflow.
    let _ = run_dir::write_for_this_boot(NOTE, &text(&known));
}

/// In which order to put values back: a 0 means that the twin counts, and becomes one by itself when that is set.
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
