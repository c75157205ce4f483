//! A flush log: what was appended is found again, whatever happened to the partition since.
#![cfg_attr(not(test), no_main)]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cowflush::pure::chunks::{CHUNK_BYTES, Chunks, Unreadable};
use cowflush::pure::crc::crc32c;
use cowflush::pure::flushlog::chain::{Chain, ChainEnd, behind_crc, header};
use cowflush::pure::flushlog::records::{
    Commit, Entry, FINGERPRINTS, Fingerprint, HEADER_MAGIC, Head, Header, Link, RECORD_BYTES,
    sector_crcs,
};
use cowflush::pure::flushlog::ring::Ring;
use cowflush::pure::flushlog::{fingerprint, segment_layout};

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// Just enough for the smallest ring at the largest alignment used here.
const CHUNKS: u64 = 290;
const SECTOR: usize = 512;
const ROOT_CHUNKS: u64 = 4000;

/// The input says how the log is used, then what happens to it. Missing bytes are zero.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut card = Card::new([1, 8, 32][usize::from(input.byte() % 3)]);
    let then = input.byte();
    for _ in 0..input.byte() % 12 {
        match input.byte() % 8 {
            0..=4 => card.flush(&mut input),
            5 | 6 => card.cut_flush(&mut input),
            _ => card.merge(input.byte()),
        }
    }
    match then % 4 {
        0 => {
            card.damage(&mut input, true);
            card.check_damaged(true);
        }
        1 => {
            for _ in 0..input.byte() % 8 {
                card.damage(&mut input, false);
            }
            card.check_damaged(false);
        }
        // Records that only an attacker makes: invented, with a right checksum.
        2 => {
            while !input.0.is_empty() {
                card.forge(&mut input);
            }
            card.check_anything(CHUNKS);
        }
        // Any bytes, on a partition that may have another size.
        _ => {
            let chunks = input.number() % (CHUNKS + 2);
            while !input.0.is_empty() {
                let at = input.number() as usize % card.bytes.len();
                let wanted = usize::from(input.byte());
                let bytes = input.take(wanted);
                let room = card.bytes.len() - at;
                let bytes = &bytes[..bytes.len().min(room)];
                card.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            card.check_anything(chunks);
        }
    }
}

/// A log in memory, and its expected content.
struct Card {
    bytes: Vec<u8>,
    /// The content of each chunk before its last write.
    older: BTreeMap<u64, Vec<u8>>,
    header: Header,
    /// Root after each segment of this generation, by the log: a chunk's number and its tag.
    states: Vec<BTreeMap<u64, u64>>,
    /// A counter: it replaces a real log's random numbers, and makes all data distinct.
    draw: u64,
}

impl Chunks for Card {
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        let at = usize::try_from(chunk).ok().and_then(|chunk| chunk.checked_mul(CHUNK_BYTES));
        let at = at.ok_or(Unreadable)?;
        let end = at.checked_add(into.len()).ok_or(Unreadable)?;
        into.copy_from_slice(self.bytes.get(at..end).ok_or(Unreadable)?);
        Ok(())
    }
}

impl Card {
    fn new(align: u32) -> Self {
        static USED: OnceLock<Vec<u8>> = OnceLock::new();
        // A card is never blank.
        let fill = || (0..CHUNKS as usize * CHUNK_BYTES).map(|at| (at * 31 / 7) as u8).collect();
        let bytes = USED.get_or_init(fill).clone();
        let (older, states) = (BTreeMap::new(), vec![BTreeMap::new()]);
        let mut card = Self { bytes, older, header: Header::default(), states, draw: 0 };
        let ring = Ring::new(CHUNKS, align).expect("it is large enough");
        let behind = behind_crc(&mut card, &ring, 0);
        let start = Link { id: card.random(), sequence: 0, position: 0, behind };
        let root_sectors = ROOT_CHUNKS * 8;
        let uuid = [3; 16];
        let header = Header { uuid, chunks: CHUNKS, align, root_sectors, start, ..card.header };
        card.put_header(header, 0);
        card
    }

    fn random(&mut self) -> u64 {
        self.draw += 1;
        segment_layout::unique(0, self.draw)
    }

