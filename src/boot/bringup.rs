//! From the kernel command line to a device that root is mounted from: the stack, or the plain
//! card.

use std::path::Path;
use std::time::Duration;

use super::find_log::{self, FoundLog};
use super::inspecting;
use super::messages::BootMessages;
use super::stacking::{self, Prior};
use crate::error::{Error, Exit, Result, why};
use crate::flush::flushlog;
use crate::notes::{hold, run_dir, spill};
use crate::pure::cmdline::{LogChoice, Options};
use crate::pure::disk::filesystem::Filesystem;
use crate::pure::disk::reference::Reference;
use crate::pure::flushlog::boot_count;
use crate::pure::stack::{Mode, Name};
use crate::pure::units::{Bytes, Utc};
use crate::sys::devices::{self, Candidate};
use crate::sys::dm::Control;
use crate::sys::time::{Instant, pause};
use crate::sys::{block, memory};

/// How long a card may take to appear, unless `rootwait` or `rootdelay` say otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
const NEWS_EVERY: Duration = Duration::from_secs(10);
const SEEK_EVERY: Duration = Duration::from_secs(1);

/// Uses a device as root, given its path and its filesystem. `init` mounts it; `attach` prints it
/// for a distribution's initramfs, which mounts it itself. Returns `ro` or `rw`.
pub type UseRoot<'a> = dyn FnMut(&Path, Option<&Filesystem>) -> Result<&'static str> + 'a;

