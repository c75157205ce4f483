use super::*;
use crate::pure::flushlog::records::BEHIND;

#[test]
fn segments_are_found_in_order_and_the_youngest_data_wins() {
    let mut card = Card::new(1);
    assert_eq!((card.chain().segments.len(), card.chain().end), (0, ChainEnd::Clean));
    card.append(&[1, 2, 3], 10);
    card.append(&[2, 900], 11);
    let chain = card.chain();
    assert_eq!((chain.segments.len(), chain.end), (2, ChainEnd::Clean));
    assert_eq!(chain.used(), 5 + 4);
    assert_eq!(card.applied(), BTreeMap::from([(1, 10), (2, 11), (3, 10), (900, 11)]));
}

#[test]
fn a_segment_may_go_over_the_rings_end_and_a_merge_starts_where_it_left_off() {
    for align in [1, 32] {
        let mut card = Card::new(align);
        for round in 0..9 {
            let chunks: Vec<u64> = (0..100).map(|n| n * 2 + round).collect();
            card.append(&chunks, round as u8);
            assert_eq!(card.applied(), card.root, "round {round}");
            card.merge();
            let chain = card.chain();
            assert_eq!((chain.segments.len(), chain.used(), chain.end), (0, 0, ChainEnd::Clean));
        }
        assert!(card.header.start.position > 3 * card.chain().ring.length);
    }
}

#[test]
fn a_small_segment_costs_two_reads() {
    let mut card = Card::new(1);
    let empty = {
        card.reads = 0;
        card.chain();
        card.reads
    };
    for n in 0..20 {
        card.append(&[n, 30], 10);
    }
    card.reads = 0;
    assert_eq!(card.chain().segments.len(), 20);
    // Its head and its commit record.
    assert_eq!(card.reads, empty + 20 * 2);
}

#[test]
fn an_unfinished_segment_is_dropped() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let chain = card.chain();
    let head = card.write(&chain, &[1, 2], 11);
    // Everything but the commit record got there: that is the new state, complete.
    assert_eq!(card.applied(), BTreeMap::from([(1, 11), (2, 11)]));
    assert!(!card.chain().segments[1].committed);
    card.put(chain.ring.chunk(head.data() + 1), b"not yet");
    assert_eq!(card.chain().end, ChainEnd::Torn);
    assert_eq!(card.applied(), BTreeMap::from([(1, 10)]));
    // The next flush writes over it.
    card.append(&[7], 12);
    assert_eq!(card.applied(), BTreeMap::from([(1, 10), (7, 12)]));
    assert_eq!(card.chain().end, ChainEnd::Clean);
}

#[test]
fn a_flush_that_was_cut_short_is_passed_by_without_a_search_while_the_log_is_in_use() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let chain = card.chain();
    let cut = card.write(&chain, &[1, 2], 11);
    card.put(chain.ring.chunk(cut.data() + 1), b"not yet");
    card.reads = 0;
    let searched = card.chain();
    let long = card.reads;
    card.reads = 0;
    let passed = Chain::read_in_use(&mut card, searched.header).unwrap();
    assert_eq!((passed.end, &passed.segments), (ChainEnd::Torn, &searched.segments));
    assert!(card.reads < 10 && card.reads < long, "{} of {long}", card.reads);
    // What is appended then is younger than what was cut short.
    let next = card.write(&passed, &[5], 12);
    assert!(next.sequence > cut.sequence && next.previous == cut.previous);
    assert_eq!(card.applied(), BTreeMap::from([(1, 10), (5, 12)]));
}

#[test]
fn what_stands_behind_is_known_by_the_checksum_of_its_bytes() {
    let mut card = Card::new(1);
    let ring = card.chain().ring;
    // The last of these go over the ring's end.
    for position in [0, 5, ring.length - BEHIND, ring.length - 3, ring.length - 1] {
        let chunks = (position..position + BEHIND).map(|at| ring.chunk(at) as usize * CHUNK_BYTES);
        let bytes: Vec<u8> =
            chunks.flat_map(|at| card.bytes[at..at + CHUNK_BYTES].to_vec()).collect();
        assert_eq!(behind_crc(&mut card, &ring, position), crc32c(&bytes), "{position}");
    }
    // A chunk that can't be read counts as one byte, again and again.
    card.fail([ring.chunk(1)]);
    let mut bytes = card.bytes[ring.chunk(0) as usize * CHUNK_BYTES..].to_vec();
    bytes.truncate(BEHIND as usize * CHUNK_BYTES);
    bytes[CHUNK_BYTES..2 * CHUNK_BYTES].fill(NOTHING);
    assert_eq!(behind_crc(&mut card, &ring, 0), crc32c(&bytes));
}

#[test]
fn a_log_may_be_full_to_the_last_chunk() {
    let least = segment_chunks(0);
    for room in [0, least - 1, least] {
        let mut card = Card::new(1);
        card.append(&[1, 2, 3], 10);
        let free = card.chain().room() - segment_chunks(0) - room;
        let chunks: Vec<u64> = (0..free).map(|n| n + 4).collect();
        card.append(&chunks, 11);
        let full = card.chain();
        assert_eq!((full.room(), full.segments.len(), full.end), (room, 2, ChainEnd::Clean));
        assert_eq!(card.applied(), card.root);
        if room == least {
            // Not even a segment without any chunk of root is left out.
            card.append(&[], 12);
            let full = card.chain();
            assert_eq!((full.room(), full.segments.len(), full.end), (0, 3, ChainEnd::Clean));
        }
    }
}

