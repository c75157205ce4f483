//! Compares the log on the card with what root reads through it, before anything is written to the
//! log in use or to root past it. [`crate::pure::flushlog::agree`] decides.

use super::append::entries;
use super::{FlushLog, READ_AGAIN};
use crate::error::{Error, Exit, Result};
use crate::flush::view;
use crate::pure::cow::exception_store::Exception;
use crate::pure::crc::crc32c;
use crate::pure::flushlog::agree::{self, Act, Agreement, Extra, Go};
use crate::pure::flushlog::chain::ChainEnd;
use crate::pure::stack::{Device, Name, Stack};
use crate::sys::block;
use crate::sys::disk::Disk;

/// The log in use, and how the write may proceed.
pub struct Compared {
    /// The log. `None`: it can't be used, and the write may proceed all the same.
    pub log: Option<FlushLog>,
    /// How the write may proceed.
    pub go: Go,
}

/// Whether `act` may be done with the stack's log; `forget`: the owner allowed that flushes are
/// dropped that root does not have. `sealed` is what is to be appended, and the disk that it is on.
pub fn check(
    stack: &Stack,
    act: Act,
    forget: bool,
    sealed: Option<(&[Exception], &mut Disk)>,
) -> Result<Compared> {
    let on = |log| Ok(Compared { log, go: Go::On });
    let Some(partition) = stack.log_partition() else { return on(None) };
    // If the log ends as root's table of it says, both hold the same, which is enough for an
    // append. Only otherwise is all of the log read, to learn what differs.
    let mark = (act == Act::Append).then(|| view::mark(stack)).flatten();
    if let Some(log) = mark.and_then(|mark| FlushLog::open_at(&block::path(partition), &mark)) {
        return on(Some(log));
    }
    let seen = view::seen(stack)?;
    let mut log = match FlushLog::open_in_use(&block::path(partition)) {
        Ok(log) => log,
        Err(error) => {
            // A log that can't be read may hold flushes that root does not have; a damaged one does
            // not any more.
            let damaged = !error.exit_code().may_be_intact();
            let past = match act {
                Act::Append => false,
                Act::Merge | Act::Retire => damaged || forget,
            };
            return match error.exit_code() {
                _ if past => on(None),
                Exit::Newer => Err(error),
                _ => Err(without(error, damaged)),
            };
        }
    };
    let mut agreement = agree::compare(&log.chain, &seen);
    if let Agreement::More(_) = agreement {
        // The boot verified the data as well, and may have ended the chain at damaged data.
        log.verify();
        agreement = agree::compare(&log.chain, &seen);
    }
    let extra = match agreement {
        Agreement::More(from) => log.extra(stack, from, sealed)?,
        Agreement::Hidden if log.is_stale(stack)? => Extra::Stale,
        _ => Extra::Missing,
    };
    if agreement == Agreement::Less {
        log.chain.skip_unseen();
    }
    match agree::verdict(act, agreement, extra, forget) {
        Ok(go) => Ok(Compared { log: Some(log), go }),
        Err(agreement) => Err(log.refuse(act, agreement)),
    }
}

impl FlushLog {
    /// What the segments from number `from` on are.
    fn extra(
        &mut self,
        stack: &Stack,
        from: usize,
        sealed: Option<(&[Exception], &mut Disk)>,
    ) -> Result<Extra> {
        if let (Some((table, cow)), Some([one])) = (sealed, self.chain.segments.get(from..))
            && one.table.len() == table.len()
            && entries(table, cow)? == one.table
        {
            return Ok(Extra::Sealed);
        }
        if self.is_stale(stack)? {
            return Ok(Extra::Stale);
        }
        Ok(if self.is_held(stack, from)? { Extra::Held } else { Extra::Missing })
    }

    /// Whether root does not read the log, and was written to past it since.
    fn is_stale(&self, stack: &Stack) -> Result<bool> {
        match stack.card() {
            Some((card, _)) if !stack.is_under_root(Name::Logged) => {
                Ok(!self.fits(&mut Disk::open(&block::path(card))?)?)
            }
            _ => Ok(false),
        }
    }

