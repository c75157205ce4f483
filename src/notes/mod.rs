//! What is in /run/cowflush: notes that one command leaves and another one, or a script, reads.

pub mod daemon_note;
pub mod hold;
pub mod run_dir;
pub mod settings;
pub mod spill;
pub mod swaps;

/// The value of a key in a note; empty when it is not there.
pub fn value<'a>(note: &'a str, key: &str) -> &'a str {
    note.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_by_whole_keys() {
        let note = "mode=deferring\nlog_kept=why\nlog=sda2\n";
        assert_eq!((value(note, "log"), value(note, "mode")), ("sda2", "deferring"));
        assert_eq!((value(note, "mod"), value(note, "reason")), ("", ""));
    }
}
