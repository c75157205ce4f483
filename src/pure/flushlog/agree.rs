//! Whether a log on the card still holds what root reads through it, and what may be written then.
//!
//! Root reads the log by a table in RAM, made when the log was last read well. A later reading of
//! the log may differ: something in it was damaged, can't be read any more, or can be read again. A
//! write that trusts one such reading may overwrite what root reads, or forget flushes that root
//! does not have. So before anything is written to the log, or to root past it, the two are
//! compared, and [`verdict`] alone decides.

use super::chain::{Chain, ChainEnd, Live};
use crate::pure::cow::exception_store::Exception;

/// How a log and what root reads through it agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Root reads what counts in the log, and there is no more.
    Same,
    /// The log can't be read to its end: there may be flushes that root does not have.
    Hidden,
    /// The log holds more: root does not have what begins at this segment.
    More(usize),
    /// Root reads what the log does not hold any more.
    Less,
}

/// Compares a chain with what root reads: which chunk of root stands at which place in the log's
/// partition, ascending.
pub fn compare(chain: &Chain, seen: &[Exception]) -> Agreement {
    let place = |live: &Live| Exception { old: live.old, new: live.place };
    let same = |live: &[Live]| live.iter().map(place).eq(seen.iter().copied());
    let count = chain.segments.len();
    // The longest part that is the same: an empty segment makes no difference.
    let part = (0..=count).rev().find(|part| same(&chain.live_until(*part)));
    match part {
        None => Agreement::Less,
        Some(_) if matches!(chain.end, ChainEnd::Unreadable { .. }) => Agreement::Hidden,
        Some(part) if part == count => Agreement::Same,
        Some(part) => Agreement::More(part),
    }
}

/// What is known of the segments that root does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The log has one segment more, of just what is sealed now: it was appended, and something
    /// failed after that.
    Sealed,
    /// All that they hold is on the card or in what is sealed.
    Held,
    /// Root was written to past them since, so they are stale.
    Stale,
    /// The log has flushes that root does not have.
    Missing,
}

/// What is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A segment, to the log.
    Append,
    /// What root reads through the log, to root; then the log begins anew.
    Merge,
    /// Something to root past the log, which begins anew before.
    Retire,
}

/// How the write may proceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Nothing stands against it.
    On,
    /// The log has the segment already: it only has to be made durable.
    Again,
    /// What the log holds has to be dropped first.
    Anew,
}