    /// Whether what the segments from `from` on hold is all on the card or in what root reads over
    /// it.
    fn is_held(&self, stack: &Stack, from: usize) -> Result<bool> {
        let upper = [Name::Sealed, Name::Logged, Name::Origin];
        let upper = upper.into_iter().filter(|name| stack.is_under_root(*name));
        let upper =
            upper.filter_map(|name| stack.device(name)).map(|device: &Device| device.number);
        let places = upper.take(1).chain(stack.card().map(|(card, _)| card));
        let mut places =
            places.map(|device| Disk::open(&block::path(device))).collect::<Result<Vec<_>>>()?;
        for live in self.chain.live().iter().filter(|live| live.segment >= from) {
            let has = |place: &mut Disk| Ok(crc32c(&place.chunk(live.old)?) == live.crc);
            let found: Result<Vec<bool>> = places.iter_mut().map(has).collect();
            if !found?.contains(&true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The error that says why nothing is written, and what to do.
    pub(super) fn refuse(&self, act: Act, agreement: Agreement) -> Error {
        let what = match act {
            Act::Append => "append to the flush log",
            Act::Merge => "merge the flush log",
            Act::Retire => "write to root past the flush log",
        };
        let path = self.path().display();
        let (cause, advice) = match (agreement, self.chain.end) {
            (Agreement::Less, ChainEnd::Unreadable { chunk, .. }) => {
                (format!("its chunk {chunk} on {path} can't be read any more"), LESS_UNREADABLE)
            }
            (Agreement::Less, _) => (
                format!(
                    "{path} does not hold any more what root reads through it: it was damaged since the boot"
                ),
                LESS,
            ),
            (Agreement::Hidden, _) => (self.hidden().unwrap_or_default(), HIDDEN),
            _ => (
                format!(
                    "{path} holds flushes up to {} that root does not have: they could not be read at \
                     the boot",
                    self.chain.next.sequence
                ),
                MORE,
            ),
        };
        Error::new(what, cause).advise(advice).exit(Exit::Card)
    }
}

/// The error for a log that can't be used at all.
fn without(error: Error, damaged: bool) -> Error {
    error.advise(if damaged { DAMAGED } else { READ_AGAIN }).exit(Exit::Card)
}

const LESS_UNREADABLE: &str = "Nothing is lost and nothing was written: root has all of it, and what is in RAM stays \
    there. Look for the card's errors in the kernel log (dmesg), and whether it sits well in its slot; then run \
    `cowflush flush` to try again. If it stays so, `cowflush merge` writes what root reads to the card and begins the \
    log anew; a power cut during that can tear root.";
const LESS: &str = "Nothing is lost and nothing was written: root has all of it, and what is in RAM stays there. \
    `cowflush merge` writes what root reads to the card and begins the log anew; a power cut before the end of that \
    loses those flushes, or can tear root. Look for the card's errors in the kernel log (dmesg).";
const HIDDEN: &str = "Nothing is known to be lost, and nothing was written: what is in RAM stays there, and what is in the \
    log, too. Look for the card's errors in the kernel log (dmesg), and whether it sits well in its slot; then reboot to \
    have those flushes: what was written since the boot is in RAM only, so copy that to another machine before. To go on \
    without them, for good: `cowflush flush --direct`.";
const MORE: &str = "Nothing is lost, and nothing was written. Reboot to have them: what was written since the boot is in \
    RAM only, so copy that to another machine before. Or keep root as it is now and drop those flushes for good: \
    `cowflush flush --direct`.";
const DAMAGED: &str = "Nothing was written, and what is in RAM stays there. `cowflush flush --direct` writes what root \
    reads to the card, without the log; a power cut during that can tear root. After that `cowflush log format DEVICE \
    --over cowflush-log`, at the next boot with cowflush.log=none, makes the log anew.";
