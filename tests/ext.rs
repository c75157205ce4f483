//! Pruning and free blocks on filesystems made by mke2fs, judged by dumpe2fs and debugfs.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cowflush::flush::parts;
use cowflush::pure::chunks::{CHUNK_BYTES, Chunks, Unreadable};
use cowflush::pure::cow::exception_store::Exception;
use cowflush::pure::crc;
use cowflush::pure::ext::{Refusal, prune};
use cowflush::sys::disk::Disk;
use proptest::prelude::*;

/// A device in memory.
#[derive(Clone)]
struct Image(Vec<u8>);

impl Chunks for Image {
    fn read(&mut self, chunk: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        let start = usize::try_from(chunk).unwrap().saturating_mul(CHUNK_BYTES);
        let end = start.checked_add(into.len()).ok_or(Unreadable)?;
        into.copy_from_slice(self.0.get(start..end).ok_or(Unreadable)?);
        Ok(())
    }
}

impl Image {
    fn chunks(&self) -> u64 {
        (self.0.len() / CHUNK_BYTES) as u64
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes the superblock and corrects its checksum.
    fn edit_superblock(&mut self, at: usize, bytes: &[u8]) {
        self.put(1024 + at, bytes);
        let sum = crc::update(!0, &self.0[1024..1024 + 0x3fc]);
        self.put(1024 + 0x3fc, &sum.to_le_bytes());
    }

    /// The chunks that are left out when every chunk was changed.
    fn pruned_over(&self, below: &mut Image, frozen: bool) -> Result<BTreeSet<u64>, Refusal> {
        let all: Vec<_> = (0..self.chunks()).map(|old| Exception { old, new: old + 2 }).collect();
        let mut kept = all.clone();
        let answer = prune(&mut kept, &mut self.clone(), below, self.chunks(), frozen);
        let mut left_out: BTreeSet<u64> = all.iter().map(|e| e.old).collect();
        for exception in &kept {
            assert_eq!(exception.new, exception.old + 2);
            assert!(left_out.remove(&exception.old));
        }
        assert_eq!(answer.unwrap_or(0), left_out.len() as u64);
        answer.map(|_| left_out)
    }

    fn pruned(&self) -> Result<BTreeSet<u64>, Refusal> {
        self.pruned_over(&mut Image(vec![0; self.0.len()]), false)
    }
}

/// A filesystem in a file, which is removed with this value.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs a tool of e2fsprogs: a user's PATH in Debian lacks sbin.
fn tool(program: &str, arguments: &[&str], input: &str) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).stdin(Stdio::piped());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{program} (e2fsprogs): {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

impl Made {
    /// Makes a filesystem, writes files of several sizes to it, and deletes every other one.
    fn new(name: &str, size: &str, options: &str) -> Self {
        // Tests run at the same time, and two of them make the same kinds.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = format!("cowflush-{process}-{number}-{name}.img");
        let path = std::env::temp_dir().join(file);
        let made = Self(path);
        let mut arguments = vec!["-q", "-F", "-E", "lazy_itable_init=0"];
        arguments.extend(options.split_whitespace());
        arguments.extend([made.path(), size]);
        tool("mke2fs", &arguments, "");
        let content = |number| made.0.with_extension(format!("{number}"));
        let (mut write, mut remove) = (String::new(), String::new());
        for number in 0..24 {
            fs::write(content(number), vec![number as u8; 300 * number * number]).unwrap();
            write.push_str(&format!("write {} f{number}\n", content(number).display()));
            if number % 2 == 1 {
                remove.push_str(&format!("rm f{number}\n"));
            }
        }
        tool("debugfs", &["-w", "-f", "-", made.path()], &(write + &remove));
        (0..24).for_each(|number| fs::remove_file(content(number)).unwrap());
        tool("e2fsck", &["-fn", made.path()], "");
        made
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn image(&self) -> Image {
        Image(fs::read(&self.0).unwrap())
    }

    fn debugfs(&self, command: &str) -> String {
        tool("debugfs", &["-R", command, self.path()], "")
    }

    fn told(&self) -> Told {
        let text = tool("dumpe2fs", &[self.path()], "");
        let block_bytes = text.lines().find_map(|line| line.strip_prefix("Block size:"));
        let mut told = Told {
            block_bytes: block_bytes.unwrap().trim().parse().unwrap(),
            free: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            journal: Vec::new(),
        };
        let mut unwritten = false;
        for line in text.lines() {
            if line.starts_with("Group ") {
                unwritten = line.contains("BLOCK_UNINIT");
            } else if let Some(list) = line.strip_prefix("  Free blocks: ") {
                let into = if unwritten { &mut told.unwritten } else { &mut told.free };
                into.extend(list.split(", ").filter(|part| !part.is_empty()).flat_map(range));
            }
        }
        if text.contains("has_journal") {
            let stat = self.debugfs("stat <8>");
            let list = stat.split("BLOCKS:\n").nth(1).or(stat.split("EXTENTS:\n").nth(1)).unwrap();
            for part in list.lines().next().unwrap().split(", ") {
                // For the map's own blocks debugfs prints names instead of offsets.
                let (offset, places) = part.split_once("):").unwrap();
                if !offset.contains(char::is_alphabetic) {
                    told.journal.extend(range(places));
                }
            }
        }
        told
    }
}

/// Parses `5` or `5-9`.
fn range(text: &str) -> std::ops::RangeInclusive<u64> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.trim().parse().unwrap()..=last.trim().parse().unwrap()
}

/// What e2fsprogs report.
struct Told {
    block_bytes: u64,
    free: BTreeSet<u64>,
    /// Free blocks of groups whose bitmap was never written.
    unwritten: BTreeSet<u64>,
    /// The journal's blocks in its order.
    journal: Vec<u64>,
}

impl Told {
    /// The chunks that need not reach the card.
    fn needless(&self, chunks: u64) -> BTreeSet<u64> {
        let bytes = CHUNK_BYTES as u64;
        let journal: BTreeSet<u64> = self.journal.iter().skip(1).copied().collect();
        let unused = |block| self.free.contains(&block) || journal.contains(&block);
        let blocks = |chunk: u64| {
            chunk * bytes / self.block_bytes..((chunk + 1) * bytes).div_ceil(self.block_bytes)
        };
        (0..chunks).filter(|chunk| blocks(*chunk).all(unused)).collect()
    }
}

const MADE: &[(&str, &str, &str)] = &[
    ("ext2-1k", "12m", "-t ext2 -b 1024"),
    ("ext2-2k", "12m", "-t ext2 -b 2048"),
    ("ext2-4k", "12m", "-t ext2 -b 4096"),
    ("ext2-old", "12m", "-t ext2 -b 1024 -r 0"),
    ("ext2-dense", "12m", "-t ext2 -b 1024 -g 1024 -O ^resize_inode,^sparse_super"),
    ("ext3-1k", "12m", "-t ext3 -b 1024"),
    ("ext3-1k-large", "48m", "-t ext3 -b 1024 -J size=16"),
    ("ext3-2k", "12m", "-t ext3 -b 2048"),
    ("ext3-4k", "12m", "-t ext3 -b 4096 -I 128"),
    ("ext4-1k", "12m", "-t ext4 -b 1024"),
    ("ext4-1k-groups", "24m", "-t ext4 -b 1024 -g 1024 -G 4"),
    ("ext4-2k", "12m", "-t ext4 -b 2048"),
    ("ext4-4k", "12m", "-t ext4 -b 4096"),
    ("ext4-4k-many-groups", "48m", "-t ext4 -b 4096 -g 1024 -O 64bit"),
    ("ext4-8k", "48m", "-t ext4 -b 8192"),
    ("ext4-64k", "48m", "-t ext4 -b 65536 -O ^has_journal"),
    ("ext4-32bit", "12m", "-t ext4 -O ^64bit"),
    ("ext4-32bit-no-sums", "12m", "-t ext4 -O ^64bit,^metadata_csum,^uninit_bg"),
    ("ext4-crc16", "12m", "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg"),
    ("ext4-crc16-64bit", "24m", "-t ext4 -b 1024 -O 64bit,^metadata_csum,uninit_bg"),
    ("ext4-no-flex", "24m", "-t ext4 -b 1024 -O ^flex_bg"),
    ("ext4-no-extents", "12m", "-t ext4 -b 1024 -O ^extent,^64bit"),
    ("ext4-no-journal", "12m", "-t ext4 -b 4096 -O ^has_journal"),
    ("ext4-small-inodes", "12m", "-t ext4 -b 4096 -I 128"),
    ("ext4-seed", "12m", "-t ext4 -O metadata_csum_seed -U 11111111-2222-3333-4444-555555555555"),
    ("ext4-orphan-file", "12m", "-t ext4 -O orphan_file"),
    ("ext4-sparse2", "24m", "-t ext4 -b 1024 -O sparse_super2,^resize_inode"),
    ("ext4-much", "12m", "-t ext4 -O inline_data,ea_inode,large_dir,encrypt,verity,casefold"),
];

#[test]
fn exactly_what_e2fsprogs_call_free_or_the_journals_is_left_out() {
    for (name, size, options) in MADE {
        let made = Made::new(name, size, options);
        let (image, told) = (made.image(), made.told());
        let left_out = image.pruned().unwrap_or_else(|why| panic!("{name}: {why}"));
        let wanted = told.needless(image.chunks());
        let other: Vec<_> = left_out.symmetric_difference(&wanted).take(9).collect();
        assert!(other.is_empty(), "{name}: {other:?}");
        assert!(left_out.len() > 300, "{name}: {}", left_out.len());
        let journal = tool("dumpe2fs", &["-h", made.path()], "").contains("has_journal");
        assert_eq!(journal, told.journal.len() >= 1024, "{name}: {}", told.journal.len());
        if *name == "ext4-1k-groups" {
            assert!(!told.unwritten.is_empty(), "a group whose bitmap was never written");
        }
    }
}

/// The chunks of an image that a merge would write first, had all been changed.
fn first_part(path: &Path, chunks: u64) -> BTreeSet<u64> {
    let olds: Vec<_> = (0..chunks).collect();
    let free = parts::free(&mut Disk::open(path).unwrap(), &mut olds.iter().copied());
    assert_eq!(free.len(), olds.len());
    olds.into_iter().zip(free).filter(|(_, free)| *free).map(|(old, _)| old).collect()
}

#[test]
fn what_e2fsprogs_call_free_on_the_card_is_written_first() {
    for (name, size, options) in MADE {
        let made = Made::new(name, size, options);
        let (chunks, mut told) = (made.image().chunks(), made.told());
        told.journal.clear();
        let first = first_part(&made.0, chunks);
        let sure = told.needless(chunks);
        assert!(sure.is_subset(&first), "{name}: {:?}", sure.difference(&first).take(9));
        // Groups that were never written to: there are no more free blocks, and not many fewer,
        // since a merge leaves alone where the copies of the superblock may be.
        told.free.append(&mut told.unwritten);
        let all = told.needless(chunks);
        assert!(first.is_subset(&all), "{name}: {:?}", first.difference(&all).take(9));
        assert!(first.len() * 3 > all.len() * 2, "{name}: {} of {}", first.len(), all.len());
    }
}

#[test]
fn what_is_not_known_to_be_free_is_not_written_first() {
    let made = Made::new("doubted", "12m", "-t ext4 -b 4096");
    let (image, chunks) = (made.image(), made.image().chunks());
    let first = |image: &Image, chunks| {
        fs::write(&made.0, &image.0).unwrap();
        first_part(&made.0, chunks)
    };
    assert!(first(&image, chunks).len() > 300);
    let mut torn = image.clone();
    let bitmap = at(&torn, DESCRIPTOR) * 4096;
    torn.0[bitmap + 200] ^= 1;
    let mut unclean = image.clone();
    unclean.edit_superblock(
        0x60,
        &(u32::from_le_bytes(image.0[1024 + 0x60..1024 + 0x64].try_into().unwrap()) | 4)
            .to_le_bytes(),
    );
    for (what, image) in
        [("torn", torn), ("unclean", unclean), ("none", Image(vec![0; image.0.len()]))]
    {
        assert!(first(&image, chunks).is_empty(), "{what}");
    }
    // Chunks after the filesystem are in no group.
    assert!(first(&image, chunks + 5).iter().all(|chunk| *chunk < chunks));
}

const FEATURE: Refusal =
    "root has a feature that pruning does not know (as fast_commit, bigalloc, meta_bg)";
const UNFROZEN: Refusal = "root could not be frozen, or that is not known";
const AGREES_NOT: Refusal =
    "one of root's block bitmaps does not agree with its group: let e2fsck check it";

#[test]
fn what_is_not_known_is_refused() {
    for (name, options) in [
        ("bigalloc", "-t ext4 -O bigalloc"),
        ("meta-bg", "-t ext4 -O meta_bg,^resize_inode"),
        ("mmp", "-t ext4 -O mmp"),
        ("fast-commit", "-t ext4 -O fast_commit"),
    ] {
        let image = Made::new(name, "12m", options).image();
        assert!(image.pruned().unwrap_err() == FEATURE, "{name}");
    }
}

/// Where things are in a filesystem with blocks of 4 KiB and one group.
const DESCRIPTOR: usize = 4096;

fn at(image: &Image, field: usize) -> usize {
    u32::from_le_bytes(image.0[field..field + 4].try_into().unwrap()) as usize
}

fn refusal(image: &Image) -> Refusal {
    image.pruned().expect_err("it was pruned")
}

#[test]
fn whatever_is_unusual_is_refused() {
    let made = Made::new("unusual", "12m", "-t ext4 -b 4096");
    let (good, journal) = (made.image(), made.told().journal[0] as usize * 4096);
    let with = |edit: &dyn Fn(&mut Image)| {
        let mut image = good.clone();
        edit(&mut image);
        refusal(&image)
    };
    let superblock = |field, bytes: &[u8]| with(&|image| image.edit_superblock(field, bytes));
    let incompat = at(&good, 1024 + 0x60) as u32;
    assert!(superblock(0x60, &(incompat | 4).to_le_bytes()) == UNFROZEN);
    assert!(superblock(0x60, &(incompat | 0x1000).to_le_bytes()) == FEATURE);
    assert!(superblock(0x3a, &[3]) == "root has recorded errors: let e2fsck check it");
    assert!(superblock(0xe4, &[1]) == "root's journal is on another device");
    for (field, bytes) in [
        (0x18, [7, 0]),
        (0x14, [1, 0]),
        (0x20, [1, 0]),
        (0x28, [0, 0]),
        (0x58, [3, 0]),
        (0xfe, [0; 2]),
    ] {
        assert!(superblock(field, &bytes) == "root's superblock makes no sense", "{field:#x}");
    }
    assert!(superblock(0x38, &[0]) == "root is not ext2, ext3 or ext4");
    let wrong = |place: usize| with(&|image| image.0[place] ^= 0x10);
    assert!(wrong(1024 + 0x9) == "root's superblock has a wrong checksum");
    assert!(wrong(DESCRIPTOR + 0xc) == "one of root's group descriptors has a wrong checksum");
    let (bitmap, inodes) = (at(&good, DESCRIPTOR) * 4096, at(&good, DESCRIPTOR + 8) * 4096);
    assert!(wrong(bitmap + 100) == "one of root's block bitmaps has a wrong checksum");
    assert!(wrong(inodes + 7 * 256 + 0x30) == "root's journal's inode has a wrong checksum");
    let put = |field, bytes: &[u8]| with(&|image| image.put(journal + field, bytes));
    assert!(put(0x1c, &[0, 0, 0, 1]) == "root's journal is not empty");
    assert!(
        put(0x20, &[0, 0, 0, 1]) == "root's journal has recorded an error: let e2fsck check it"
    );
    assert!(
        put(0x28, &[0, 0, 0, 0x20])
            == "root's journal has a feature that pruning does not know (as fast_commit)"
    );
    assert!(put(0x28, &[0, 0, 0, 0x10]) == "root's journal's superblock has a wrong checksum");
    assert!(put(0, &[0]) == "root's journal's superblock makes no sense");
    assert!(with(&|image| image.0.truncate(8 << 20)) == "root's superblock makes no sense");
    assert!(with(&|image| image.0.clear()) == "root's metadata can't be read");
}

#[test]
fn without_a_journal_somebody_must_know_that_it_was_frozen() {
    let mut image = Made::new("frozen", "12m", "-t ext2 -b 1024").image();
    let below = &mut image.clone();
    let pruned = image.pruned().unwrap();
    image.put(1024 + 0x3a, &[0]);
    assert!(refusal(&image) == UNFROZEN);
    assert_eq!(image.pruned_over(below, true), Ok(pruned));
    image.put(1024 + 0x3a, &[2]);
    assert!(
        image.pruned_over(below, true).unwrap_err()
            == "root has recorded errors: let e2fsck check it"
    );
}

#[test]
fn without_checksums_a_bitmap_must_agree_with_its_group() {
    let good = Made::new("agree", "12m", "-t ext3 -b 4096").image();
    let bitmap = at(&good, DESCRIPTOR) * 4096;
    let mut one_more = good.clone();
    one_more.0[bitmap + 300] ^= 1;
    assert!(refusal(&one_more) == AGREES_NOT);
    // As many free blocks as before, but with the bitmap's own block among them.
    let mut own = good.clone();
    own.0[bitmap + bitmap / 4096 / 8] &= !(1 << (bitmap / 4096 % 8));
    own.0[bitmap + 300] |= 1 << own.0[bitmap + 300].trailing_ones();
    assert!(refusal(&own) == AGREES_NOT);
    let mut zeros = good;
    zeros.put(bitmap, &[0; 4096]);
    assert!(refusal(&zeros) == AGREES_NOT);
}

#[test]
fn of_the_journal_only_what_no_recovery_could_take_for_its_own_is_left_below() {
    for block_bytes in [1024, 4096] {
        let options = format!("-t ext4 -b {block_bytes}");
        let made = Made::new(&format!("past-{block_bytes}"), "12m", &options);
        let (mut image, told) = (made.image(), made.told());
        let byte = |block: u64| block as usize * block_bytes;
        image.put(byte(told.journal[0]) + 0x18, &500u32.to_be_bytes());
        let all = image.pruned().unwrap();
        let mut below = Image(vec![0; image.0.len()]);
        let mut kept = BTreeSet::new();
        for (block, sequence) in told.journal[40..].iter().step_by(9).zip(480u32..) {
            let header = [0xc03b_3998, 1, sequence].map(u32::to_be_bytes).concat();
            below.put(byte(*block), &header);
            if sequence >= 500 {
                kept.insert(byte(*block) as u64 / CHUNK_BYTES as u64);
            }
        }
        let left_out = image.pruned_over(&mut below, false).unwrap();
        assert_eq!(all.difference(&left_out).copied().collect::<BTreeSet<_>>(), kept);
        assert!(kept.len() > 20);

        // Unreadable chunks may hold anything.
        below.0.clear();
        let left_out = image.pruned_over(&mut below, false).unwrap();
        let journal: BTreeSet<u64> =
            told.journal.iter().map(|block| byte(*block) as u64 / CHUNK_BYTES as u64).collect();
        assert!(left_out.is_disjoint(&journal) && !left_out.is_empty());
    }
}

#[test]
fn any_change_of_what_has_a_checksum_is_noticed() {
    let good = Made::new("noticed", "12m", "-t ext4 -b 4096 -O 64bit").image();
    let (pruned, bitmap) = (good.pruned().unwrap(), at(&good, DESCRIPTOR) * 4096);
    let inode = at(&good, DESCRIPTOR + 8) * 4096 + 7 * 256;
    let parts = [(1024, 1024), (DESCRIPTOR, 64), (bitmap, 4096), (inode, 256)];
    proptest!(ProptestConfig::with_cases(60), |(part in 0..4usize, byte: prop::sample::Index, flip in 1..=255u8)| {
        let (start, length) = parts[part];
        let mut image = good.clone();
        image.0[start + byte.index(length)] ^= flip;
        prop_assert!(image.pruned().is_err_and(|why| !why.is_empty()), "{start} {byte:?}");
    });
    // Elsewhere nothing that matters is trusted.
    proptest!(ProptestConfig::with_cases(20), |(byte: prop::sample::Index, flip in 1..=255u8)| {
        let mut image = good.clone();
        let at = byte.index(image.0.len());
        image.0[at] ^= flip;
        if let Ok(found) = image.pruned() {
            prop_assert_eq!(&found, &pruned);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_device_is_read(
        fields in prop::collection::vec((0..1024usize, any::<u8>()), 0..40),
        rest in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let mut image = Image(vec![0; 64 << 10]);
        image.put(4096, &rest);
        image.put(1024 + 0x38, &[0x53, 0xef, 1]);
        for (at, byte) in fields {
            image.0[1024 + at] = byte;
        }
        let _ = image.pruned();
    }
}

#[test]
fn tables_that_can_not_be_are_refused() {
    let good = Made::new("nowhere", "12m", "-t ext3 -b 4096").image();
    let mut nowhere = good.clone();
    nowhere.put(DESCRIPTOR, &[0xff; 4]);
    assert_eq!(refusal(&nowhere), "one of root's block bitmaps is nowhere");
    // The journal is inode 8; one of no known kind is none.
    let inodes = at(&good, DESCRIPTOR + 8) * 4096;
    let mut none = good.clone();
    let inode_bytes = usize::from(u16::from_le_bytes([good.0[1024 + 0x58], good.0[1024 + 0x59]]));
    none.put(inodes + 7 * inode_bytes, &[0; 2]);
    assert_eq!(refusal(&none), "root's journal's inode makes no sense");

    let mut high =
        Made::new("high", "12m", "-t ext4 -b 4096 -O 64bit,^metadata_csum,^uninit_bg").image();
    high.put(DESCRIPTOR + 0x20, &[1]);
    assert_eq!(refusal(&high), "one of root's group descriptors makes no sense");
}

#[test]
fn a_journal_of_many_parts_has_a_checksum_on_their_list() {
    // A group has fewer blocks than the journal, and tables of its own between.
    let options = "-t ext4 -b 1024 -g 1024 -J size=4 -O ^flex_bg,^resize_inode,metadata_csum";
    let made = Made::new("parts", "24m", options);
    let said = made.debugfs("stat <8>");
    let list = said.split("(ETB0):").nth(1).expect(&said);
    let list: usize = list.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let mut image = made.image();
    image.pruned().unwrap();
    image.0[list * 1024 + 12 + 8] ^= 1;
    assert_eq!(refusal(&image), "root's journal's extents have a wrong checksum");
}