/// Decides whether something may be written. `forget`: the owner allowed that flushes are dropped
/// that root does not have. `Err` says what stands against it.
pub fn verdict(
    act: Act,
    agreement: Agreement,
    extra: Extra,
    forget: bool,
) -> Result<Go, Agreement> {
    match (agreement, extra, act) {
        (Agreement::Same, ..) => Ok(Go::On),
        (Agreement::More(_), Extra::Sealed, Act::Append) => Ok(Go::Again),
        (Agreement::More(_) | Agreement::Hidden, Extra::Stale, Act::Append) => Ok(Go::Anew),
        (Agreement::More(_) | Agreement::Hidden, Extra::Stale, _) => Ok(Go::On),
        (Agreement::More(_), Extra::Sealed | Extra::Held, _) => Ok(Go::On),
        // By the kernel's table nothing is forgotten that root reads.
        (Agreement::Less, _, Act::Merge) => Ok(Go::On),
        (Agreement::Hidden | Agreement::More(_), _, Act::Merge | Act::Retire) if forget => {
            Ok(Go::On)
        }
        _ => Err(agreement),
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::{Damage, DamagedPart};
    use super::super::records::{Entry, Head, Header, Link};
    use super::super::ring::Ring;
    use super::super::segment::Segment;
    use super::*;

    /// A chain of segments with these chunks of root each, and what root reads of the first `seen`
    /// of them.
    fn chain(segments: &[&[u64]], end: ChainEnd) -> Chain {
        let header = Header { chunks: 1000, align: 1, ..Header::default() };
        let ring = Ring::new(1000, 1).unwrap();
        let mut position = 0;
        let segments = segments.iter().map(|olds| {
            let table: Vec<_> = olds.iter().map(|old| Entry { old: *old, crc: 0 }).collect();
            let head = Head { position, count: table.len() as u32, ..Head::default() };
            position = head.commit() + 1;
            Segment { head, table, committed: true }
        });
        let segments = segments.collect();
        Chain {
            header,
            ring,
            segments,
            end,
            next: Link { position, ..Link::default() },
            part: None,
        }
    }

    fn seen(chain: &Chain, part: usize) -> Vec<Exception> {
        let live = chain.live_until(part);
        live.iter().map(|live| Exception { old: live.old, new: live.place }).collect()
    }

    const DAMAGED: ChainEnd =
        ChainEnd::Damaged(Damage { chunk: 9, what: DamagedPart::Head, youngest: 9 });
    const UNREADABLE: ChainEnd = ChainEnd::Unreadable { chunk: 9, youngest: None };

    #[test]
    fn a_log_is_compared_with_what_root_reads() {
        let segments: [&[u64]; 4] = [&[1, 2], &[2, 3], &[], &[1]];
        for end in [ChainEnd::Clean, ChainEnd::Torn, DAMAGED, UNREADABLE] {
            let whole = chain(&segments, end);
            for read in 0..=4 {
                let now = chain(&segments[..read], end);
                for part in 0..=4 {
                    // The third segment is empty.
                    let same = |a: usize, b: usize| a == b || (a.min(b), a.max(b)) == (2, 3);
                    let wanted = match () {
                        () if part > read && !same(part, read) => Agreement::Less,
                        () if end == UNREADABLE => Agreement::Hidden,
                        () if same(part, read) => Agreement::Same,
                        () if part == 2 => Agreement::More(3),
                        () => Agreement::More(part),
                    };
                    assert_eq!(compare(&now, &seen(&whole, part)), wanted, "{read} {part} {end:?}");
                }
            }
            // The same chunks of root at other places.
            let moved = |e: Exception| Exception { new: e.new + 1, ..e };
            let other: Vec<_> = seen(&whole, 4).into_iter().map(moved).collect();
            assert_eq!(compare(&whole, &other), Agreement::Less);
        }
    }

    #[test]
    fn nothing_is_written_that_forgets_what_root_does_not_have_unless_the_owner_says_so() {
        use Agreement::{Hidden, Less, More, Same};
        let acts = [Act::Append, Act::Merge, Act::Retire];
        let extras = [Extra::Sealed, Extra::Held, Extra::Stale, Extra::Missing];
        for act in acts {
            for extra in extras {
                for forget in [false, true] {
                    let of = |agreement| verdict(act, agreement, extra, forget);
                    assert_eq!(of(Same), Ok(Go::On));
                    // What root reads is overwritten by nothing, whatever the owner says.
                    let less = if act == Act::Merge { Ok(Go::On) } else { Err(Less) };
                    assert_eq!(of(Less), less);
                    let told = forget && act != Act::Append;
                    let hidden = match (extra, act) {
                        (Extra::Stale, Act::Append) => Ok(Go::Anew),
                        (Extra::Stale, _) => Ok(Go::On),
                        _ if told => Ok(Go::On),
                        _ => Err(Hidden),
                    };
                    assert_eq!(of(Hidden), hidden, "{act:?} {extra:?} {forget}");
                    let more = match (extra, act) {
                        (Extra::Sealed, Act::Append) => Ok(Go::Again),
                        (Extra::Stale, Act::Append) => Ok(Go::Anew),
                        (Extra::Missing, _) if !told => Err(More(1)),
                        _ => Ok(Go::On),
                    };
                    assert_eq!(of(More(1)), more, "{act:?} {extra:?} {forget}");
                }
            }
        }
    }
}
