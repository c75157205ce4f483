//! /run/cowflush, the folder of the notes. It may be gone; nothing depends on it.

use std::io;
use std::path::Path;

use crate::pure::report::history;
use crate::pure::report::record::Record;
use crate::pure::report::totals::Totals;
use crate::sys::{file, program};

/// Where the notes are.
pub const PATH: &str = "/run/cowflush";

/// The last finished flush.
pub const LAST_FLUSH: &str = "last-flush";

/// The flushes before it, the oldest first.
pub const HISTORY: &str = "history";

/// Sums over all flushes since boot.
pub const TOTALS: &str = "totals";

/// What the boot did.
pub const BOOT: &str = "boot";

/// Exists since root's COW overflowed.
const OVERFLOWED: &str = "overflowed";
/// Exists since root's filesystem could not write something out.
const UNWRITTEN: &str = "unwritten";
/// Exists while a command has root's filesystem frozen, or is about to freeze it.
const FROZEN: &str = "frozen";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A copy of this program, for when root can't be read: a filesystem that was refused writes may
/// refuse reads as well, and then it takes a program in RAM to flush.
pub const PROGRAM: &str = "cowflush";

/// Makes the copy, or renews it: after an upgrade it must understand what the new program wrote.
pub fn keep_program() -> io::Result<()> {
    program::keep(Path::new(PATH), PROGRAM)
}

/// Notes that root's COW has overflowed in this boot.
pub fn note_overflow() {
    let _ = write_for_this_boot(OVERFLOWED, "");
}

/// Whether root's COW has overflowed in this boot.
pub fn has_overflowed() -> bool {
    read_of_this_boot(OVERFLOWED).is_some()
}

/// Notes that root's filesystem is about to be frozen: if this process is killed, the next command
/// thaws it.
pub fn note_freeze() -> io::Result<()> {
    write_for_this_boot(FROZEN, "")
}

/// Removes the note that root's filesystem is frozen: it was thawed, or not frozen.
pub fn end_freeze() {
    let _ = file::remove(&Path::new(PATH).join(FROZEN));
}

/// Whether a command has frozen root's filesystem and not thawed it.
pub fn has_frozen() -> bool {
    read_of_this_boot(FROZEN).is_some()
}

/// Notes that root's filesystem could not write something out in this boot.
pub fn note_unwritten() {
    let _ = write_for_this_boot(UNWRITTEN, "");
}

/// Whether root's filesystem could not write something out in this boot.
pub fn has_unwritten() -> bool {
    read_of_this_boot(UNWRITTEN).is_some()
}

/// Writes a note that counts until the next boot only, even where /run is not in RAM and the note
/// outlives the boot.
pub fn write_for_this_boot(name: &str, text: &str) -> io::Result<()> {
    write(name, &format!("boot={}\n{text}", boot_id()))
}

/// Reads a note of this boot; `None` when there is none, or it is of an earlier boot.
pub fn read_of_this_boot(name: &str) -> Option<String> {
    of_boot(&read(name)?, &boot_id()).map(str::to_owned)
}

/// The text of a note that was written in this boot.
fn of_boot<'a>(note: &'a str, boot: &str) -> Option<&'a str> {
    let (first, rest) = note.split_once('\n')?;
    (first.strip_prefix("boot=") == Some(boot)).then_some(rest)
}

fn boot_id() -> String {
    file::read(Path::new(BOOT_ID)).unwrap_or_default().trim().to_owned()
}

/// Writes a note in one step, so that a reader never sees half of it.
pub fn write(name: &str, text: &str) -> io::Result<()> {
    file::write(&Path::new(PATH).join(name), text)
}

/// Reads a note.
pub fn read(name: &str) -> Option<String> {
    file::read(&Path::new(PATH).join(name)).ok()
}

/// The last flushes since boot, the oldest first, as far as their notes are still there.
pub fn history() -> Vec<Record> {
    history::parse(&read(HISTORY).unwrap_or_default())
}

/// The sums over all flushes since boot.
pub fn totals() -> Totals {
    Totals::parse(&read(TOTALS).unwrap_or_default())
}

/// Notes a flush that succeeded.
pub fn note_flush(record: &Record) -> io::Result<()> {
    write(HISTORY, &history::append(&read(HISTORY).unwrap_or_default(), record))?;
    let mut totals = totals();
    totals.add(record);
    write(TOTALS, &totals.to_text())
}

/// Notes a flush that failed. Two at once may count as one: the number is for people.
pub fn note_failure() {
    let mut totals = totals();
    totals.failures = totals.failures.saturating_add(1);
    let _ = write(TOTALS, &totals.to_text());
}

/// The last flush since boot, if there was one and its note is still there.
pub fn last_flush() -> Option<Record> {
    read(LAST_FLUSH).map(|text| Record::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_another_boot_says_nothing() {
        let note = "boot=one\nsince=7\n";
        assert_eq!(of_boot(note, "one"), Some("since=7\n"));
        assert_eq!(of_boot("boot=one\n", "one"), Some(""));
        for (note, boot) in
            [(note, "two"), (note, ""), ("since=7\n", ""), ("boot=one", "one"), ("", "")]
        {
            assert_eq!(of_boot(note, boot), None, "{note:?} in {boot:?}");
        }
        // A machine that gives no boot id counts as having one boot.
        assert_eq!(of_boot("boot=\nsince=7\n", ""), Some("since=7\n"));
    }
}
