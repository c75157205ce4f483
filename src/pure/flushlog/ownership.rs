//! Whose log it is: which of the flush logs that are there is root's, and whether it may be used.
//!
//! Pure. The rule: the boot never ignores a log in silence that has flushes and may be root's, and
//! where two answers are possible it takes neither. Then root defers, and nothing reaches the card
//! until the owner has decided.

use crate::pure::flushlog::records::Uuid;
use crate::pure::units::{DevNo, Sectors};

/// A partition that could be a log's root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The disk that it is on, where that is known.
    pub disk: Option<DevNo>,
    /// Where it begins there; 0 for a whole disk, and where that is unknown.
    pub start: Sectors,
    /// Its size.
    pub size: Sectors,
    /// UUID of its filesystem; zeros when it has none, or none that can be read.
    pub uuid: Uuid,
}

impl Place {
    /// What the header of a log on `disk` says of this root; its UUID is `uuid` where none can be
    /// read.
    pub fn as_owner_of(&self, disk: Option<DevNo>, uuid: Uuid) -> Owner {
        let near = disk.is_some() && disk == self.disk;
        Owner {
            uuid: if self.uuid == [0; 16] { uuid } else { self.uuid },
            start: if near { self.start } else { Sectors(0) },
            size: self.size,
        }
    }
}

/// The root that a log was made for, by its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// UUID of its filesystem; zeros when it has none.
    pub uuid: Uuid,
    /// Where its partition begins on the log's own disk; 0: unknown, or it is on another one.
    pub start: Sectors,
    /// Its size.
    pub size: Sectors,
}

impl Owner {
    /// Whether the UUID agrees, wherever the partition is by now and however large. Without a UUID
    /// the size has to agree.
    fn by_uuid(&self, place: &Place) -> bool {
        self.uuid == place.uuid && (self.uuid != [0; 16] || self.size == place.size)
    }

    /// Whether the header says that root is at this place, given that the place is on the log's own
    /// disk.
    pub fn is_known_at(&self, place: &Place) -> bool {
        self.by_place(place) && self.size == place.size
    }

    /// Whether root stands where the header says, on the log's own disk.
    ///
    /// The filesystem may have another UUID by now, or may be torn.
    fn by_place(&self, place: &Place) -> bool {
        self.start != Sectors(0) && self.start == place.start
    }

    /// Compares sizes, for a log that does not know root's place.
    fn by_size(&self, place: &Place) -> bool {
        self.start == Sectors(0) && self.size == place.size
    }

    /// Whether a log with this header, on `disk`, belongs to `root`. `others` are all other
    /// partitions: a log belongs to its own disk's root before any other's, since a copied card has
    /// a copied log.
    pub fn is(&self, disk: Option<DevNo>, root: &Place, others: &[Place]) -> bool {
        if disk.is_none() || disk != root.disk {
            return self.by_uuid(root) && !self.is_at_home(disk, others);
        }
        let better =
            |other: &Place| other.disk == disk && self.by_uuid(other) && self.by_place(other);
        self.by_place(root)
            || self.by_uuid(root) && !others.iter().any(better)
            || self.by_size(root)
                && !others.iter().any(|other| other.uuid != [0; 16] && self.by_uuid(other))
    }

    /// Whether one of these partitions on the log's own disk is its root.
    pub fn is_at_home(&self, disk: Option<DevNo>, places: &[Place]) -> bool {
        let home =
            |place: &Place| place.disk == disk && (self.by_uuid(place) || self.by_place(place));
        disk.is_some() && places.iter().any(home)
    }

    /// Whether a log whose header does not name `root` may be root's, to be proven by root's
    /// superblock. A copy of the log's real root would pass the same proof.
    pub fn may_be_proven(&self, disk: Option<DevNo>, root: &Place, others: &[Place]) -> bool {
        let near = disk.is_some() && disk == root.disk;
        let same_size = |place: &Place| place.disk == disk && self.by_size(place);
        !self.is_at_home(disk, others)
            && (near || self.size == root.size && !others.iter().any(same_size))
    }
}

