//! One error type: what was tried, on which device, why it failed and what to do.

use core::fmt;
use std::borrow::Cow;

use nix::errno::Errno;

/// The exit codes; the numbers are part of the interface (see `--help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; everything that was in RAM is still there.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// Root is not on a cowflush stack.
    NotActive = 3,
    /// Another cowflush command is at work.
    Busy = 4,
    /// The card refused a write, or can't be read; the data stay in RAM or in the log.
    Card = 5,
    /// `check` found something missing.
    Missing = 6,
    /// The COW was lost (Invalid); only a reboot helps.
    Lost = 7,
    /// Stopped by a signal; the kernel goes on merging, the next command finishes.
    Interrupted = 8,
    /// The flush log is of a format that this program does not know; the data stay in it.
    Newer = 9,
}

impl Exit {
    /// Whether a flush with this code counts as failed. One that did not begin, or that the next
    /// command finishes, does not.
    pub const fn is_failure(self) -> bool {
        matches!(self, Exit::Failed | Exit::Card | Exit::Lost | Exit::Newer)
    }

    /// Whether what can't be used now may be intact, so that it must not be given up.
    pub const fn may_be_intact(self) -> bool {
        matches!(self, Exit::Card | Exit::Newer)
    }
}

/// An error that a user can meet.
///
/// Shown as `cannot OPERATION: CAUSE. ADVICE`. The operation names the device.
#[derive(Debug)]
pub struct Error(Box<Parts>);

/// The parts are behind a pointer, so that every `Result` is small, which saves a tenth of the
/// binary.
#[derive(Debug)]
struct Parts {
    operation: Cow<'static, str>,
    cause: Cow<'static, str>,
    advice: Cow<'static, str>,
    exit: Exit,
}

/// The crate's result.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// `operation` continues "cannot …"; `cause` is one clause without a full stop.
    pub fn new(
        operation: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Parts {
            operation: operation.into(),
            cause: cause.into(),
            advice: Cow::Borrowed(""),
            exit: Exit::Failed,
        }))
    }

    /// Adds what the user can do, as whole sentences.
    pub fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.0.advice = advice.into();
        self
    }

    /// Sets the exit code, which is `Failed` by default.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.0.exit = exit;
        self
    }

    /// The cause, as one clause.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    /// The exit code to end the process with.
    pub fn exit_code(&self) -> Exit {
        self.0.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { operation, cause, advice, .. } = &*self.0;
        write!(f, "cannot {operation}: {cause}.")?;
        if !advice.is_empty() {
            write!(f, " {advice}")?;
        }
        Ok(())
    }
}

/// Turns a system call's errno into an [`Error`] that says what was being done.
pub trait Doing<T> {
    /// `operation` continues "cannot …" and is only built on failure.
    fn doing<S: Into<Cow<'static, str>>>(self, operation: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for core::result::Result<T, Errno> {
    fn doing<S: Into<Cow<'static, str>>>(self, operation: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| of_errno(operation(), errno))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, operation: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(number) => of_errno(operation(), Errno::from_raw(number)),
            None => Error::new(operation(), error.to_string()),
        })
    }
}

/// The cause of an I/O error, in the kernel's words alone.
pub fn why(error: &std::io::Error) -> Cow<'static, str> {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().into(),
        None => error.to_string().into(),
    }
}

fn of_errno(operation: impl Into<Cow<'static, str>>, errno: Errno) -> Error {
    Error::new(operation, errno.desc()).advise(remedy(errno))
}

/// The advice that most often helps, for errors that don't set their own.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => "Run this as root.",
        Errno::EBUSY => "Is it mounted, or in use by another program? End that, then try again.",
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            "Is its name right? `cowflush check` shows what this machine lacks."
        }
        Errno::ENOMEM => "Free some memory, then try again.",
        Errno::ENOSPC => "Make room there, then try again.",
        _ => "The kernel log (dmesg) may have more.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_sentences() {
        let error = Error::new("read /dev/sda1", "Input/output error").advise("Check the card.");
        assert_eq!(error.to_string(), "cannot read /dev/sda1: Input/output error. Check the card.");
        assert_eq!(Error::new("x", "y").to_string(), "cannot x: y.");
    }

    #[test]
    fn an_errno_keeps_its_meaning() {
        let failed: core::result::Result<(), _> = Err(Errno::ENOSPC);
        let error = failed.doing(|| "grow the COW").unwrap_err();
        let said = "cannot grow the COW: No space left on device. Make room there, then try again.";
        assert_eq!(error.to_string(), said);
        assert_eq!(error.exit_code(), Exit::Failed);
    }

    const ALL: [Exit; 10] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotActive,
        Exit::Busy,
        Exit::Card,
        Exit::Missing,
        Exit::Lost,
        Exit::Interrupted,
        Exit::Newer,
    ];

    #[test]
    fn the_exit_codes_are_those_of_the_document() {
        let document = include_str!("../docs/use/commands.md");
        let table = document.split("| exit code | meaning |").nth(1).unwrap();
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
        let codes: Vec<u8> =
            rows.map(|row| row.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(codes, ALL.map(|exit| exit as u8));
        let meaning = |exit: Exit| {
            let row = format!("| {} | ", exit as u8);
            table.lines().find_map(|line| line.strip_prefix(row.as_str())).unwrap()
        };
        for (exit, word) in [
            (Exit::Done, "done"),
            (Exit::Failed, "failed"),
            (Exit::Usage, "command line"),
            (Exit::NotActive, "not on a cowflush stack"),
            (Exit::Busy, "another cowflush command"),
            (Exit::Card, "refused a write"),
            (Exit::Missing, "`check`"),
            (Exit::Lost, "lost"),
            (Exit::Interrupted, "signal"),
            (Exit::Newer, "newer"),
        ] {
            assert!(meaning(exit).contains(word), "{exit:?}: {}", meaning(exit));
        }
    }

    #[test]
    fn a_flush_that_failed_counts_and_one_that_was_not_begun_does_not() {
        let counted: Vec<Exit> = ALL.into_iter().filter(|exit| exit.is_failure()).collect();
        assert_eq!(counted, [Exit::Failed, Exit::Card, Exit::Lost, Exit::Newer]);
    }

    #[test]
    fn an_error_keeps_its_exit_code_whatever_is_said_with_it() {
        for exit in ALL {
            let error = Error::new("x", "y").exit(exit).advise("z.");
            assert_eq!(error.exit_code(), exit);
        }
    }

    #[test]
    fn every_error_number_gets_a_remedy_that_fits() {
        for (errno, word) in [
            (Errno::EACCES, "as root"),
            (Errno::EPERM, "as root"),
            (Errno::EBUSY, "in use"),
            (Errno::ENOENT, "name"),
            (Errno::ENODEV, "name"),
            (Errno::ENXIO, "name"),
            (Errno::ENOMEM, "Free some"),
            (Errno::ENOSPC, "room"),
            (Errno::EIO, "dmesg"),
        ] {
            let failed: std::io::Result<()> = Err(std::io::Error::from_raw_os_error(errno as i32));
            let said = failed.doing(|| "x").unwrap_err().to_string();
            assert!(said.contains(errno.desc()) && said.contains(word), "{said}");
        }
    }
}
