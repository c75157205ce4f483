use super::*;
use crate::pure::cow::exception_store::Exception;
use crate::pure::flushlog::records::Mark;
use proptest::prelude::*;

impl Card {
    /// The end of the chain as an append would read it.
    fn read_last(&mut self, mark: &Mark) -> Option<Chain> {
        let header = header(self, CHUNKS).ok()?.header;
        Chain::read_last(self, header, mark)
    }

    /// What was appended since the chain ended so.
    fn since(&mut self, end: Link) -> Option<Chain> {
        let header = header(self, CHUNKS).ok()?.header;
        Chain::since(self, header, end)
    }
}

/// A log of `count` segments of one chunk each.
fn long(count: u64) -> Card {
    let mut card = Card::new(1);
    for number in 0..count {
        card.append(&[number % 7], number as u8);
    }
    card
}

#[test]
fn an_append_reads_as_much_of_a_long_log_as_of_a_short_one() {
    let reads = |count| {
        let mut card = long(count);
        let mark = card.chain().mark().unwrap();
        card.reads = 0;
        card.read_last(&mark).unwrap();
        card.reads
    };
    assert_eq!(reads(10), reads(90));
    // Two copies of the header, what is behind the last segment, and two chunks of each segment.
    assert_eq!(reads(90), 2 + 1 + 2 * (1 + u64::from(LOOKS)));
    assert_eq!(reads(1), 2 + 1 + 2);
}

#[test]
fn a_glance_finds_the_end_that_a_whole_look_finds() {
    for count in [1, 2, 9, 10, 40] {
        let mut card = long(count);
        let whole = card.chain();
        let mut mark = whole.mark().unwrap();
        // Whatever the turn is at.
        for _ in 0..count {
            let end = card.read_last(&mark).unwrap();
            assert_eq!((end.next, end.end, end.used()), (whole.next, whole.end, whole.used()));
            assert_eq!(end.segments.last(), whole.segments.last());
            let cursor = end.part.unwrap();
            assert!(cursor.position <= mark.before.position);
            mark.cursor = cursor;
        }
        // What was appended since changes the mark, and not the turn.
        let mut grown = card.read_last(&mark).unwrap();
        card.append(&[3], 200);
        assert!(card.read_last(&mark).is_none(), "it is more than the mark says");
        let after = card.chain();
        grown.segments.push(after.segments.last().unwrap().clone());
        let next = grown.mark().unwrap();
        let whole = after.mark().unwrap();
        assert_eq!(next.last, whole.last);
        assert_eq!(
            (next.before.id, next.before.position),
            (whole.before.id, whole.before.position)
        );
        assert_eq!(Some(next.cursor), grown.part);
        assert!(card.read_last(&next).is_some());
    }
    assert_eq!(long(0).chain().mark(), None);
}

#[test]
fn damage_anywhere_in_a_long_log_is_seen_after_as_many_appends_as_it_takes_to_look_at_all() {
    // The log grows meanwhile.
    let grown: Vec<Card> = (40..48).map(long).collect();
    for index in 0..39 {
        let chain = grown[0].clone().chain();
        let head = chain.segments[index].head;
        for place in [head.position, head.commit()] {
            // Wherever the turn is.
            for turn in [0, 7, 20, 38] {
                let before = chain.segments.iter().take(turn).next_back();
                let mut cursor =
                    before.map_or(chain.header.start, |before| chain.link_after(&before.head));
                let mut seen = false;
                for card in &grown {
                    let whole = card.clone().chain();
                    let mark = Mark { cursor, ..whole.mark().unwrap() };
                    let mut card = card.clone();
                    card.bytes[whole.ring.chunk(place) as usize * CHUNK_BYTES + 20] ^= 1;
                    let Some(end) = card.read_last(&mark) else {
                        seen = true;
                        break;
                    };
                    // Until then nothing misleads it.
                    assert_eq!(end.next, whole.next);
                    cursor = end.part.unwrap();
                }
                // A commit record that is damaged costs nothing while the data are right.
                assert_eq!(seen, place == head.position, "{index} {turn}");
            }
        }
    }
}

#[test]
fn a_mark_of_another_time_says_nothing() {
    let mut card = long(12);
    let old = card.chain().mark().unwrap();
    card.merge();
    assert!(card.read_last(&old).is_none(), "the log began anew");
    card.append(&[1], 1);
    let mark = card.chain().mark().unwrap();
    assert!(card.read_last(&mark).is_some());
    assert!(card.read_last(&Mark { last: mark.last ^ 1, ..mark }).is_none());
    let before = Link { id: 1, ..mark.before };
    assert!(card.read_last(&Mark { before, ..mark }).is_none());
    // A flush that was cut short stands behind it.
    card.tear(&[1, 2], 5, 2);
    assert!(card.read_last(&mark).is_none());
}

#[test]
fn a_last_segment_that_knows_less_of_root_than_all_is_no_mark() {
    let mut chain = long(3).chain();
    assert!(chain.mark().is_some());
    chain.segments[2].head.fingerprints = [Fingerprint::default(); 4];
    assert_eq!(chain.mark(), None);
}

