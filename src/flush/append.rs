//! Appends what is sealed to the flush log, and lets the sealed device read it there.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::context::Context;
use super::errors::explain;
use super::layer::{named, replace};
use super::prune::{Policy, Pruned, prune};
use super::view;
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::FlushLog;
use crate::flush::flushlog::append::APPEND_AGAIN;
use crate::flush::flushlog::compare::{self, Compared};
use crate::pure::dm::Target;
use crate::pure::flushlog::agree::{Act, Go};
use crate::pure::stack::{Name, PlanError, Stack};
use crate::pure::units::Bytes;
use crate::sys::block;
use crate::sys::disk::Disk;
use crate::sys::time::Instant;

/// What came of an append.
pub enum Appended {
    /// The segment is durable: the log, and figures of the append.
    Done(Box<FlushLog>, Append),
    /// The log must be merged first.
    NoRoom,
    /// The segment is larger than the whole log.
    TooLarge,
}

/// An append that is durable.
#[derive(Clone, Copy)]
pub struct Append {
    /// What was appended.
    pub bytes: Bytes,
    /// What was left out of the sealed COW, since it need not reach the log.
    pub pruned: Pruned,
    /// How long it took, until it was durable.
    pub took: Duration,
    /// How much of the log is in use afterwards, in percent.
    pub log_used: u64,
}

/// Appends the sealed COW to the log durably. `policy` says what may be left out.
///
/// If the command is killed after the append, or can't make the view, the next command finds the
/// segment in the log. (If pruning then leaves out other chunks, it appends once more, which
/// changes nothing.)
pub fn append(context: &mut Context<'_>, stack: &Stack, policy: Policy) -> Result<Appended> {
    let (sealed, begin) = (named(stack, Name::Sealed)?, Instant::now());
    let (Some(Target::Snapshot { origin, cow, .. }), Some((card, _))) =
        (sealed.target(), stack.card())
    else {
        return Err(explain(PlanError::Foreign(Name::Sealed)));
    };
    let mut data = view::Data::of_cow(origin, cow)?;
    let pruned = prune(policy, &sealed, &mut data);
    let mut store = Disk::open(&block::path(cow))?;
    let sealed_data = Some((data.table.as_slice(), &mut store));
    let Compared { log: Some(mut log), go } =
        compare::check(stack, Act::Append, false, sealed_data)?
    else {
        return Err(explain(PlanError::Foreign(Name::Log)));
    };
    if go == Go::Anew {
        // Root was written to past the segments in the log. Another segment behind them would make
        // them count again.
        log.reset(0).map_err(|error| error.advise(APPEND_AGAIN).exit(Exit::Card))?;
    }
    let count = u32::try_from(data.table.len()).unwrap_or(u32::MAX);
    // The segment was appended, and a later step failed: the view could not be made, or the command
    // was killed. If its commit record can't be written again, another segment goes behind it.
    let again = go == Go::Again && log.commit_again().is_ok();
    if !again && !log.chain.fits(count) {
        if !log.chain.could_fit(count) {
            return Ok(Appended::TooLarge);
        }
        return Ok(Appended::NoRoom);
    }
    context.meter.begin("logging", data.bytes());
    let mut watch = |left| match context.show_progress(left) {
        Some(signal) => Err(interrupted(signal)),
        None => Ok(()),
    };
    let mut card = Disk::open(&block::path(card))?;
    let appended =
        if again { Ok(()) } else { log.append(&data.table, &mut store, &mut card, &mut watch) };
    context.meter.clear();
    appended?;
    let (bytes, took, log_used) = (data.bytes(), begin.elapsed(), log.used_percent());
    Ok(Appended::Done(Box::new(log), Append { bytes, pruned, took, log_used }))
}

/// Lets the sealed device read the log, which has all its data now, so that its memory is freed.
pub fn read_log(context: &Context<'_>, stack: &Stack, log: &FlushLog) -> Result<()> {
    let (control, sealed) = (&context.control, named(stack, Name::Sealed)?);
    // Both tables have the same content but for what was pruned, which root does not read, and
    // nothing writes to the sealed device: root can read through it while they are swapped. The
    // view reads all of the log, so it stands on the origin, and the layer that read the log before
    // is no longer needed. The entries of that layer's table were not read from the card again.
    let number = named(stack, Name::Log)?.number;
    let data = match log.chain.part {
        Some(_) => view::Data::of_both(number, view::seen(stack)?, &log.chain),
        None => view::Data::of_log(number, &log.chain),
    };
    let cow = view::build(control, Name::View, &data, 0)?;
    let origin = named(stack, Name::Origin)?.number;
    replace(control, Name::Sealed, &sealed, |_, _, chunk| Target::Snapshot { origin, cow, chunk })
}

fn interrupted(signal: Signal) -> Error {
    Error::new("append to the flush log", format!("{signal} came"))
        .advise("Nothing is lost: what was sealed stays in RAM, and the next flush appends it.")
        .exit(Exit::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_that_a_signal_ended_says_what_becomes_of_the_data() {
        let error = interrupted(Signal::SIGTERM);
        let said = "cannot append to the flush log: SIGTERM came. Nothing is lost";
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!(error.exit_code(), Exit::Interrupted);
    }
}
