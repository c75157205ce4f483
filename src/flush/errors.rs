//! Error messages for what the plan finds wrong with a stack, and for a card that fails.

use crate::error::{Error, Exit};
use crate::pure::stack::plan::PlanError;

/// The plan's error as a message.
pub fn explain(problem: PlanError) -> Error {
    match problem {
        PlanError::NotActive => Error::new(
            "find cowflush's devices",
            "root is not on a cowflush stack",
        )
        .advise(
            "Boot with the cowflush initramfs and without `cowflush=off`; /run/cowflush/boot \
                 tells what the boot did.",
        )
        .exit(Exit::NotActive),
        PlanError::Lost(name) => Error::new(
            format!("read {}", name.text()),
            "its COW was lost (the kernel calls it Invalid), because memory ran out or a write \
             to it failed",
        )
        .advise(
            "What was written since the last flush can't be had any more. The card holds the \
             last flush: reboot.",
        )
        .exit(Exit::Lost),
        PlanError::Foreign(name) => Error::new(
            format!("go on with {}", name.text()),
            "its table is none that cowflush makes",
        )
        .advise("Has another tool changed it? `dmsetup table` shows it; a reboot clears it."),
    }
}

/// Adds advice and the exit code to the error of a write that the card refused.
pub fn refused(error: Error) -> Error {
    error
        .advise(
            "Nothing is lost: all data are still where they were and can be read. Look for the \
             card's errors in the kernel log (dmesg), then run the command again.",
        )
        .exit(Exit::Card)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::stack::Name;

    #[test]
    fn each_plan_error_has_its_words_and_its_exit_code() {
        for (problem, said, exit) in [
            (
                PlanError::NotActive,
                "cannot find cowflush's devices: root is not on a cowflush stack. Boot with",
                Exit::NotActive,
            ),
            (
                PlanError::Lost(Name::Root),
                "cannot read cowflush-root: its COW was lost (the kernel calls it Invalid), because \
                 memory ran out or a write to it failed. What was written",
                Exit::Lost,
            ),
            (
                PlanError::Foreign(Name::Logged),
                "cannot go on with cowflush-logged: its table is none that cowflush makes. Has",
                Exit::Failed,
            ),
        ] {
            let error = explain(problem);
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.exit_code(), exit, "{error}");
        }
    }
}
