use super::*;
use crate::pure::flushlog::records::BEHIND;
use proptest::prelude::*;

#[test]
fn damage_in_a_log_in_use_is_not_taken_for_a_flush_that_was_cut_short() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let (chain, before) = (card.chain(), card.bytes.clone());
    let second = card.append(&[1, 2], 11);
    card.append(&[3], 12);
    // Data and commit record: what stood there before, as if it had never been complete.
    for position in [second.data() + 1, second.commit()] {
        let place = chain.ring.chunk(position);
        let at = place as usize * CHUNK_BYTES;
        card.put(place, &before[at..at + CHUNK_BYTES]);
    }
    let found = Chain::read_in_use(&mut card, chain.header).unwrap();
    assert!(matches!(found.end, ChainEnd::Damaged(_)), "{:?}", found.end);
}

#[test]
fn a_damaged_head_is_told_from_a_cut_flush() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let second = card.append(&[1, 2], 11);
    card.append(&[3], 12);
    let place = card.chain().ring.chunk(second.position);
    card.put(place, &[0; CHUNK_BYTES]);
    let chain = card.chain();
    assert_eq!(chain.segments.len(), 1);
    let lost = Damage { chunk: place, what: DamagedPart::Head, youngest: 3 };
    assert_eq!(chain.end, ChainEnd::Damaged(lost));
    // What is appended now has nothing to do with the third segment.
    card.append(&[1, 2], 13);
    let chain = card.chain();
    assert_eq!((chain.segments.len(), chain.end), (2, ChainEnd::Clean));
    assert_eq!(chain.segments[1].head.sequence, 4);
    assert_eq!(card.applied(), BTreeMap::from([(1, 13), (2, 13)]));
}

#[test]
fn damaged_data_end_the_chain_unless_they_were_replaced() {
    let mut card = Card::new(1);
    let first = card.append(&[1, 2], 10);
    let second = card.append(&[2, 3], 11);
    card.append(&[3, 4], 12);
    let ring = card.chain().ring;
    // The third segment replaces chunk 3 of the second, so it is not read.
    card.put(ring.chunk(second.data() + 1), b"x");
    let mut chain = card.chain();
    assert_eq!((chain.verify(&mut card.clone()).len(), chain.end), (4, ChainEnd::Clean));
    let wrong = Bad { place: ring.chunk(second.data() + 1), unreadable: false };
    assert_eq!(chain.verify_all(&mut card), [wrong]);
    // With the third gone it counts again, and ends the chain earlier.
    let mut broken = card.clone();
    let third = chain.segments[2].head;
    broken.put(ring.chunk(third.data()), b"x");
    let mut chain = broken.chain();
    assert_eq!(chain.verify(&mut broken).len(), 2);
    assert_eq!(chain.segments.len(), 1);
    assert!(matches!(
        chain.end,
        ChainEnd::Damaged(Damage { what: DamagedPart::Data, youngest: 3, .. })
    ));
    broken.put(ring.chunk(first.data()), b"x");
    assert!(broken.applied().is_empty());
}

#[test]
fn a_segment_whose_start_was_never_written_is_found_by_a_full_search() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let before = card.clone();
    let lost = card.append(&(0..40).collect::<Vec<_>>(), 11);
    let ring = card.chain().ring;
    // The card says that it has everything, but lost what it got first.
    for position in lost.position..lost.position + BEHIND {
        let at = ring.chunk(position) as usize * CHUNK_BYTES;
        let old = before.bytes[at..at + CHUNK_BYTES].to_vec();
        card.put(ring.chunk(position), &old);
    }
    let mut chain = card.chain();
    assert_eq!(chain.end, ChainEnd::Clean, "a boot can't see it");
    assert!(chain.verify_all(&mut card).is_empty());
    assert!(matches!(chain.end, ChainEnd::Damaged(Damage { youngest: 2, .. })));
}

