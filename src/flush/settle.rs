//! Settle: look, decide, do one step, look again, until the plan of [`crate::pure::stack::plan`] has no step left.
//!
//! A flush, a merge and the clean-up after a killed command all are this loop, with another [`Wish`]. What a step does
//! is in the files beside this one: `append`, `merge`, and `seal` for what lets root go on.

use std::time::Instant;

use super::append::{self, Appended};
use super::context::Context;
use super::layer::{data, named};
use super::settled::Settled;
use super::trouble::explain;
use super::{cowfile, merge, quiet, seal};
use crate::error::Result;
use crate::pure::stack::{self, Name, Stack, Step, Wish};
use crate::pure::units::Bytes;

/// Brings `stack`, which was observed just now, to rest: finishes a flush or a merge, or cleans up after a command that
/// was killed; and does what is wished for beyond that. Returns what that took, and the stack at rest.
pub fn settle(
    context: &mut Context<'_>,
    mut stack: Stack,
    wished: Wish,
) -> Result<(Settled, Stack)> {
    cowfile::release_strays(&context.control);
    let mut course = Course::new(wished);
    while let Some(step) = course.decide(&stack)? {
        course.take(context, &stack, step)?;
        stack = context.observe()?;
    }
    Ok((course.settled, stack))
}

/// What a command has to know of its own earlier steps, which the stack does not show.
struct Course {
    wished: Wish,
    /// With what a flush needs for itself, until it is done.
    wish: Wish,
    /// The layers whose merge was begun, and is not done. One that fails is not begun again by the same command.
    begun: Vec<Name>,
    merging_since: Instant,
    log_merged: Bytes,
    /// The FLUSHes of a merge may be off.
    quiet: bool,
    settled: Settled,
}

impl Course {
    fn new(wished: Wish) -> Self {
        Self {
            wished,
            wish: wished,
            begun: Vec::new(),
            merging_since: Instant::now(),
            log_merged: Bytes(0),
            // An earlier command may have been killed while they were off.
            quiet: true,
            settled: Settled::default(),
        }
    }

    /// The next step. FLUSHes are off while a merge of a view is begun and waited for, and at no other time.
    fn decide(&mut self, stack: &Stack) -> Result<Option<Step>> {
        let step = stack::next(stack, self.wish);
        let off = matches!(step, Ok(Some(Step::AwaitMerge(_)))) && quiet::begin(stack);
        if self.quiet && !off {
            quiet::end(stack)?;
        }
        self.quiet = off;
        step.map_err(explain)
    }

    /// Takes one step.
    fn take(&mut self, context: &mut Context<'_>, stack: &Stack, step: Step) -> Result<()> {
        match step {
            Step::StartMerge(name) | Step::Unmerge(name) if self.has_begun(name) => {
                return Err(merge::failed(stack));
            }
            Step::MergeInPlace | Step::RestartMerge if self.has_begun(Name::Sealed) => {
                return Err(merge::failed(stack));
            }
            Step::Resume(Name::Root) => seal::wake_root(&context.control)?,
            Step::Reseat => seal::reseat(context, stack)?,
            Step::Resume(name) => context.control.resume(name)?,
            Step::Clear(name) => context.control.clear(name)?,
            Step::Remove(name) => context.control.remove(name)?,
            Step::Rename(from, to) => context.control.rename(from, to)?,
            Step::Append => self.append(context, stack)?,
            Step::StartMerge(name) => {
                self.quiet = true;
                self.merging_since = Instant::now();
                self.log_merged = merge::start(context, stack, name, &mut self.settled)?;
                self.settled.merge(name, self.log_merged);
                self.begun.push(name);
            }
            Step::MergeInPlace | Step::RestartMerge => {
                self.settled.merge(Name::Sealed, data(stack.sealed.as_ref()));
                match step {
                    Step::MergeInPlace => merge::start_in_place(context, stack)?,
                    _ => seal::restart(&context.control, &named(stack, Name::Sealed)?)?,
                }
                self.begun.push(Name::Sealed);
                self.merging_since = Instant::now();
            }
            Step::AwaitMerge(name) => self.await_merge(context, stack, name)?,
            Step::Unmerge(name) => merge::take_back(context, stack, name)?,
            Step::Unlink(name) => self.unlink(context, stack, name)?,
        }
        // After these a COW may have no user any more, and its memory is wanted.
        if matches!(step, Step::Append | Step::Unlink(_) | Step::Remove(_) | Step::Clear(_)) {
            cowfile::release_strays(&context.control);
        }
        Ok(())
    }

    fn has_begun(&self, name: Name) -> bool {
        self.begun.contains(&name)
    }

    fn append(&mut self, context: &mut Context<'_>, stack: &Stack) -> Result<()> {
        match append::append(context, stack, context.policy())? {
            Appended::Done(log, done) => {
                self.settled.append(&done);
                append::read_log(context, stack, &log)?;
                self.wish = self.wished;
            }
            Appended::NoRoom => self.wish.merge = true,
            Appended::TooLarge => self.wish.direct = true,
        }
        Ok(())
    }

    fn await_merge(&mut self, context: &mut Context<'_>, stack: &Stack, name: Name) -> Result<()> {
        if !self.has_begun(name) {
            self.begun.push(name);
            self.merging_since = Instant::now();
            self.log_merged = data(stack.device(name));
            self.settled.merge(name, self.log_merged);
        }
        let waited = merge::wait(context, name, self.settled.merged);
        if !matches!(waited, Ok(None)) {
            // The kernel goes on alone, so it had better flush by itself.
            quiet::end(stack)?;
        }
        waited?.map_or(Ok(()), |signal| Err(merge::interrupted(signal)))
    }

    fn unlink(&mut self, context: &Context<'_>, stack: &Stack, name: Name) -> Result<()> {
        if !self.has_begun(name) {
            self.merging_since = Instant::now();
        }
        let direct = self.wish.direct;
        self.settled.let_be |= merge::unlink(context, stack, name, direct, self.log_merged)?;
        self.settled.merging += self.merging_since.elapsed();
        self.begun.retain(|begun| *begun != name);
        Ok(())
    }
}
