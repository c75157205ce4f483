//! Settles the stack: observe, decide, do one step, observe again, until the plan of
//! [`crate::pure::stack::plan`] has no step left.
//!
//! A flush, a merge and the clean-up after a killed command are all this loop, each with its own
//! [`Goal`]. What a step does is in the files beside this one: `append`, `merge`, and `seal` for
//! what lets root go on.

use super::append::{self, Appended};
use super::context::Context;
use super::errors::explain;
use super::figures::Settled;
use super::layer::{data, named};
use super::{cow_device, merge, seal, write_cache};
use crate::error::Result;
use crate::pure::stack::{self, Goal, Name, Stack, Step};
use crate::pure::units::Bytes;
use crate::sys::time::Instant;

/// Settles `stack`, which was observed just now: finishes a flush or a merge, or cleans up after a
/// command that was killed, and does what `asked` says beyond that. Returns what that took, and the
/// settled stack.
pub fn settle(
    context: &mut Context<'_>,
    mut stack: Stack,
    asked: Goal,
) -> Result<(Settled, Stack)> {
    cow_device::release_strays(&context.control);
    let mut course = Course::new(asked);
    while let Some(step) = course.decide(&stack)? {
        course.take(context, &stack, step)?;
        stack = context.observe()?;
    }
    Ok((course.settled, stack))
}

/// What a command must remember of its own earlier steps, since the stack does not show it.
struct Course {
    asked: Goal,
    /// `asked`, and what the append needs in addition, until it is done.
    goal: Goal,
    /// The layers whose merge was begun and is not done. A command does not begin a failed merge
    /// again.
    begun: Vec<Name>,
    merging_since: Instant,
    log_merged: Bytes,
    /// The FLUSHes of a merge may be off.
    flushes_off: bool,
    settled: Settled,
}

impl Course {
    fn new(asked: Goal) -> Self {
        Self {
            asked,
            goal: asked,
            begun: Vec::new(),
            merging_since: Instant::now(),
            log_merged: Bytes(0),
            // An earlier command may have been killed while they were off.
            flushes_off: true,
            settled: Settled::default(),
        }
    }

    /// The next step. FLUSHes are off while a merge of a view is begun and waited for, and at no
    /// other time.
    fn decide(&mut self, stack: &Stack) -> Result<Option<Step>> {
        let step = stack::next(stack, self.goal);
        let off = matches!(step, Ok(Some(Step::AwaitMerge(_)))) && write_cache::declare_off(stack);
        if self.flushes_off && !off {
            write_cache::restore(stack)?;
        }
        self.flushes_off = off;
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
            Step::MoveRoot => seal::move_root(context, stack)?,
            Step::Resume(name) => context.control.resume(name)?,
            Step::Clear(name) => context.control.clear(name)?,
            Step::Remove(name) => context.control.remove(name)?,
            Step::Rename(from, to) => context.control.rename(from, to)?,
            Step::Append => self.append(context, stack)?,
            Step::StartMerge(name) => {
                self.flushes_off = true;
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
        // After these steps a COW may be unused, and its memory is needed.
        if matches!(step, Step::Append | Step::Unlink(_) | Step::Remove(_) | Step::Clear(_)) {
            cow_device::release_strays(&context.control);
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
                self.goal = self.asked;
            }
            Appended::NoRoom => self.goal.merge = true,
            Appended::TooLarge => self.goal.direct = true,
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
            // The kernel goes on alone, so its FLUSHes must reach the card again.
            write_cache::restore(stack)?;
        }
        waited?.map_or(Ok(()), |signal| Err(merge::interrupted(signal)))
    }