    fn chunk(&self, chunk: u64) -> &[u8] {
        &self.bytes[chunk as usize * CHUNK_BYTES..][..CHUNK_BYTES]
    }

    fn put(&mut self, chunk: u64, data: &[u8]) {
        let at = chunk as usize * CHUNK_BYTES;
        self.older.insert(chunk, self.chunk(chunk).to_vec());
        self.bytes[at..at + data.len()].copy_from_slice(data);
    }

    /// Writes both copies, or only one, as a power cut may leave them.
    fn put_header(&mut self, header: Header, which: u8) {
        self.header = Header { number: self.header.number + 1, ..header };
        let record = self.header.encode();
        if which % 4 != 1 {
            self.put(0, &record);
        }
        if which % 4 != 2 {
            self.put(CHUNKS - 1, &record);
        }
    }

    fn chain(&mut self) -> Chain {
        let found = header(self, CHUNKS).expect("one copy of the header is intact");
        Chain::read(self, found.header).expect("the header makes sense")
    }

    /// The state that a log gives when applied, once its data are verified.
    fn state(&mut self, chain: &mut Chain) -> BTreeMap<u64, u64> {
        let live = chain.verify(self);
        let read = live.iter().map(|live| {
            let data = self.chunk(live.place);
            let tag = u64::from_le_bytes(*data.first_chunk().expect("a chunk has 8 bytes"));
            assert_eq!(data, contents(tag), "damaged data would be applied");
            (live.old, tag)
        });
        read.collect()
    }

    /// Appends a flush and finds it again.
    fn flush(&mut self, input: &mut Input<'_>) {
        let (head, after) = self.append(input, usize::MAX, 0);
        let chain = self.chain();
        let position = chain.ring.aligned(head.commit() + 1);
        let behind = behind_crc(self, &chain.ring, position);
        let commit = segment_layout::commit(&chain, &head, behind);
        self.put(chain.ring.chunk(head.commit()), &commit.encode());
        self.states.push(after);
        self.check_as_left();
    }

    /// A power cut during a flush: any of its sectors may have reached the card.
    fn cut_flush(&mut self, input: &mut Input<'_>) {
        let (whole, seed) = (usize::from(input.byte()), input.number());
        let (_, after) = self.append(input, whole, seed);
        let mut chain = self.chain();
        let state = self.state(&mut chain);
        assert!(
            matches!(chain.end, ChainEnd::Clean | ChainEnd::Torn),
            "{:?} after a power cut",
            chain.end
        );
        assert!(state == after || Some(&state) == self.states.last(), "neither flush N nor N + 1");
        // All data arrived, so the flush counts.
        if chain.segments.len() == self.states.len() {
            self.states.push(after);
        }
        assert_eq!(chain.segments.len() + 1, self.states.len());
    }

    /// Writes a segment's head, table and data: its first `whole` sectors, and those of the others
    /// that `seed` chooses. Also returns root with the segment.
    fn append(
        &mut self,
        input: &mut Input<'_>,
        whole: usize,
        seed: u64,
    ) -> (Head, BTreeMap<u64, u64>) {
        // Mostly small, since that is fast; sometimes all that a ring holds.
        let count = match input.byte() {
            large @ 240.. => large - 1,
            small => small % 24,
        };
        let (start, step) = (input.number(), u64::from(input.byte()));
        let olds =
            (0..u64::from(count)).map(|n| (start % ROOT_CHUNKS + n * (step + 1)) % ROOT_CHUNKS);
        let new: BTreeMap<u64, u64> = olds.map(|old| (old, self.random())).collect();
        let mut chain = self.chain();
        if !chain.fits(new.len() as u32) {
            self.merge(0);
            chain = self.chain();
        }
        let entry = |(old, tag): (&u64, &u64)| Entry { old: *old, crc: crc32c(&contents(*tag)) };
        let table: Vec<_> = new.iter().map(entry).collect();
        let after = sector_crcs(&contents(self.draw));
        let fingerprints = [Fingerprint { chunk: start % 3, before: [1; 8], after }; FINGERPRINTS];
        let laid = segment_layout::segment(&chain, &table, fingerprints, self.random(), -1);
        let mut sectors = laid.bytes;
        sectors.extend(new.values().flat_map(|tag| contents(*tag)));
        for (position, data) in (laid.head.position..).zip(sectors.chunks(CHUNK_BYTES)) {
            let chunk = chain.ring.chunk(position);
            let mut mixed = self.chunk(chunk).to_vec();
            let first = (position - laid.head.position) * 8;
            for (n, (to, from)) in (first..).zip(mixed.chunks_mut(SECTOR).zip(data.chunks(SECTOR)))
            {
                if n < whole as u64 || segment_layout::unique(seed, n).count_ones() % 2 == 1 {
                    to.copy_from_slice(from);
                }
            }
            self.put(chunk, &mixed);
        }
        let mut after = self.states.last().cloned().unwrap_or_default();
        after.extend(new);
        (laid.head, after)
    }