proptest! {
    #[test]
    fn what_can_not_be_read_is_never_called_lost_nor_passed_over(
        flushes in prop::collection::vec(
            (prop::collection::btree_set(0u64..1000, 0..20), any::<u8>()), 0..5),
        torn in prop::option::of(
            (prop::collection::btree_set(0u64..1000, 0..20), any::<u8>(), 0u64..25)),
        unreadable in prop::collection::btree_set(
            prop_oneof![4 => 0u64..100, 1 => Just(CHUNKS - 1)], 0..6),
        flip in prop::option::of((0..100 * CHUNK_BYTES, 0u8..8)),
        in_use: bool,
    ) {
        let mut card = Card::new(1);
        let mut states = vec![BTreeMap::new()];
        for (chunks, value) in &flushes {
            card.append(&chunks.iter().copied().collect::<Vec<_>>(), *value);
            states.push(card.root.clone());
        }
        let good = card.clone();
        let mut place = None;
        if let Some((chunks, value, count)) = &torn {
            let chain = card.chain();
            let list: Vec<_> = chunks.iter().copied().collect();
            place = Some(chain.ring.chunk(chain.next.position + segment_chunks(list.len() as u32) - 1));
            if card.tear(&list, *value, *count) {
                let mut root = good.root.clone();
                root.extend(list.iter().map(|chunk| (*chunk, *value)));
                states.push(root);
            }
        }
        if let Some((byte, bit)) = flip {
            card.bytes[byte] ^= 1 << bit;
        }
        card.fail(unreadable.iter().copied());
        let read = |card: &mut Card| {
            let (mut chain, _) = open(card, CHUNKS, in_use)?;
            let live = chain.verify(card);
            let root: BTreeMap<_, _> =
                live.iter().map(|live| (live.old, card.bytes[live.place as usize * 4096])).collect();
            Ok::<_, LogError>((chain, root))
        };
        match read(&mut card) {
            Err(error) => prop_assert!(matches!(error, LogError::Unreadable(_)), "{error:?}"),
            Ok((chain, root)) => {
                prop_assert!(states.contains(&root));
                let hidden = matches!(chain.end, ChainEnd::Unreadable { .. });
                let damaged = matches!(chain.end, ChainEnd::Damaged(_));
                prop_assert!(flip.is_some() || !damaged, "{:?}", chain.end);
                if chain.segments.len() < flushes.len() {
                    prop_assert!(hidden || damaged, "{:?}", chain.end);
                } else if flip.is_none() && unreadable.len() <= 1 {
                    // One such chunk holds up nothing.
                    let told = unreadable.first().is_none_or(|chunk| Some(*chunk) != place);
                    prop_assert!(!(hidden && told), "{:?}", chain.end);
                }
            }
        }
        if flip.is_none() {
            card.fail([]);
            let (chain, root) = read(&mut card).unwrap();
            prop_assert!(chain.segments.len() >= flushes.len());
            prop_assert_eq!(&root, &states[chain.segments.len()]);
        }
    }

    #[test]
    fn a_flipped_bit_never_yields_a_state_that_never_was(
        flushes in prop::collection::vec(
            (prop::collection::btree_set(0u64..1000, 1..30), any::<u8>()), 1..5),
        byte in 0..CHUNKS as usize * CHUNK_BYTES,
        bit in 0u8..8,
    ) {
        let mut card = Card::new(1);
        let mut states = vec![BTreeMap::new()];
        for (chunks, value) in &flushes {
            card.append(&chunks.iter().copied().collect::<Vec<_>>(), *value);
            states.push(card.root.clone());
        }
        let mut damaged = card.clone();
        damaged.bytes[byte] ^= 1 << bit;
        let mut chain = damaged.chain();
        let live = chain.verify(&mut damaged);
        let applied: BTreeMap<_, _> = live
            .iter()
            .map(|live| (live.old, damaged.bytes[live.place as usize * 4096]))
            .collect();
        prop_assert!(states.contains(&applied));
        // Less than everything is never silent.
        if chain.segments.len() < flushes.len() {
            prop_assert!(matches!(chain.end, ChainEnd::Damaged(_)), "{:?}", chain.end);
        }
    }

    #[test]
    fn any_bytes_are_a_chain(
        pieces in prop::collection::vec((0u64..CHUNKS, any::<u64>()), 0..20),
    ) {
        let mut card = Card::new(1);
        card.append(&[1, 5, 9], 10);
        card.append(&[5, 7], 11);
        for (chunk, value) in pieces {
            card.put(chunk, &value.to_le_bytes());
        }
        if let Ok(found) = header(&mut card, CHUNKS) {
            let mut chain = Chain::read(&mut card, found.header).unwrap();
            let live = chain.verify(&mut card);
            for live in live {
                prop_assert!(live.place > 0 && live.place < CHUNKS - 1);
            }
        }
    }
}