/// A partition that holds a log, or may hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The log's own UUID. The log of a copied card has the same.
    pub uuid: Uuid,
    /// The log is on root's disk.
    pub near: bool,
    /// The owner says that it is root's.
    pub named: bool,
    /// What is in it.
    pub holds: Holds,
}

/// What a candidate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A part can't be read, so the boot can't tell whether there is a log, or which.
    Unclear {
        /// The partition begins as a log does.
        marked: bool,
    },
    /// A log that was made for another root.
    Foreign,
    /// A log of this root with nothing in it.
    Empty,
    /// A log of this root with flushes in it.
    Flushes(Fit),
}

/// Whether root is still what a log's flushes were written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Root is what the log was written for.
    Fits,
    /// Another system wrote to root since.
    Changed,
    /// Root can't be read.
    Unknown,
}

/// What to do about the log. The numbers are indexes of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// There is none.
    None,
    /// This one is root's.
    Use(usize),
    /// This one is named, but was made for another root.
    Foreign(usize),
    /// This one has flushes that root does not fit any more. It stays as it is.
    Changed(usize),
    /// Each of these may have flushes of root. Nothing may be flushed until the owner has decided.
    Ambiguous(Vec<usize>),
    /// These can't be read. Nothing may be flushed until the owner has decided.
    Unclear(Vec<usize>),
}

impl Choice {
    /// Nothing may reach root until its owner has decided.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Ambiguous(_) | Self::Unclear(_))
    }
}

/// Decides which log to use. Of empty logs that are equal it takes the first.
pub fn choose(candidates: &[Candidate]) -> Choice {
    let find = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        let all = candidates.iter().enumerate();
        all.filter(|(_, candidate)| wanted(candidate)).map(|(index, _)| index).collect()
    };
    let holds = |holds: Holds| find(&|candidate| candidate.holds == holds);
    let fitting = one_of_copies(candidates, holds(Holds::Flushes(Fit::Fits)));
    let mut unclear = holds(Holds::Flushes(Fit::Unknown));
    let named = one_of_copies(candidates, find(&|candidate| candidate.named));
    match named.as_slice() {
        [] => {}
        &[index] => {
            let holds = candidates.get(index).map(|named| named.holds);
            let choice = match holds {
                Some(Holds::Flushes(Fit::Fits)) => return Choice::Use(index),
                Some(Holds::Flushes(Fit::Changed)) => Choice::Changed(index),
                Some(Holds::Foreign) => Choice::Foreign(index),
                Some(Holds::Empty) => Choice::Use(index),
                Some(Holds::Flushes(Fit::Unknown) | Holds::Unclear { .. }) | None => {
                    return Choice::Unclear(named);
                }
            };
            // A log without flushes for root never hides one that has them, not even when the owner
            // names it.
            let all = find(&|candidate| {
                let flushes = Holds::Flushes(Fit::Fits) == candidate.holds
                    || Holds::Flushes(Fit::Unknown) == candidate.holds;
                flushes
                    || candidates.get(index).is_some_and(|named| core::ptr::eq(named, candidate))
            });
            return if all.len() > 1 { Choice::Ambiguous(all) } else { choice };
        }
        _ => return Choice::Ambiguous(named),
    }
    match fitting.as_slice() {
        [] => {}
        &[index] => return Choice::Use(index),
        _ => return Choice::Ambiguous(fitting),
    }
    if !unclear.is_empty() {
        return Choice::Unclear(unclear);
    }
    let near_first = |indexes: Vec<usize>| {
        let near = |index: &&usize| candidates.get(**index).is_some_and(|found| found.near);
        indexes.iter().find(near).or(indexes.first()).copied()
    };
    if let Some(index) = near_first(holds(Holds::Flushes(Fit::Changed))) {
        return Choice::Changed(index);
    }
    // A log that was damaged may have had flushes. A partition that may hold anything, with a bad
    // first block, counts as a log only if there is no other one.
    let empty = near_first(holds(Holds::Empty));
    unclear = find(&|candidate| match candidate.holds {
        Holds::Unclear { marked } => {
            (candidate.near || empty.is_none()) && marked || candidate.near && empty.is_none()
        }
        _ => false,
    });
    match empty {
        _ if !unclear.is_empty() => Choice::Unclear(unclear),
        Some(index) => Choice::Use(index),
        None => Choice::None,
    }
}

