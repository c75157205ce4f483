//! `cowflush log --word`: prints the word that hooks put into an initramfs.

use crate::error::{Exit, Result};
use crate::flush::flushlog::FlushLog;
use crate::notes::{self, run_dir};
use crate::output::put;
use crate::pure::disk::filesystem::uuid_text;
use crate::pure::stack::Stack;
use crate::pure::units::DevNo;
use crate::sys::block;
use crate::sys::dm::Control;

/// Prints the word that makes a boot wait for the log in use. Prints nothing for a log on root's
/// disk, which appears together with root. If the boot has waited in vain, it prints the same word
/// again.
pub fn run() -> Result<Exit> {
    let stack = Control::open()?.stack()?;
    let note = run_dir::read(run_dir::BOOT).unwrap_or_default();
    let named = || notes::value(&note, "log_named").to_owned();
    let word = match stack.log_partition() {
        // A log that can't be read now keeps the name that it was found by.
        Some(log) if is_far(&stack, log) => FlushLog::uuid_at(&block::path(log))
            .map_or_else(named, |uuid| format!("UUID={}", uuid_text(&uuid))),
        None if !notes::value(&note, "log_kept").is_empty() => named(),
        _ => String::new(),
    };
    if !word.is_empty() {
        put(std::io::stdout(), &format!("cowflush.log={word}\n"));
    }
    Ok(Exit::Done)
}

/// Whether the log is on another disk than root.
pub fn is_far(stack: &Stack, log: DevNo) -> bool {
    let disks = (block::disk_of(log), stack.card().and_then(|(card, _)| block::disk_of(card)));
    matches!(disks, (Some(log), Some(card)) if log != card)
}