    /// Begins a new generation where the last one ended.
    fn merge(&mut self, which: u8) {
        let chain = self.chain();
        let behind = behind_crc(self, &chain.ring, chain.next.position);
        let id = self.random();
        self.put_header(Header { start: Link { id, behind, ..chain.next }, ..chain.header }, which);
        self.states = vec![BTreeMap::new()];
        self.check_as_left();
    }

    /// Checks that everything is found, and nothing else, since nothing happened to the log.
    fn check_as_left(&mut self) {
        let mut chain = self.chain();
        assert_eq!(chain.end, ChainEnd::Clean);
        assert_eq!(chain.segments.len() + 1, self.states.len());
        assert!(chain.verify_all(self).is_empty());
        assert_eq!(Some(&self.state(&mut chain)), self.states.last());
        let watched = fingerprint::watched(&chain.segments);
        assert_eq!(watched.is_empty(), chain.segments.is_empty());
        for chunk in watched {
            let after = fingerprint::inherited(&chain.segments, chunk, [0; 8]);
            assert!(fingerprint::recognised(&chain.segments, chunk, &after));
        }
    }

    /// Damages one chunk. An old write returns only if `lost`: several of those can bring back a
    /// whole old log.
    fn damage(&mut self, input: &mut Input<'_>, lost: bool) {
        let mut chunk = u64::from(input.byte()) << 8 | u64::from(input.byte());
        chunk %= CHUNKS;
        // If one copy of the header is out of date, the other one must stay.
        if self.chunk(0) != self.chunk(CHUNKS - 1) || !lost {
            chunk = chunk.clamp(1, CHUNKS - 2);
        }
        let at = chunk as usize * CHUNK_BYTES;
        let kind = input.byte() % if lost { 4 } else { 3 };
        let number = input.number();
        match kind {
            // A few neighbouring bits.
            0 => {
                let burst = (number >> 32) as u32;
                let at = at + number as usize % (CHUNK_BYTES - 4);
                for (byte, flip) in self.bytes[at..].iter_mut().zip(burst.to_le_bytes()) {
                    *byte ^= flip;
                }
            }
            1 => self.bytes[at..at + CHUNK_BYTES].fill(number as u8),
            // Another chunk's content: a write that went to the wrong place.
            2 => {
                let from = (number % CHUNKS) as usize * CHUNK_BYTES;
                self.bytes.copy_within(from..from + CHUNK_BYTES, at);
            }
            _ => {
                if let Some(older) = self.older.get(&chunk) {
                    self.bytes[at..at + CHUNK_BYTES].copy_from_slice(older);
                }
            }
        }
    }

    /// Checks that the applied state existed once; with only `one` damage nothing is lost silently.
    fn check_damaged(&mut self, one: bool) {
        let mut chain = self.chain();
        let state = self.state(&mut chain);
        assert_eq!(self.states.get(chain.segments.len()), Some(&state), "a state that never was");
        if one && chain.segments.len() + 1 < self.states.len() {
            assert!(
                matches!(chain.end, ChainEnd::Damaged(_)),
                "{:?} hides what is lost",
                chain.end
            );
        }
    }

