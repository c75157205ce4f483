use super::checked::TRIES;
use super::*;
use crate::pure::flushlog::records::BEHIND;

#[test]
fn what_can_be_read_at_the_third_try_is_read() {
    let (card, heads, ring) = three();
    let parts = heads.iter().flat_map(|head| head.position..=head.commit());
    let behind = heads[2].commit() + 1..heads[2].commit() + 1 + BEHIND;
    let all = parts.chain(behind).map(|at| ring.chunk(at)).chain([0, CHUNKS - 1]);
    for chunk in all {
        let mut shaky = card.clone();
        shaky.faults = BTreeMap::from([(chunk, TRIES - 1)]);
        let (mut chain, whole) = open(&mut shaky, CHUNKS, false).unwrap();
        assert!(whole);
        assert_eq!((chain.segments.len(), chain.end), (3, ChainEnd::Clean), "{chunk}");
        assert_eq!(chain.verify(&mut shaky).len(), 5);
        assert_eq!(chain.end, ChainEnd::Clean, "{chunk}");
    }
}

#[test]
fn what_stands_in_the_way_and_can_not_be_read_is_not_damaged() {
    let (card, heads, ring) = three();
    let second = heads[1];
    // Which chunk can't be read, how many flushes are found, and where it is noticed.
    let head = ring.chunk(second.position);
    let data = ring.chunk(second.data());
    for (chunk, counts, youngest) in
        [(head, 1, 3), (data, 1, 3), (ring.chunk(heads[2].data()), 2, 3)]
    {
        let mut worse = card.clone();
        worse.fail([chunk]);
        let mut chain = worse.chain();
        let live = chain.verify(&mut worse);
        assert_eq!(chain.segments.len(), counts, "{chunk}");
        assert!(!live.is_empty());
        // What the second replaced of the first counts again.
        let youngest = Some(youngest);
        assert_eq!(chain.end, ChainEnd::Unreadable { chunk, youngest });
        worse.fail([]);
        assert_eq!(worse.applied(), card.root);
    }
    // Data that were replaced are not missed, and only a look at everything finds them.
    let mut worse = card.clone();
    let replaced = ring.chunk(second.data() + 1);
    worse.fail([replaced]);
    let mut chain = worse.chain();
    assert_eq!((chain.verify(&mut worse).len(), chain.end), (5, ChainEnd::Clean));
    assert_eq!(chain.verify_all(&mut worse), [Bad { place: replaced, unreadable: true }]);
}

#[test]
fn what_turns_out_wrong_behind_something_unreadable_is_not_lost_yet() {
    let (mut card, heads, ring) = three();
    // The third replaces it, and can't be read now.
    card.put(ring.chunk(heads[1].data() + 1), b"wrong");
    let third = ring.chunk(heads[2].data());
    card.fail([third]);
    let mut chain = card.chain();
    chain.verify(&mut card);
    assert_eq!(chain.segments.len(), 1);
    assert!(matches!(chain.end, ChainEnd::Unreadable { youngest: Some(3), .. }), "{:?}", chain.end);
    card.fail([]);
    assert_eq!(card.applied(), card.root);
    // Of a segment that has both, all is lost.
    card.put(ring.chunk(heads[2].data()), b"wrong");
    card.fail([ring.chunk(heads[2].data() + 1)]);
    let mut chain = card.chain();
    chain.verify(&mut card);
    assert!(matches!(chain.end, ChainEnd::Damaged(Damage { youngest: 3, .. })), "{:?}", chain.end);
}

#[test]
fn one_chunk_that_can_not_be_read_in_free_space_holds_up_nothing() {
    let (card, heads, ring) = three();
    let end = heads[2].commit() + 1;
    for at in end..end + 20 {
        // It was unreadable before the last flush: that reckons with it.
        let mut before = card.clone();
        before.fail([ring.chunk(at + 4)]);
        before.append(&[7], 13);
        assert_eq!(
            (before.chain().segments.len(), before.chain().end),
            (4, ChainEnd::Clean),
            "{at}"
        );
        // Or became so after it, as a power cut leaves it, with the start of a segment or without.
        for torn in [None, Some(0), Some(1), Some(3)] {
            let mut after = card.clone();
            if let Some(count) = torn {
                after.tear(&[7, 8, 9, 10], 13, count);
            }
            after.fail([ring.chunk(at)]);
            let commit = torn.is_some_and(|count| count > 0) && at == end + 5;
            for in_use in [false, true] {
                let (chain, _) = open(&mut after, CHUNKS, in_use).unwrap();
                assert_eq!(chain.segments.len(), 3);
                let hidden = matches!(chain.end, ChainEnd::Unreadable { .. });
                // If the place of its commit record can't be read, the answer is unknown.
                assert_eq!(hidden, commit, "{at} {torn:?} {in_use} {:?}", chain.end);
            }
            if !commit {
                // What is written over it heals it.
                after.append(&[7, 8, 9, 10, 11, 12], 14);
                assert_eq!((after.chain().segments.len(), after.chain().end), (4, ChainEnd::Clean));
                assert_eq!(after.applied(), after.root);
            }
        }
    }
}

#[test]
fn a_small_flush_of_which_nothing_can_be_read_is_not_passed_over() {
    let (card, heads, ring) = three();
    let third = heads[2];
    let mut worse = card.clone();
    worse.fail((third.position..=third.commit()).map(|at| ring.chunk(at)));
    let chain = worse.chain();
    let chunk = ring.chunk(third.position);
    assert_eq!(chain.segments.len(), 2);
    assert_eq!(chain.end, ChainEnd::Unreadable { chunk, youngest: None });
    // What is begun anew then is younger than what was not seen.
    let mut anew = chain.clone();
    anew.skip_unseen();
    assert!(anew.next.sequence > third.sequence);
}
