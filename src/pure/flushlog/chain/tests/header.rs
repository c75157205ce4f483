use super::*;
use crate::pure::flushlog::records::{FORMAT, Format};

#[test]
fn a_header_has_two_copies() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let good = card.header;
    card.put(0, b"gone");
    let found = header(&mut card, CHUNKS).unwrap();
    assert_eq!((found.header, found.whole, found.hidden), (good, false, None));
    card.put(0, &good.encode());
    card.put(CHUNKS - 1, b"gone");
    assert_eq!(header(&mut card, CHUNKS).unwrap().header, good);
    card.put(0, b"cowflLOG and rubbish");
    assert_eq!(header(&mut card, CHUNKS), Err(LogError::Damaged));
    card.put(0, b"gone");
    assert_eq!(header(&mut card, CHUNKS), Err(LogError::Absent));
    card.put_header(good);
    let (log, partition) = (CHUNKS, CHUNKS - 1);
    assert_eq!(header(&mut card, CHUNKS - 1), Err(LogError::Truncated { log, partition }));
    // Half of an update: the younger copy holds.
    let newer = Header { number: good.number + 1, ..good };
    card.put(CHUNKS - 1, &newer.encode());
    assert_eq!(
        header(&mut card, CHUNKS).unwrap(),
        HeaderRead { header: newer, whole: false, hidden: None }
    );
}

#[test]
fn a_newer_copy_of_the_header_is_never_passed_over() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let known = card.header;
    for number in [0, known.number, known.number + 1] {
        let newer = Header { format: Format(FORMAT + 1), number, ..known };
        for (first, second) in [(newer, known), (known, newer), (newer, newer)] {
            card.put(0, &first.encode());
            card.put(CHUNKS - 1, &second.encode());
            assert_eq!(header(&mut card, CHUNKS), Err(LogError::Newer(Box::new(newer))));
        }
        for (place, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
            card.put(place, &newer.encode());
            for nothing in [&b"gone"[..], b"cowflLOG and rubbish"] {
                card.put(other, nothing);
                assert_eq!(header(&mut card, CHUNKS), Err(LogError::Newer(Box::new(newer))));
            }
        }
    }
    // A number that was only damaged is damage, and the other copy counts.
    let mut damaged = known.encode();
    damaged[8] = 2;
    card.put(0, &damaged);
    card.put(CHUNKS - 1, &known.encode());
    assert_eq!(header(&mut card, CHUNKS).map(|found| found.header), Ok(known));
    // Nor is a disk such a log that ends with one.
    let newer = Header { format: Format(FORMAT + 1), ..known };
    card.put_header(newer);
    card.bytes.splice(0..0, vec![0x5a; 64 * CHUNK_BYTES]);
    assert_eq!(header(&mut card, CHUNKS + 64), Err(LogError::Absent));
}

#[test]
fn a_disk_that_ends_with_a_log_is_no_log() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let before = vec![0x5a; 64 * CHUNK_BYTES];
    card.bytes.splice(0..0, before);
    assert_eq!(header(&mut card, CHUNKS + 64), Err(LogError::Absent));
}

#[test]
fn an_old_header_does_not_hide_a_younger_generation() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let old = card.header;
    card.merge();
    card.append(&[1], 11);
    card.put_header(old);
    assert!(matches!(card.chain().end, ChainEnd::Damaged(_)));
}

#[test]
fn a_header_that_can_not_be_read_is_not_absent() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let good = card.header;
    let unreadable = |chunk| Err(LogError::Unreadable(chunk));
    for (hidden, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
        card.fail([hidden]);
        let found = HeaderRead { header: good, whole: false, hidden: Some(hidden) };
        assert_eq!(header(&mut card, CHUNKS), Ok(found), "one intact copy is enough");
        card.put(other, b"something else");
        assert_eq!(header(&mut card, CHUNKS), unreadable(hidden));
        card.put(other, b"cowflLOG and rubbish");
        assert_eq!(header(&mut card, CHUNKS), unreadable(hidden));
        card.put(other, &good.encode());
    }
    card.fail([0, CHUNKS - 1]);
    assert_eq!(header(&mut card, CHUNKS), unreadable(0));
    // On a partition that is larger than the log the copy at the end is not found.
    card.bytes.extend([0; CHUNK_BYTES]);
    card.fail([0]);
    assert_eq!(header(&mut card, CHUNKS + 1), unreadable(0));
}

#[test]
fn flushes_of_a_generation_whose_header_can_not_be_read_are_not_lost() {
    let mut card = Card::new(1);
    card.append(&[1], 10);
    let old = card.header;
    card.merge();
    card.append(&[1], 11);
    // The first copy could not be written when the log was merged; now the second can't be read.
    card.put(0, &old.encode());
    card.fail([CHUNKS - 1]);
    let (chain, whole) = open(&mut card, CHUNKS, false).unwrap();
    assert!(!whole);
    assert_eq!(chain.end, ChainEnd::Unreadable { chunk: CHUNKS - 1, youngest: Some(2) });
    card.fail([]);
    assert_eq!(open(&mut card, CHUNKS, false).unwrap().0.end, ChainEnd::Clean);
}

#[test]
fn of_two_copies_of_the_header_the_younger_counts_and_either_is_enough() {
    let mut card = Card::new(1);
    let old = card.header;
    let new = Header { number: 2, ..old };
    assert_eq!(
        header(&mut card, CHUNKS),
        Ok(HeaderRead { header: old, whole: true, hidden: None })
    );
    for (first, second) in [(new, old), (old, new)] {
        card.put(0, &first.encode());
        card.put(CHUNKS - 1, &second.encode());
        assert_eq!(
            header(&mut card, CHUNKS),
            Ok(HeaderRead { header: new, whole: false, hidden: None })
        );
    }
    let (mut damaged, copy) = (new.encode().to_vec(), old.encode());
    damaged[20] ^= 1;
    for (place, other) in [(0, CHUNKS - 1), (CHUNKS - 1, 0)] {
        card.put(place, &damaged);
        card.put(other, &copy);
        assert_eq!(
            header(&mut card, CHUNKS),
            Ok(HeaderRead { header: old, whole: false, hidden: None })
        );
        // What was one is never taken for nothing.
        card.put(other, &[0; CHUNK_BYTES]);
        assert_eq!(header(&mut card, CHUNKS), Err(LogError::Damaged));
    }
    card.put(0, &[0; CHUNK_BYTES]);
    card.put(CHUNKS - 1, &[0; CHUNK_BYTES]);
    assert_eq!(header(&mut card, CHUNKS), Err(LogError::Absent));
}

#[test]
fn a_log_is_as_large_as_it_says_or_none() {
    let mut card = Card::new(1);
    assert_eq!(
        header(&mut card, CHUNKS - 1),
        Err(LogError::Truncated { log: CHUNKS, partition: CHUNKS - 1 })
    );
    // The copy at the end of a disk belongs to the log that ends there, not to the disk.
    card.put(0, &[0; CHUNK_BYTES]);
    assert_eq!(header(&mut card, CHUNKS).map(|found| found.whole), Ok(false));
    card.put(CHUNKS - 1, &Header { chunks: CHUNKS - 8, ..card.header }.encode());
    assert_eq!(header(&mut card, CHUNKS), Err(LogError::Absent));
    card.put_header(Header { align: CHUNKS as u32, ..card.header });
    assert_eq!(header(&mut card, CHUNKS), Err(LogError::Nonsense));
}