    fn unlink(&mut self, context: &Context<'_>, stack: &Stack, name: Name) -> Result<()> {
        if !self.has_begun(name) {
            self.merging_since = Instant::now();
        }
        let direct = self.goal.direct;
        self.settled.not_emptied |= merge::unlink(context, stack, name, direct, self.log_merged)?;
        self.settled.merging += self.merging_since.elapsed();
        self.begun.retain(|begun| *begun != name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::flush::machine::{CARD, CHUNKS, LOG, Machine};
    use crate::simulate::kernel::Fate;
    use crate::sys::dm::{Message, Request};

    const MERGED: Goal = Goal { merge: true, direct: false };
    const DIRECT: Goal = Goal { merge: false, direct: true };

    /// A machine whose root has flushed once, has changed since, and was sealed.
    fn sealed(log: bool) -> Machine {
        let mut machine = Machine::new(log);
        machine.write([1, 2, 3, 9, 20, 40], 1);
        machine.seal().unwrap();
        machine.settle(Goal::default()).unwrap();
        machine.write([2, 3, 4, 21], 2);
        machine.seal().unwrap();
        // Root goes on meanwhile.
        machine.write([4, 5], 3);
        machine
    }

    /// What was flushed first, and is flushed now, of [`sealed`].
    fn flushed() -> [Vec<u8>; 2] {
        let mut content = vec![0; CHUNKS as usize];
        for chunk in [1, 2, 3, 9, 20, 40] {
            content[chunk] = 1;
        }
        let first = content.clone();
        for chunk in [2, 3, 4, 21] {
            content[chunk] = 2;
        }
        [first, content]
    }

    #[test]
    fn a_flush_into_the_log_makes_these_requests_in_this_order() {
        let mut machine = sealed(true);
        machine.ordain(&[]);
        let (settled, stack) = machine.settle(Goal::default()).unwrap();
        assert_eq!((settled.appended, settled.logged), (true, Bytes(4 * 4096)));
        assert_eq!((settled.durable, settled.merged), (Bytes(4 * 4096), Bytes(0)));
        assert_eq!(
            machine.said(),
            [
                // The data are durable before the record that makes them count.
                "flush 8:2",
                "flush 8:2",
                // The view reads all of the log, and takes the COW's place.
                "create view",
                "load view: linear, linear",
                "resume view",
                "load sealed: snapshot",
                "resume sealed",
                // Then the old reader of the log goes, the layer first.
                "remove logged",
                "remove log-view",
                "rename view: log-view",
                "rename sealed: logged",
            ]
        );
        assert!(stack.sealed.is_none() && stack.is_under_root(Name::Logged));
        machine.check();
        assert_eq!(machine.after_a_cut(), flushed()[1]);
    }

    #[test]
    fn a_merge_of_the_log_makes_these_requests_in_this_order() {
        let mut machine = sealed(true);
        machine.settle(Goal::default()).unwrap();
        let before = machine.context.observe().unwrap();
        let (origin, log) = (before.origin.unwrap().number, before.log.unwrap().number);
        machine.ordain(&[]);
        let (settled, stack) = machine.settle(MERGED).unwrap();
        assert_eq!(settled.of_log().unwrap().merged, Bytes(8 * 4096));
        assert_eq!(
            machine.said(),
            [
                "create view".to_owned(),
                "load view: linear, linear".to_owned(),
                "resume view".to_owned(),
                // The log's own table must not be at work while its origin is written to.
                "load logged: snapshot".to_owned(),
                "resume logged".to_owned(),
                // FLUSHes are off before the first run is merged, and on before the card is asked
                // to keep everything.
                format!("write through {origin}"),
                format!("write through {log}"),
                "load logged: snapshot-merge".to_owned(),
                "resume logged".to_owned(),
                // The step that waits turns them off again: another command may have begun the merge.
                format!("write through {origin}"),
                format!("write through {log}"),
                format!("write back {origin}"),
                format!("write back {log}"),
                // Then the log forgets what it held, its two headers one after the other.
                format!("flush {CARD}"),
                format!("flush {LOG}"),
                format!("flush {LOG}"),
                // Then the layer is the card.
                "load logged: linear".to_owned(),
                "resume logged".to_owned(),
                "remove view".to_owned(),
                "remove log-view".to_owned(),
                "remove origin".to_owned(),
                "rename logged: origin".to_owned(),
            ]
        );
        assert_ne!(stack.origin.unwrap().number, origin, "it is another device by now");
        machine.check();
        assert_eq!(machine.after_a_cut(), flushed()[1]);
    }

    #[test]
    fn each_step_looks_at_the_tables_once() {
        let mut machine = sealed(true);
        machine.ordain(&[]);
        machine.settle(Goal::default()).unwrap();
        let before = machine.looks();
        // Five steps, and an observation before the first; two requests for each device that
        // exists, one for each that does not, and two for whether writers wait while the log is
        // written.
        assert!(before <= 6 * 14 + 2, "{before}");
        machine.ordain(&[]);
        machine.settle(Goal::default()).unwrap();
        assert!(machine.looks() <= 14, "one look where nothing is to be done");
    }

    /// Whichever request fails, or is never made since the command was killed before it: what was
    /// flushed before is there after a power cut, root shows what it showed, and the next command
    /// finishes everything.
    #[test]
    fn whatever_request_fails_nothing_is_lost_and_the_next_command_settles() {
        for (name, log, goal) in [
            ("append-fails", true, Goal::default()),
            ("merge-fails", true, MERGED),
            ("direct-fails", true, DIRECT),
            ("no-log-fails", false, Goal::default()),
        ] {
            let mut machine = sealed(log);
            machine.ordain(&[]);
            machine.settle(goal).unwrap();
            let changes = machine.changes();
            assert!(changes.len() >= 9, "{name}: {}", changes.len());
            for at in changes.iter().map(|change| change.number) {
                for fate in [Fate::Fails(0), Fate::AllKilled] {
                    let mut machine = sealed(log);
                    machine.ordain(&[(at, fate)]);
                    let done = machine.settle_or_be_killed(goal);
                    let said = machine.said();
                    machine.ordain(&[]);
                    let what = format!("{name}, {at}, {fate:?}: {done:?}");
                    let found = machine.after_a_cut();
                    // A merge without the log may be half done.
                    if log && goal != DIRECT {
                        assert!(flushed().contains(&found), "{what}\n{said:#?}\n{found:?}");
                    }
                    if done.is_ok() {
                        assert_eq!(found, flushed()[1], "{what}\n{said:#?}");
                    }
                    machine.check_unless_suspended();
                    let again = machine.settle(goal);
                    assert!(again.is_ok(), "{what}: {:?}\n{said:#?}", again.map(drop));
                    machine.check();
                    assert_eq!(machine.after_a_cut(), flushed()[1], "{what}\n{said:#?}");
                    let stack = machine.context.observe().unwrap();
                    assert_eq!(stack::next(&stack, Goal::default()), Ok(None), "{what}");
                    machine.write([7], 9);
                    machine.check();
                }
            }
        }
    }

    #[test]
    fn a_merge_that_the_card_refuses_is_told_and_done_when_the_card_takes_it() {
        for (log, goal) in [(true, MERGED), (false, Goal::default())] {
            let mut machine = sealed(log);
            machine.refuse_writes(true);
            let error = machine.settle(goal).unwrap_err();
            assert_eq!(error.exit_code(), Exit::Card, "{error}");
            assert!(
                error.to_string().starts_with("cannot merge into 8:1: writing sectors"),
                "{error}"
            );
            machine.check();
            machine.refuse_writes(false);
            machine.settle(goal).unwrap();
            machine.check();
            assert_eq!(machine.after_a_cut(), flushed()[1]);
        }
    }

    /// The protocol of [`Context::observe`].
    #[test]
    fn a_look_arms_the_throttle_for_what_is_sealed_and_releases_it_where_root_can_have_none() {
        let mut machine = Machine::new(true);
        assert!(!machine.context.throttle.is_armed());
        machine.context.observe().unwrap();
        let empty = *machine.context.throttle.cow_limits().unwrap();
        machine.write([1, 2, 3], 1);
        machine.context.observe().unwrap();
        assert_eq!(machine.context.throttle.cow_limits(), Some(&empty), "nothing is sealed");
        machine.seal().unwrap();
        assert!(!machine.context.throttle.is_armed(), "a handover releases it");
        let stack = machine.context.observe().unwrap();
        let full = *machine.context.throttle.cow_limits().unwrap();
        assert!(full.is_right_for(&stack) && !empty.is_right_for(&stack));
        machine.settle(Goal::default()).unwrap();
        assert_eq!(machine.context.throttle.cow_limits(), Some(&empty), "the COW was given back");
        // Another process has suspended root, or was killed while it had.
        machine.context.throttle.release();
        let mut message = Message::about(Name::Root);
        let suspend = Request::Suspend { freeze: false };
        machine.context.control.run(suspend, &mut message).unwrap();
        assert!(machine.context.observe().unwrap().root.unwrap().suspended);
        assert!(!machine.context.throttle.is_armed());
        machine.settle(Goal::default()).unwrap();
        assert!(machine.context.throttle.is_armed(), "root is awake again");
    }
}