/// Builds the stack over the card and lets `mount` use it; if that fails, the plain card. Leaves a
/// note of what was done in /run/cowflush.
pub fn root(
    options: &Options,
    prior: Prior,
    log: &mut BootMessages,
    mount: &mut UseRoot<'_>,
) -> Result<()> {
    let control = stacking::begin(prior)?;
    let mut card = if prior == Prior::Nothing {
        wait_for_card(options, log)?
    } else {
        find_card(options, true, log)?
            .ok_or_else(|| not_found(options, "there is no such device"))?
    };
    // Before the boot writes to the card or its log: no other program may use it.
    block::claim(&card.path())?;
    if prior == Prior::StackTried {
        // The try before this one may have been in doubt.
        let _ = block::refuse_writes(card.number, false);
    }
    if block::is_write_protected(card.number) {
        log.error(&format!(
            "{} IS WRITE-PROTECTED: nothing can be flushed until that ends.",
            card.name
        ));
    }
    let mut found = find_log::find(&mut card, options, |text| log.error(text));
    check_size(&card)?;
    if let FoundLog::Kept { why, .. } | FoundLog::Unread { why, .. } = &found {
        log.error(&why.to_string());
    }
    let begun = counted(&mut found).map_or(0, flushlog::FlushLog::boots_begun);
    let (mode, reason) = if options.off {
        ("off", "cowflush=off on the kernel command line".to_owned())
    } else if begun >= boot_count::LIMIT && !options.insist && prior != Prior::StackTried {
        let reason = format!(
            "{begun} boots in a row on the stack ended without a flush, the last one within {} minutes",
            boot_count::MINUTES
        );
        log.error(&format!(
            "{reason}: this one is without it, the next is on it again (on it each time: cowflush=always)."
        ));
        ("plain", reason)
    } else if prior == Prior::StackTried {
        let reason = "the stack could not be used";
        log.error(&format!("{reason}."));
        ("plain", reason.to_owned())
    } else if let Some(why) = devices::beyond_the_stack(&card) {
        let refused = Error::new(format!("put {} on the stack", card.name), why)
            .advise("`cowflush check` says more.")
            .to_string();
        log.error(&refused);
        ("plain", refused)
    } else {
        let built = match &control {
            Ok(control) => {
                // Before the first step that may crash.
                if let Some(flush_log) = counted(&mut found)
                    && let Err(error) = flush_log.note_boots(begun.saturating_add(1))
                {
                    log.error(&format!("this boot is not counted: {error}"));
                }
                stacked(control, &card, &found, options, log, mount)
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match built {
            Ok(()) => (Mode::Deferring.word(), String::new()),
            Err(why) => {
                log.error(&why);
                ("plain", why)
            }
        }
    };
    if mode != Mode::Deferring.word() {
        // Fails if a stack that could not be taken away still stands on the card.
        block::claim(&card.path())?;
        // Without the log's flushes root is old, and torn if a merge was cut short.
        let applied = match &mut found {
            FoundLog::Log { log, live, .. } => find_log::apply(&card, log, live),
            _ => Ok(()),
        };
        // What failed with the stack does not concern this boot, and the next boot uses it again.
        if applied.is_ok()
            && let Some(flush_log) = counted(&mut found)
            && flush_log.boots_begun() > 0
        {
            let _ = flush_log.note_boots(0);
        }
        // Without a stack only this keeps root as the log's flushes need it. Not earlier, since
        // applying the log writes.
        let keep = applied.is_err() || found.is_in_doubt();
        if keep {
            block::refuse_writes(card.number, true)?;
        }
        let mounted = applied.and_then(|()| mount(&card.path(), card.filesystem.as_ref()));
        if mounted.is_err() && prior == Prior::Nothing {
            // Nothing was mounted, and the next try may be told to do without the log.
            let _ = block::refuse_writes(card.number, false);
        }
        let (access, name) = (mounted?, &card.name);
        let access = if keep { "ro" } else { access };
        let why = if options.off { "as cowflush=off says" } else { "since it has no stack" };
        let what = if keep { "writes are refused" } else { "writes go to it" };
        log.info(&format!("root is the plain card {name} ({access}), {why}: {what}."));
        if keep {
            log.error(&format!(
                "what is written to root makes the flushes useless that may be in the flush log. To have them: reboot with \
                 the log there and readable. To go on without them: reboot with cowflush.log=none, or `blockdev --setrw \
                 {}` and `mount -o remount,rw /`.",
                card.path().display()
            ));
        }
    }
    leave_notes(&card, mode, &reason, begun, found, options, log);
    Ok(())
}

/// The log in which boots are counted. The boot writes nothing to a log that can't be read to its
/// end.
fn counted(found: &mut FoundLog) -> Option<&mut flushlog::FlushLog> {
    match found {
        FoundLog::Log { log, .. } if log.hidden().is_none() => Some(log),
        _ => None,
    }
}

fn leave_notes(
    card: &Candidate,
    mode: &str,
    reason: &str,
    begun: u32,
    found: FoundLog,
    options: &Options,
    log: &mut BootMessages,
) {
    let (log_name, kept, open) = match found {
        FoundLog::None => (String::new(), String::new(), false),
        FoundLog::Log { partition, .. } | FoundLog::Unread { partition, .. } => {
            (partition.name, String::new(), false)
        }
        FoundLog::Kept { name, why, open } => (name, why.to_string(), open),
    };
    let named = match &options.log {
        LogChoice::At(reference) => reference.to_string(),
        _ => String::new(),
    };
    // The hold was left by a stack that could not be used or built.
    if !(open && mode == Mode::Deferring.word()) && hold::is_for_log() {
        hold::end();
    }
    let note = format!(
        "mode={mode}\ncard={}\nreason={reason}\ntries={}\nlog={log_name}\nlog_kept={kept}\nlog_named={named}\n{}",
        card.name,
        begun.saturating_add(1),
        log.text()
    );
    let left = run_dir::write(run_dir::BOOT, &note).and_then(|()| run_dir::keep_program());
    if let Err(error) = left {
        log.error(&format!("cannot write to {}: {}.", run_dir::PATH, why(&error)));
    }
}

fn stacked(
    control: &Control,
    card: &Candidate,
    found: &FoundLog,
    options: &Options,
    log: &mut BootMessages,
    mount: &mut UseRoot<'_>,
) -> Result<()> {
    if let FoundLog::Kept { open: true, .. } = found {
        // Before anything could be flushed: a write to root would make the log useless. If the hold
        // can't be noted there is no stack, and the kernel refuses writes to root.
        hold::begin_for_log()?;
    }
    // The file is on root, which is not mounted yet; the daemon and the first command take it into
    // account.
    let (config, _) = options.config("");
    if let Some(error) = config.spill.as_ref().and_then(|spill| spill::begin(spill).err()) {
        log.error(&error.to_string());
    }
    let memory = memory::info()?;
    let mut limit = config.size.limit(memory.total, &memory.room(config.spill.is_some()));
    let flush_log = match found {
        FoundLog::Log { partition, log, .. } => {
            // What a flush seals must fit into the log.
            limit = limit.min(log.capacity());
            Some((partition, Some(&**log)))
        }
        FoundLog::Unread { partition, .. } => Some((partition, None)),
        _ => None,
    };
    let number = stacking::build(control, card, flush_log, limit)?;
    let device = block::link(number, Name::Root.text());
    let served = inspecting::root(&device, card.filesystem.as_ref(), options);
    let mounted = served.and_then(|()| mount(&device, card.filesystem.as_ref()));
    let access = mounted.inspect_err(|_| drop(stacking::take_away(control)))?;
    log.info(&boot_line(&card.name, found, access, limit));
    Ok(())
}

/// The line at boot: what mode it is in and what a power cut would cost.
fn boot_line(card: &str, found: &FoundLog, access: &str, limit: Bytes) -> String {
    let refused = |partition: &Candidate| {
        format!("FLUSHES ARE REFUSED: the flush log on {} can't be read.", partition.name)
    };
    let what = match found {
        FoundLog::Unread { partition, why } if why.exit_code() == Exit::Newer => format!(
            "FLUSHES ARE REFUSED: the flush log on {} is of a newer cowflush, and root is without what it holds.",
            partition.name
        ),
        FoundLog::Unread { partition, .. } => refused(partition),
        FoundLog::Log { partition, log, .. } if log.hidden().is_some() => refused(partition),
        FoundLog::Log { partition, log, .. } => format!(
            "A power cut loses what was not flushed and nothing else: the flush log on {} holds {} \
             flushes and is {} % full.{}",
            partition.name,
            log.flushes().count(),
            log.used_percent(),
            last_stop(log)
        ),
        FoundLog::Kept { .. } => {
            "A power cut loses what was not flushed; one during a flush can tear root, since the \
             flush log is not used."
                .to_owned()
        }
        FoundLog::None => {
            "A power cut loses what was not flushed; one during a flush can tear root, since \
             there is no flush log (`cowflush log --help` tells how to add one)."
                .to_owned()
        }
    };
    format!(
        "root is {} over {card} ({access}): writes stay in RAM (up to {limit}) until `cowflush flush`. \
         {what}",
        Name::Root.text(),
    )
}

/// A stop leaves an empty log. With one that is not, the system ended in another way, as by a power
/// cut or `reboot -f`, and lost what was younger than its last flush.
fn last_stop(log: &flushlog::FlushLog) -> String {
    log.flushes().next_back().map_or_else(String::new, |segment| {
        let when = Utc(segment.head.when);
        format!(" Root was not stopped: what was written after the flush of {when} is gone.")
    })
}

/// Waits until the card appears.
fn wait_for_card(options: &Options, log: &mut BootMessages) -> Result<Candidate> {
    pause(Duration::from_secs(options.delay.min(3600)));
    let (begin, mut news, mut seek) = (Instant::now(), NEWS_EVERY, Duration::ZERO);
    loop {
        let waited = begin.elapsed();
        // Reading a log takes longer than looking for the card.
        let in_logs = waited >= seek;
        if in_logs {
            seek = waited + SEEK_EVERY;
        }
        if let Some(card) = find_card(options, in_logs, log)? {
            return Ok(card);
        }
        if waited >= PATIENCE && !options.wait_for_ever {
            let why = format!("no such device appeared in {} s", waited.as_secs());
            return Err(not_found(options, &why)
                .advise("Is the card in its slot, and its driver in the kernel?"));
        }
        if waited >= news {
            log.info(&format!(
                "still waiting for root={}; there are: {}.",
                wanted(options)?,
                seen()
            ));
            news += NEWS_EVERY;
        }
        pause(Duration::from_millis(50));
    }
}

/// Looks for the card. If `reference` names what is on the card, and no device has that since the
/// superblock is torn, it looks in the flush logs.
fn find_card(
    options: &Options,
    in_logs: bool,
    log: &mut BootMessages,
) -> Result<Option<Candidate>> {
    let reference = wanted(options)?;
    let mut found = devices::find(reference);
    if found.is_empty() && in_logs && reference.is_of_filesystem() {
        found = find_log::find_root(reference);
        if let Some(card) = found.first() {
            let name = &card.name;
            log.error(&format!(
                "root={reference} is {name} as its flush log has it: what {name} itself begins with is older, or torn."
            ));
        }
    }
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|card| card.name.as_str()).collect();
        log.error(&format!(
            "root={reference} fits {}: taking the first. Give one of them another UUID \
             (tune2fs -U random) or name the device.",
            names.join(" and ")
        ));
    }
    Ok(found.into_iter().next())
}