/// Where all are copies of one log, the one on root's disk is meant.
fn one_of_copies(candidates: &[Candidate], indexes: Vec<usize>) -> Vec<usize> {
    let of = |index: &usize| candidates.get(*index);
    let first = indexes.first().and_then(of).map(|found| found.uuid);
    let copies = indexes.iter().all(|index| of(index).map(|found| found.uuid) == first);
    let near: Vec<usize> =
        indexes.iter().copied().filter(|index| of(index).is_some_and(|found| found.near)).collect();
    if copies && near.len() == 1 { near } else { indexes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: [Holds; 7] = [
        Holds::Unclear { marked: true },
        Holds::Unclear { marked: false },
        Holds::Foreign,
        Holds::Empty,
        Holds::Flushes(Fit::Fits),
        Holds::Flushes(Fit::Changed),
        Holds::Flushes(Fit::Unknown),
    ];

    /// Every candidate that there can be, with one of two UUIDs.
    fn any() -> Vec<Candidate> {
        let mut all = Vec::new();
        for holds in HOLDS {
            for (near, named, tag) in
                [0u8, 1, 2, 3, 4, 5, 6, 7].map(|bits| (bits & 1 != 0, bits & 2 != 0, bits >> 2))
            {
                all.push(Candidate { uuid: [tag; 16], near, named, holds });
            }
        }
        all
    }

    /// Calls `check` with every set of up to three candidates.
    fn every(mut check: impl FnMut(&[Candidate], Choice)) {
        let all = any();
        check(&[], choose(&[]));
        for (n, a) in all.iter().enumerate() {
            check(&[*a], choose(&[*a]));
            for (m, b) in all.iter().enumerate().skip(n) {
                check(&[*a, *b], choose(&[*a, *b]));
                for c in &all[m..] {
                    check(&[*a, *b, *c], choose(&[*a, *b, *c]));
                }
            }
        }
    }

    fn has_flushes(candidate: &Candidate) -> bool {
        matches!(candidate.holds, Holds::Flushes(Fit::Fits | Fit::Unknown))
    }

    #[test]
    fn a_log_with_flushes_that_may_be_roots_is_never_passed_over() {
        every(|candidates, choice| {
            let flushes = candidates.iter().any(has_flushes);
            let passed_over = match &choice {
                Choice::None => {
                    let told = |c: &Candidate| {
                        c.named || matches!(c.holds, Holds::Empty | Holds::Flushes(_))
                    };
                    assert!(!candidates.iter().any(told), "{candidates:?}");
                    flushes
                }
                Choice::Use(index) => flushes && !has_flushes(&candidates[*index]),
                Choice::Changed(_) | Choice::Foreign(_) => flushes,
                Choice::Ambiguous(_) | Choice::Unclear(_) => false,
            };
            assert!(!passed_over, "{choice:?} of {candidates:?}");
        });
    }

    #[test]
    fn only_a_log_that_fits_is_used_and_no_coin_is_tossed() {
        every(|candidates, choice| {
            let named: Vec<_> = candidates.iter().filter(|candidate| candidate.named).collect();
            match &choice {
                Choice::Use(index) => {
                    let used = candidates[*index];
                    assert!(matches!(used.holds, Holds::Empty | Holds::Flushes(Fit::Fits)));
                    assert!(used.named || named.is_empty(), "{candidates:?}");
                    // Another one with the same claim is a copy on another disk, or is empty.
                    for (at, other) in candidates.iter().enumerate() {
                        let rival = at != *index
                            && if used.named {
                                other.named
                            } else {
                                other.holds == Holds::Flushes(Fit::Fits)
                            };
                        let copy = used.near && !other.near && other.uuid == used.uuid;
                        assert!(!rival || copy, "{candidates:?}");
                    }
                }
                Choice::Ambiguous(all) => {
                    assert!(all.len() > 1, "{candidates:?}");
                    assert!(all.is_sorted());
                }
                Choice::Unclear(all) => {
                    assert!(!all.is_empty());
                    for index in all {
                        let holds = candidates[*index].holds;
                        let unclear =
                            matches!(holds, Holds::Unclear { .. } | Holds::Flushes(Fit::Unknown));
                        assert!(unclear, "{candidates:?}");
                    }
                }
                Choice::Foreign(index) => assert!(candidates[*index].named),
                Choice::Changed(_) | Choice::None => {}
            }
            assert_eq!(
                choice.is_open(),
                matches!(choice, Choice::Ambiguous(_) | Choice::Unclear(_))
            );
        });
    }

    #[test]
    fn the_order_in_which_devices_appear_decides_nothing_but_which_empty_log_is_taken() {
        every(|candidates, choice| {
            let mut turned = candidates.to_vec();
            turned.reverse();
            let back = |index: usize| candidates.len() - 1 - index;
            let same = match choose(&turned) {
                Choice::Use(index) => Choice::Use(back(index)),
                Choice::Foreign(index) => Choice::Foreign(back(index)),
                Choice::Changed(index) => Choice::Changed(back(index)),
                Choice::Ambiguous(mut all) | Choice::Unclear(mut all) => {
                    all = all.into_iter().map(back).collect();
                    all.sort_unstable();
                    match choice {
                        Choice::Ambiguous(_) => Choice::Ambiguous(all),
                        _ => Choice::Unclear(all),
                    }
                }
                Choice::None => Choice::None,
            };
            match (&choice, &same) {
                (Choice::Use(a), Choice::Use(b)) if a != b => {
                    assert_eq!([*a, *b].map(|at| candidates[at].holds), [Holds::Empty; 2]);
                    assert_eq!(candidates[*a].near, candidates[*b].near);
                }
                (Choice::Changed(a), Choice::Changed(b)) => {
                    assert_eq!(candidates[*a].near, candidates[*b].near);
                }
                _ => assert_eq!(choice, same, "{candidates:?}"),
            }
        });
    }

    fn log(near: bool, holds: Holds) -> Candidate {
        Candidate { uuid: [u8::from(near); 16], near, named: false, holds }
    }

    #[test]
    fn a_log_in_use_is_not_hidden_by_an_empty_one() {
        let (empty, flushes) = (log(true, Holds::Empty), log(true, Holds::Flushes(Fit::Fits)));
        assert_eq!(choose(&[empty, flushes]), Choice::Use(1));
        assert_eq!(choose(&[flushes, empty]), Choice::Use(0));
        // Nor one on another disk by one on root's.
        let far = log(false, Holds::Flushes(Fit::Fits));
        assert_eq!(choose(&[empty, far]), Choice::Use(1));
        assert_eq!(choose(&[flushes, far]), Choice::Ambiguous(vec![0, 1]));
        // Where root was changed since, the one that it still fits is the right one.
        let changed = log(true, Holds::Flushes(Fit::Changed));
        assert_eq!(choose(&[changed, far]), Choice::Use(1));
        assert_eq!(choose(&[changed, empty]), Choice::Changed(0));
        // The nearer of two that are empty.
        assert_eq!(choose(&[log(false, Holds::Empty), empty]), Choice::Use(1));
    }

    #[test]
    fn of_copies_of_one_log_the_one_on_roots_disk_is_meant() {
        for holds in [Holds::Empty, Holds::Flushes(Fit::Fits)] {
            let copy = Candidate { uuid: [7; 16], near: false, named: true, holds };
            let own = Candidate { near: true, ..copy };
            assert_eq!(choose(&[copy, own]), Choice::Use(1));
            assert_eq!(choose(&[copy, copy]), Choice::Ambiguous(vec![0, 1]));
            assert_eq!(choose(&[own, own]), Choice::Ambiguous(vec![0, 1]));
        }
    }

    #[test]
    fn what_can_not_be_read_is_not_taken_for_nothing() {
        let (marked, bare) = (Holds::Unclear { marked: true }, Holds::Unclear { marked: false });
        let empty = log(true, Holds::Empty);
        for (candidates, wanted) in [
            (vec![log(true, marked)], Choice::Unclear(vec![0])),
            (vec![log(true, bare)], Choice::Unclear(vec![0])),
            (vec![log(false, marked)], Choice::Unclear(vec![0])),
            // A card reader's disk that can't be read, far from root, says nothing.
            (vec![log(false, bare)], Choice::None),
            (vec![empty, log(true, marked)], Choice::Unclear(vec![1])),
            (vec![empty, log(true, bare)], Choice::Use(0)),
            (vec![empty, log(false, marked)], Choice::Use(0)),
            (vec![log(true, Holds::Flushes(Fit::Fits)), log(true, marked)], Choice::Use(0)),
        ] {
            assert_eq!(choose(&candidates), wanted, "{candidates:?}");
        }
    }

    const DISK: Option<DevNo> = Some(DevNo { major: 8, minor: 0 });
    const OTHER: Option<DevNo> = Some(DevNo { major: 8, minor: 16 });

    fn place(disk: Option<DevNo>, start: u64, size: u64, tag: u8) -> Place {
        Place { disk, start: Sectors(start), size: Sectors(size), uuid: [tag; 16] }
    }

    fn owner(start: u64, size: u64, tag: u8) -> Owner {
        Owner { uuid: [tag; 16], start: Sectors(start), size: Sectors(size) }
    }

    #[test]
    fn a_log_on_roots_disk_belongs_to_it_by_uuid_or_by_place() {
        let log = owner(2048, 1000, 1);
        let is = |root: Place| log.is(DISK, &root, &[]);
        assert!(is(place(DISK, 2048, 1000, 1)));
        assert!(is(place(DISK, 2048, 5000, 1)), "it has grown");
        assert!(is(place(DISK, 2048, 1000, 2)), "it has another UUID");
        assert!(is(place(DISK, 2048, 5000, 2)), "both");
        assert!(is(place(DISK, 4096, 900, 1)), "it was moved");
        assert!(is(place(DISK, 2048, 1000, 0)), "it is torn");
        assert!(!is(place(DISK, 4096, 1000, 2)), "another root");
        // A log that does not know the place has the size.
        let old = owner(0, 1000, 1);
        let is = |root: Place, others: &[Place]| old.is(DISK, &root, others);
        assert!(is(place(DISK, 2048, 5000, 1), &[]) && is(place(DISK, 2048, 1000, 2), &[]));
        assert!(!is(place(DISK, 2048, 5000, 2), &[]));
        // Of two systems of one size each has its own.
        assert!(!is(place(DISK, 4096, 1000, 2), &[place(DISK, 2048, 1000, 1)]));
    }

    #[test]
    fn a_log_belongs_to_its_own_disks_root_before_any_other() {
        let log = owner(2048, 1000, 1);
        let root = place(DISK, 2048, 1000, 1);
        assert!(log.is(OTHER, &root, &[]), "a log on a disk of its own");
        assert!(log.is(None, &root, &[]), "a disk that is not known");
        assert!(!log.is(OTHER, &place(DISK, 2048, 1000, 2), &[]), "a place on another disk");
        // A copied card.
        for copy in [place(OTHER, 2048, 1000, 1), place(OTHER, 2048, 1000, 0)] {
            assert!(!log.is(OTHER, &root, &[copy]));
            assert!(log.is(DISK, &root, &[copy]));
        }
        // A copy of root on the same disk, by whichever name it is booted.
        let (original, copy) = (place(DISK, 2048, 1000, 1), place(DISK, 4096, 1000, 1));
        assert!(log.is(DISK, &original, &[copy]) && !log.is(DISK, &copy, &[original]));
    }

    #[test]
    fn a_log_on_a_disk_of_its_own_is_not_taken_for_the_one_of_a_twin() {
        // The log's disk is divided like root's, and has no root of its own.
        let log = place(DISK, 2048, 1000, 1).as_owner_of(OTHER, [0; 16]);
        assert_eq!(log, owner(0, 1000, 1));
        let twin = place(OTHER, 2048, 1000, 5);
        assert!(log.is(OTHER, &place(DISK, 2048, 1000, 1), &[twin]));
        let near = place(DISK, 2048, 1000, 0).as_owner_of(DISK, [7; 16]);
        assert_eq!(near, owner(2048, 1000, 7), "a torn root keeps its UUID in the log");
    }

    #[test]
    fn what_a_copy_would_prove_as_well_proves_nothing() {
        let log = owner(2048, 1000, 1);
        // It was moved, and has another UUID.
        let root = place(DISK, 4096, 1000, 2);
        assert!(log.may_be_proven(DISK, &root, &[]));
        assert!(log.may_be_proven(DISK, &root, &[place(OTHER, 2048, 1000, 1)]));
        for original in [place(DISK, 2048, 1000, 0), place(DISK, 8192, 1000, 1)] {
            assert!(!log.may_be_proven(DISK, &root, &[original]));
        }
        // On another disk it has to be of that size at least, and no other may be.
        let far = owner(0, 1000, 1);
        assert!(far.may_be_proven(OTHER, &root, &[]) && far.may_be_proven(None, &root, &[]));
        assert!(!far.may_be_proven(OTHER, &place(DISK, 4096, 900, 2), &[]));
        assert!(!far.may_be_proven(OTHER, &root, &[place(OTHER, 2048, 1000, 5)]));
    }

    #[test]
    fn a_root_without_a_uuid_is_told_by_its_size() {
        let log = owner(0, 1000, 0);
        for disk in [DISK, OTHER] {
            assert!(log.is(disk, &place(DISK, 2048, 1000, 0), &[]));
            assert!(!log.is(disk, &place(DISK, 2048, 2000, 0), &[]));
        }
        assert!(!log.is(OTHER, &place(DISK, 2048, 1000, 5), &[]));
    }

    #[test]
    fn root_is_known_where_start_and_size_are_as_the_header_says() {
        let it = owner(8, 100, 7);
        let known = [
            place(DISK, 8, 100, 7),
            place(DISK, 8, 100, 9),
            place(DISK, 8, 99, 7),
            place(DISK, 9, 100, 7),
        ];
        assert_eq!(known.map(|root| it.is_known_at(&root)), [true, true, false, false]);
        assert!(!owner(0, 100, 7).is_known_at(&place(DISK, 0, 100, 7)), "it knows no place");
    }

    #[test]
    fn a_log_is_that_of_the_root_on_its_own_disk_which_fits_best() {
        let it = owner(8, 100, 7);
        let (moved, home) = (place(DISK, 500, 100, 7), place(DISK, 8, 100, 7));
        assert!(it.is(DISK, &moved, &[]), "by its UUID");
        assert!(!it.is(DISK, &moved, &[home]), "its copy is at home");
        // Another disk's, another UUID's, another place's is no better one.
        assert!(it.is(DISK, &moved, &[place(None, 8, 100, 7)]));
        assert!(it.is(DISK, &moved, &[place(DISK, 8, 100, 9), place(DISK, 600, 100, 7)]));
        let unplaced = owner(0, 100, 7);
        assert!(unplaced.is(DISK, &place(DISK, 8, 100, 9), &[]), "by its size");
        assert!(
            !unplaced.is(DISK, &place(DISK, 8, 100, 9), &[place(DISK, 600, 50, 7)]),
            "another has the UUID"
        );
        let unmade = owner(0, 100, 0);
        assert!(
            unmade.is(DISK, &place(DISK, 8, 100, 9), &[place(DISK, 600, 100, 0)]),
            "no UUID is none of its"
        );
    }

    #[test]
    fn a_log_on_another_disk_is_proven_only_if_no_other_root_is_as_large() {
        let it = owner(0, 100, 7);
        let far = place(None, 8, 100, 9);
        assert!(it.may_be_proven(DISK, &far, &[]));
        assert!(!it.may_be_proven(DISK, &far, &[place(DISK, 300, 100, 3)]));
        assert!(it.may_be_proven(DISK, &far, &[place(DISK, 300, 50, 3)]));
        assert!(it.may_be_proven(DISK, &far, &[place(None, 300, 100, 3)]));
        assert!(!it.may_be_proven(DISK, &Place { size: Sectors(99), ..far }, &[]));
    }
}