#[test]
fn what_was_appended_to_a_long_log_is_read_without_the_rest() {
    let reads = |count| {
        let mut card = long(count);
        let end = card.chain().next;
        card.append(&[1, 2], 1);
        card.append(&[3], 2);
        card.reads = 0;
        assert_eq!(card.since(end).unwrap().segments.len(), 2);
        card.reads
    };
    // Two copies of the header, two chunks of each segment, the place behind them as a head and as
    // it was left.
    assert_eq!((reads(0), reads(90)), (2 + 2 * 2 + 2, 2 + 2 * 2 + 2));
}

proptest! {
    /// Reading what was appended since finds the same as reading the whole log, or nothing.
    #[test]
    fn what_was_appended_since_a_look_is_what_a_whole_look_finds_more(
        before in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 0..9),
        after in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 0..9),
        merged in any::<bool>(),
        torn in prop::option::of(0u64..9),
        flips in prop::collection::vec((0..160 * CHUNK_BYTES, 0u8..8), 0..2),
    ) {
        let mut card = Card::new(1);
        let put = |card: &mut Card, chunks: &std::collections::BTreeSet<u64>| {
            card.append(&chunks.iter().copied().collect::<Vec<_>>(), 1);
        };
        before.iter().for_each(|chunks| put(&mut card, chunks));
        let was = card.chain();
        if merged {
            card.merge();
        }
        after.iter().for_each(|chunks| put(&mut card, chunks));
        if let Some(count) = torn {
            card.tear(&[1, 2, 3], 2, count);
        }
        for (byte, bit) in &flips {
            card.bytes[*byte] ^= 1 << bit;
        }
        let same = header(&mut card, CHUNKS).is_ok_and(|now| now.header.start == was.header.start);
        match card.since(was.next).filter(|_| same) {
            None => prop_assert!(!same || torn.is_some() || !flips.is_empty()),
            Some(more) => {
                // A read that begins there does not see damage before it.
                let now = card.chain();
                if flips.is_empty() {
                    prop_assert_eq!(&more.segments[..], &now.segments[was.segments.len()..]);
                    prop_assert_eq!((more.next, now.end), (now.next, ChainEnd::Clean));
                    prop_assert_eq!(more.used(), now.used());
                }
            }
        }
    }

    /// A table that grew with each append is the one that a reader of the whole log makes.
    #[test]
    fn what_root_reads_may_be_taken_from_the_table_before(
        flushes in prop::collection::vec(prop::collection::btree_set(0u64..40, 0..9), 0..9),
    ) {
        let mut card = Card::new(1);
        let mut seen = Vec::new();
        for chunks in flushes {
            card.append(&chunks.into_iter().collect::<Vec<_>>(), 1);
            let chain = card.chain();
            seen = chain.last_over(seen);
            let live = chain.live();
            let live: Vec<_> = live.iter().map(|l| Exception { old: l.old, new: l.place }).collect();
            prop_assert_eq!(&seen, &live);
        }
    }

    /// Whatever became of the card since a mark was made: a write that trusts the mark comes behind
    /// all that counted then.
    #[test]
    fn a_glance_is_never_misled(
        flushes in prop::collection::vec(prop::collection::btree_set(0u64..1000, 0..9), 1..14),
        more in prop::option::of((prop::collection::btree_set(0u64..1000, 0..9), 0u64..14)),
        turn in 0usize..14,
        unreadable in prop::collection::btree_set(prop_oneof![9 => 0u64..160, 1 => Just(CHUNKS - 1)], 0..4),
        flips in prop::collection::vec((0..160 * CHUNK_BYTES, 0u8..8), 0..3),
    ) {
        let mut card = Card::new(1);
        for chunks in &flushes {
            card.append(&chunks.iter().copied().collect::<Vec<_>>(), 1);
        }
        let was = card.chain();
        let mut mark = was.mark().unwrap();
        let mut heads = was.segments.iter().take(turn.min(flushes.len() - 1));
        mark.cursor = heads.next_back().map_or(was.header.start, |one| was.link_after(&one.head));
        let mut grown = false;
        if let Some((chunks, count)) = &more {
            grown = card.tear(&chunks.iter().copied().collect::<Vec<_>>(), 2, *count);
        }
        for (byte, bit) in &flips {
            card.bytes[*byte] ^= 1 << bit;
        }
        card.fail(unreadable.iter().copied());
        let untouched = more.is_none() && flips.is_empty() && unreadable.is_empty();
        match card.read_last(&mark) {
            None => prop_assert!(!untouched),
            Some(end) => {
                prop_assert_eq!(end.next, was.next);
                prop_assert_eq!(&end.segments[..], &was.segments[was.segments.len() - 1..]);
                prop_assert!(!grown || !flips.is_empty());
                prop_assert_eq!(end.used(), was.used());
            }
        }
    }
}