/// Whether no device matches `reference`, but a flush log knows which partition is meant.
pub fn is_known_by_log(reference: &Reference) -> bool {
    reference.is_of_filesystem()
        && devices::find(reference).is_empty()
        && !find_log::find_root(reference).is_empty()
}

fn wanted(options: &Options) -> Result<&Reference> {
    options.root.as_ref().ok_or_else(|| {
        Error::new("find root", "the kernel command line has no usable root=")
            .advise(
                "Give root= as a device such as /dev/sda1, or as UUID=, LABEL=, PARTUUID= or \
             PARTLABEL=.",
            )
            .exit(Exit::NotActive)
    })
}

fn not_found(options: &Options, why: &str) -> Error {
    let root = options.root.as_ref().map(|root| format!("={root}")).unwrap_or_default();
    Error::new(format!("find root{root}"), format!("{why}; there are: {}", seen()))
        .advise("Name one of them.")
        // By this code an initramfs learns that root can't be on a stack, such as a volume of LVM,
        // and has no flush log.
        .exit(Exit::NotActive)
}

fn seen() -> String {
    let all: Vec<_> = devices::candidates().iter().map(Candidate::describe).collect();
    if all.is_empty() { "no block devices".to_owned() } else { all.join(", ") }
}

/// Refuses a filesystem that is larger than its partition: it can't be mounted, and the kernel's
/// message does not say why.
fn check_size(card: &Candidate) -> Result<()> {
    let claimed = card.filesystem.as_ref().and_then(|found| found.size);
    match claimed {
        Some(size) if size > card.size.bytes() => Err(Error::new(
            format!("use {}", card.path().display()),
            format!("its filesystem says it is {size}, but the partition is {}", card.size.bytes()),
        )
        .advise("Was an image cut short when it was written to the card? Write it again.")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_without_a_flush_log_says_whether_there_is_one_that_is_not_used() {
        let kept = FoundLog::Kept {
            name: "sda2".to_owned(),
            why: Error::new("use the flush log on sda2", "a reason"),
            open: false,
        };
        for (found, what) in [
            (
                FoundLog::None,
                "A power cut loses what was not flushed; one during a flush can tear root, since there is no flush log \
                 (`cowflush log --help` tells how to add one).",
            ),
            (
                kept,
                "A power cut loses what was not flushed; one during a flush can tear root, since the flush log is not used.",
            ),
        ] {
            let line = boot_line("sda1", &found, "rw", Bytes(32 << 20));
            let stack = "root is cowflush-root over sda1 (rw): writes stay in RAM (up to 32.0 MiB) until `cowflush flush`.";
            assert_eq!(line, format!("{stack} {what}"));
        }
    }
}