#[test]
fn a_forged_position_at_the_end_of_all_numbers_is_only_a_position() {
    let mut card = Card::new(1);
    let start = Link { position: u64::MAX - 2, behind: 0, ..card.header.start };
    card.put_header(Header { start, ..card.header });
    let chain = card.chain();
    card.write(&chain, &[1, 2, 3], 10);
    let mut chain = card.chain();
    assert_eq!(chain.verify(&mut card).len(), chain.live().len());
    assert!(chain.verify_all(&mut card).is_empty());
}

#[test]
fn what_fits_is_counted_to_the_chunk() {
    let mut card = Card::new(1);
    let most =
        |fits: &dyn Fn(u32) -> bool| (0..2 * CHUNKS as u32).filter(|count| fits(*count)).max();
    let empty = card.chain();
    let (room, length) = (empty.room(), empty.ring.length);
    assert_eq!((room, empty.used()), (length, 0));
    let largest = (0..).take_while(|count| segment_chunks(*count) <= length).last();
    assert_eq!(most(&|count| empty.fits(count)), largest);
    assert_eq!(most(&|count| empty.could_fit(count)), largest);
    let head = card.append(&[3, 4, 5], 1);
    let chain = card.chain();
    assert_eq!(chain.used(), head.commit() + 1 - head.position);
    assert_eq!(chain.room(), room - chain.used());
    let largest_now = (0..).take_while(|count| segment_chunks(*count) <= chain.room()).last();
    assert!(largest_now < largest);
    assert_eq!(most(&|count| chain.fits(count)), largest_now);
    assert_eq!(most(&|count| chain.could_fit(count)), largest);
}

#[test]
fn what_was_just_written_is_in_the_chain_as_a_reader_would_find_it() {
    let mut card = Card::new(4);
    card.append(&[3, 4, 5], 1);
    let mut chain = card.chain();
    for byte in 2..5 {
        let (head, before) = (card.write(&chain, &[u64::from(byte), 7], byte), chain.clone());
        let behind = behind_crc(&mut card, &chain.ring, chain.ring.aligned(head.commit() + 1));
        let commit = segment_layout::commit(&before, &head, behind);
        card.put(chain.ring.chunk(head.commit()), &commit.encode());
        let data = crc32c(&[byte; CHUNK_BYTES]);
        let table = [u64::from(byte), 7].map(|old| Entry { old, crc: data }).to_vec();
        chain.push(head, table, &commit);
        let read = card.chain();
        assert_eq!((&chain.segments, chain.end), (&read.segments, read.end));
        // What a reader does not need to know of the place behind.
        let link = |chain: &Chain| Link { behind: 0, ..chain.next };
        assert_eq!(link(&chain), link(&read));
    }
}

/// A log with one segment, and behind it one of these chunks whose head and commit record were
/// changed before their checksums were made.
fn forged(chunks: &[u64], change: fn(&mut Head), commit: fn(&mut Commit)) -> Chain {
    let mut card = Card::new(1);
    card.append(&[3], 1);
    let chain = card.chain();
    let mut head = card.write(&chain, chunks, 2);
    let place = chain.ring.chunk(head.commit());
    let behind = behind_crc(&mut card, &chain.ring, head.commit() + 1);
    let mut record = segment_layout::commit(&chain, &head, behind);
    change(&mut head);
    card.put(chain.ring.chunk(chain.next.position), &head.encode());
    commit(&mut record);
    card.put(place, &record.encode());
    card.chain()
}

#[test]
fn a_segment_of_another_log_time_or_place_is_not_slipped_in() {
    assert_eq!(forged(&[7, 999], |_| (), |_| ()).segments.len(), 2);
    type Change = (&'static str, fn(&mut Head));
    let changes: [Change; 7] = [
        ("log", |head| head.log[15] ^= 1),
        ("generation", |head| head.generation ^= 1),
        ("previous", |head| head.previous ^= 1),
        ("the same sequence", |head| head.sequence -= 1),
        ("position", |head| head.position += CHUNKS),
        ("more than fits", |head| head.count = u32::MAX),
        ("table", |head| head.table ^= 1),
    ];
    for (what, change) in changes {
        assert_eq!(forged(&[7, 999], change, |_| ()).segments.len(), 1, "{what}");
    }
    // Root has 1000 chunks; a table is ascending.
    for chunks in [&[7, 1000][..], &[9, 7], &[7, 7]] {
        assert_eq!(forged(chunks, |_| (), |_| ()).segments.len(), 1, "{chunks:?}");
    }
}

#[test]
fn a_commit_record_of_another_segment_commits_nothing() {
    let committed = |change| {
        let chain = forged(&[7], |_| (), change);
        assert_eq!(chain.segments.len(), 2, "its data are complete");
        chain.segments[1].committed
    };
    assert!(committed(|_| ()));
    assert!(committed(|commit| commit.link.behind ^= 1), "what stands behind is no part of it");
    type Change = (&'static str, fn(&mut Commit));
    let changes: [Change; 6] = [
        ("log", |commit| commit.log[15] ^= 1),
        ("generation", |commit| commit.generation ^= 1),
        ("position", |commit| commit.position += 1),
        ("id", |commit| commit.link.id ^= 1),
        ("sequence", |commit| commit.link.sequence += 1),
        ("next", |commit| commit.link.position += 1),
    ];
    for (what, change) in changes {
        assert!(!committed(change), "{what}");
    }
}
