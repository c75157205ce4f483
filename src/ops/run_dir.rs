//! The folder in which cowflush leaves notes for people. It may be gone; nothing depends on it.

use std::io;
use std::path::Path;

use crate::report::record::Record;

/// Where the notes are.
pub const PATH: &str = "/run/cowflush";

/// The last finished flush.
pub const LAST_FLUSH: &str = "last-flush";

/// What the boot did.
pub const BOOT: &str = "boot";

/// A copy of this program, for when root can't be read: a filesystem that was refused writes may
/// refuse reads as well, and then it takes a program in RAM to flush.
pub const PROGRAM: &str = "cowflush";

/// Leaves the copy.
pub fn keep_program() -> io::Result<()> {
    std::fs::create_dir_all(PATH)?;
    std::fs::copy("/proc/self/exe", Path::new(PATH).join(PROGRAM)).map(drop)
}

/// Writes a note in one step, so that a reader never sees half of it.
pub fn write(name: &str, text: &str) -> io::Result<()> {
    let folder = Path::new(PATH);
    std::fs::create_dir_all(folder)?;
    let (unfinished, path) = (folder.join(format!(".{name}")), folder.join(name));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}

/// Reads a note.
pub fn read(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(PATH).join(name)).ok()
}

/// The last flush since boot, if there was one and its note is still there.
pub fn last_flush() -> Option<Record> {
    read(LAST_FLUSH).map(|text| Record::parse(&text))
}