    /// Writes a record with a right checksum and some fields from the input.
    fn forge(&mut self, input: &mut Input<'_>) {
        let Some(mut chain) = self.read(CHUNKS) else {
            return self.put_header(Header { chunks: CHUNKS, align: 1, ..self.header }, 0);
        };
        let (kind, mask) = (input.byte(), input.byte());
        // The value of a right record, or a number from the input.
        let mut field = 0;
        let mut or = |right: u64| {
            field += 1;
            if mask >> (field - 1) & 1 == 1 { input.number() } else { right }
        };
        let link = chain.next;
        match kind % 4 {
            0 => {
                let (chunks, align) = (or(CHUNKS), or(1) as u32);
                let start =
                    Link { position: or(link.position), sequence: or(link.sequence), ..link };
                let root_sectors = or(ROOT_CHUNKS * 8);
                let header = Header { chunks, align, start, root_sectors, ..self.header };
                self.put_header(header, kind >> 2);
            }
            1 => {
                let position = or(link.position);
                let (sequence, behind) = (or(link.sequence), or(0) as u32);
                let commit = Commit {
                    log: chain.header.uuid,
                    generation: chain.header.start.id,
                    position,
                    link: Link { sequence, behind, position: or(link.position), id: or(link.id) },
                };
                let at = chain.ring.chunk(or(link.position.saturating_add(2)));
                self.put(at.min(CHUNKS - 1), &commit.encode());
            }
            _ => {
                let entries = [0, 1, 2].map(|n| Entry { old: or(n), crc: or(0) as u32 });
                // Their data are whatever is there.
                chain.next.position =
                    if kind >> 2 & 1 == 1 { input.number() } else { link.position };
                let mut table = entries.to_vec();
                for (n, entry) in (1..).zip(&mut table) {
                    let place = chain.next.position.saturating_add(n);
                    if entry.crc == 0 {
                        entry.crc = crc32c(self.chunk(chain.ring.chunk(place).min(CHUNKS - 1)));
                    }
                }
                table.truncate(usize::from(kind >> 3) % 4);
                let laid = segment_layout::segment(&chain, &table, Default::default(), 1, 0);
                let count =
                    if kind >> 5 & 1 == 1 { input.number() as u32 } else { laid.head.count };
                let mut bytes = laid.bytes;
                bytes[..RECORD_BYTES].copy_from_slice(&Head { count, ..laid.head }.encode());
                let at = chain.ring.chunk(laid.head.position);
                self.put(at.min(CHUNKS - 1), &bytes);
            }
        }
    }

    fn read(&mut self, chunks: u64) -> Option<Chain> {
        let found = header(self, chunks);
        found.and_then(|found| Chain::read(self, found.header)).ok()
    }

    /// Checks what holds for any bytes on a partition of `chunks`.
    fn check_anything(&mut self, chunks: u64) {
        let mut chain = match header(self, chunks) {
            Ok(found) => Chain::read(self, found.header).expect("the header makes sense"),
            Err(why) => return assert!(!why.to_string().is_empty()),
        };
        assert!(self.bytes.chunks(CHUNK_BYTES).any(|chunk| chunk.starts_with(HEADER_MAGIC)));
        let inside = chain.ring.first..chain.ring.first + chain.ring.length;
        assert!(chain.ring.first >= 1 && inside.end < chunks, "the ring overlaps the headers");
        for segment in &chain.segments {
            assert!(segment.table.windows(2).all(|pair| pair[0].old < pair[1].old));
            assert_eq!(segment.table.len() as u64, u64::from(segment.head.count));
        }
        let bad = chain.verify_all(self);
        assert!(bad.iter().all(|bad| !bad.unreadable && inside.contains(&bad.place)));
        let live = chain.verify(self);
        assert!(live.windows(2).all(|pair| pair[0].old < pair[1].old));
        for live in &live {
            assert!(inside.contains(&live.place) && live.segment < chain.segments.len());
            assert_eq!(crc32c(self.chunk(live.place)), live.crc);
        }
        assert_eq!(live, chain.live());
        for chunk in fingerprint::watched(&chain.segments) {
            let now = sector_crcs(self.chunk(chunk % CHUNKS));
            let _ = fingerprint::recognised(&chain.segments, chunk, &now);
        }
    }
}

/// A chunk's data, which differ from those of all others.
fn contents(tag: u64) -> [u8; CHUNK_BYTES] {
    let mut chunk = [0; CHUNK_BYTES];
    chunk.as_chunks_mut::<8>().0.fill(tag.to_le_bytes());
    chunk
}

/// Takes values from the input, one after the other.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, wanted: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        self.take(8).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
