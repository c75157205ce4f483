//! The command line does what it says: the program itself, on image files and without a stack.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use cowflush::flush::flushlog::FlushLog;
use cowflush::pure::chunks::CHUNK_BYTES;
use cowflush::pure::cow::exception_store::Exception;
use cowflush::pure::disk::filesystem::uuid_text;
use cowflush::sys::disk::Disk;

const MIB: usize = 1 << 20;
const ROOT_UUID: &str = "0a1b0203-0405-0607-0809-0a0b0c0d0eff";

/// A folder with a root of an ext filesystem, and a place for a log.
struct Images(PathBuf);

impl Images {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("cowflush-options-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let images = Self(folder);
        images.write("root.img", &root(0x0a));
        images.write("log.img", &vec![0; 4 * MIB]);
        images
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs the program in the folder: exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run_in(&self.0, arguments)
    }

    /// Makes a log for this root.
    fn format(&self) {
        let (code, _, said) = self.run(&["log", "format", "log.img", "--root", "root.img"]);
        assert_eq!(code, 0, "{said}");
    }

    fn log(&self) -> FlushLog {
        FlushLog::open_read_only(&self.path("log.img")).unwrap()
    }

    /// Appends a flush that fills chunk `chunk` of root with `byte`.
    fn append(&self, chunk: u64, byte: u8) {
        self.write("cow.img", &vec![byte; 3 * CHUNK_BYTES]);
        let mut cow = Disk::open(&self.path("cow.img")).unwrap();
        let mut card = Disk::open(&self.path("root.img")).unwrap();
        let table = [Exception { old: chunk, new: 2 }];
        let mut log = FlushLog::open(&self.path("log.img")).unwrap();
        log.append(&table, &mut cow, &mut card, &mut |_| Ok(())).unwrap();
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run_in(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_cowflush");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // Where there is device-mapper, only one command works at a time.
    for _ in 0..300 {
        let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
        let code = output.status.code().unwrap();
        if code != 4 {
            return (code, text(output.stdout), text(output.stderr));
        }
        sleep(Duration::from_millis(100));
    }
    panic!("{arguments:?}: another command is at work")
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    run_in(Path::new("/"), arguments)
}

/// A root of 1 MiB: an ext4 superblock whose UUID begins with `first`, and chunks that tell their
/// number.
fn root(first: u8) -> Vec<u8> {
    let mut root: Vec<u8> = (0..MIB).map(|at| (at / CHUNK_BYTES) as u8).collect();
    root[..CHUNK_BYTES].fill(0);
    let mut put =
        |at: usize, bytes: &[u8]| root[1024 + at..1024 + at + bytes.len()].copy_from_slice(bytes);
    put(0x4, &256u32.to_le_bytes());
    put(0x18, &2u32.to_le_bytes());
    put(0x38, &0xef53u16.to_le_bytes());
    put(0x5c, &4u32.to_le_bytes());
    put(0x60, &0x40u32.to_le_bytes());
    put(0x68, &[first, 0x1b, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
    root
}

#[test]
fn a_stop_takes_no_option_that_it_would_not_follow() {
    for options in [&["--within", "3"][..], &["--shutdown", "--json"]] {
        let (code, _, said) = run(&[&["stop"], options].concat());
        let why = "cowflush: cannot stop: --within is for --shutdown, and --json is not.\n";
        assert_eq!((code, said.as_str()), (2, why), "{options:?}");
    }
}

#[test]
fn every_option_of_log_format_is_in_the_log_that_it_makes() {
    let images = Images::new("format");
    images.format();
    let plain = *images.log().header();
    assert_eq!(uuid_text(&plain.root_uuid), ROOT_UUID);
    assert_eq!(plain.root_sectors, (MIB / 512) as u64);
    assert_eq!((plain.chunks, plain.align, plain.fill, plain.label), (1024, 1, 0, [0; 16]));
    let make = |option: &str, value: &str| {
        let arguments = [
            "log",
            "format",
            "log.img",
            "--root",
            "root.img",
            "--over",
            "cowflush-log",
            option,
            value,
        ];
        let (code, _, said) = images.run(&arguments);
        assert_eq!(code, 0, "{said}");
        let header = *images.log().header();
        assert_ne!(header.uuid, plain.uuid, "another log");
        header
    };
    let aligned = make("--erase-block", "128K");
    assert_eq!((aligned.align, aligned.fill, aligned.label), (32, 0, [0; 16]));
    let filled = make("--fill", "64K");
    assert_eq!((filled.align, filled.fill, filled.label), (1, 16, [0; 16]));
    let labelled = make("--label", "sixteen bytes it");
    assert_eq!((labelled.align, labelled.fill, &labelled.label), (1, 0, b"sixteen bytes it"));
}

#[test]
fn log_format_destroys_nothing_that_was_not_named() {
    let images = Images::new("over");
    images.write("ext.img", &[root(1), vec![0; 3 * MIB]].concat());
    images.format();
    for (image, options) in [
        ("log.img", &[][..]),
        ("log.img", &["--over", "ext4"]),
        ("ext.img", &[]),
        ("ext.img", &["--over", "cowflush-log"]),
        ("log.img", &["--over", "cowflush-log", "--label", "seventeen bytes it"]),
        ("log.img", &["--over", "cowflush-log", "--erase-block", "5000"]),
        ("log.img", &["--over", "cowflush-log", "--fill", "65M"]),
        ("log.img", &["--over", "cowflush-log", "--fill", "128M"]),
    ] {
        let before = images.read(image);
        let arguments = [&["log", "format", image, "--root", "root.img"], options].concat();
        let (code, _, said) = images.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(images.read(image) == before, "{arguments:?} wrote");
    }
    let before = images.read("ext.img");
    let dry = ["log", "format", "ext.img", "--root", "root.img", "--over", "ext4", "--dry-run"];
    let (code, said, _) = images.run(&dry);
    assert!(code == 0 && said.starts_with("would make"), "{said}");
    assert!(images.read("ext.img") == before);
    assert_eq!(images.run(&dry[..7]).0, 0);
    assert!(images.read("ext.img") != before);
}

#[test]
fn every_option_of_recover_does_what_it_says_and_without_one_it_only_looks() {
    let images = Images::new("recover");
    images.format();
    images.append(5, 0xaa);
    images.append(9, 0xbb);
    let (root, log) = (images.read("root.img"), images.read("log.img"));
    let mut wanted = root.clone();
    wanted[5 * CHUNK_BYTES..6 * CHUNK_BYTES].fill(0xaa);
    wanted[9 * CHUNK_BYTES..10 * CHUNK_BYTES].fill(0xbb);
    let recover =
        |options: &[&str]| images.run(&[&["recover", "root.img", "log.img"], options].concat());
    for looks in [
        &[][..],
        &["--json"],
        &["--merge", "--dry-run"],
        &["--export", "new.img", "--dry-run"],
        &["--force"],
    ] {
        let (code, said, error) = recover(looks);
        assert_eq!(code, 0, "{looks:?}: {error}");
        assert_eq!(said.starts_with('{'), looks == ["--json"], "{looks:?}: {said}");
        let told = if looks == ["--json"] {
            r#""to_merge":8192"#
        } else {
            "2 flushes in the log, 8.0 KiB to merge"
        };
        assert!(said.contains(told), "{looks:?}: {said}");
        assert!(
            images.read("root.img") == root && images.read("log.img") == log,
            "{looks:?} wrote"
        );
        assert!(!images.path("new.img").exists());
    }
    let (code, _, said) = recover(&["--merge", "--export", "new.img"]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(recover(&["--export", "new.img"]).0, 0);
    assert!(images.read("new.img") == wanted, "exported");
    assert!(
        images.read("root.img") == root && images.read("log.img") == log,
        "an export leaves both"
    );
    assert_eq!(recover(&["--export", "new.img"]).0, 1, "what is there is not overwritten");
    assert_eq!(recover(&["--merge"]).0, 0);
    assert!(images.read("root.img") == wanted, "merged");
    assert!(images.log().chain.segments.is_empty(), "and the log is empty");
}

#[test]
fn a_log_that_does_not_fit_root_is_applied_only_by_force() {
    for (name, stranger) in
        [("another root", root(0x0b)), ("a larger one", [root(0x0b), vec![0; MIB]].concat())]
    {
        let images = Images::new("force");
        images.format();
        images.append(5, 0xaa);
        images.write("root.img", &stranger);
        let recover =
            |options: &[&str]| images.run(&[&["recover", "root.img", "log.img"], options].concat());
        for options in [&[][..], &["--merge"], &["--export", "new.img"]] {
            let (code, _, said) = recover(options);
            assert_eq!(code, 1, "{name} {options:?}: {said}");
            assert!(
                images.read("root.img") == stranger && !images.path("new.img").exists(),
                "{name}"
            );
        }
        assert_eq!(recover(&["--merge", "--force"]).0, 0, "{name}");
        assert!(
            images.read("root.img")[5 * CHUNK_BYTES..6 * CHUNK_BYTES] == [0xaa; CHUNK_BYTES],
            "{name}"
        );
    }
}

#[test]
fn a_root_that_has_grown_since_gets_its_flushes() {
    let images = Images::new("grown");
    images.format();
    images.append(5, 0xaa);
    images.write("root.img", &[root(0x0a), vec![0; MIB]].concat());
    let (code, _, said) = images.run(&["recover", "root.img", "log.img", "--merge"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(images.read("root.img")[5 * CHUNK_BYTES..6 * CHUNK_BYTES], [0xaa; CHUNK_BYTES]);
}

#[test]
fn a_root_that_was_changed_since_is_told_apart() {
    let images = Images::new("changed");
    images.format();
    images.append(5, 0xaa);
    let mut changed = images.read("root.img");
    // The time of the last mount
    changed[1024 + 0x2c] ^= 1;
    images.write("root.img", &changed);
    let (code, said, _) = images.run(&["recover", "root.img", "log.img", "--json"]);
    assert!(code == 1 && said.contains(r#""fit":"changed""#), "{said}");
}

#[test]
fn lost_flushes_end_with_7_whatever_is_asked_for() {
    let images = Images::new("damaged");
    images.format();
    images.append(5, 0xaa);
    images.append(9, 0xbb);
    let mut log = images.read("log.img");
    let place = log.chunks(CHUNK_BYTES).position(|chunk| chunk == [0xbb; CHUNK_BYTES]).unwrap();
    log[place * CHUNK_BYTES] ^= 1;
    images.write("log.img", &log);
    for options in [&[][..], &["--force"], &["--merge", "--dry-run"], &["--json"]] {
        let arguments = [&["recover", "root.img", "log.img"], options].concat();
        let (code, said, _) = images.run(&arguments);
        assert_eq!(code, 7, "{options:?}: {said}");
    }
    // Intact flushes are saved all the same.
    assert_eq!(images.run(&["recover", "root.img", "log.img", "--merge"]).0, 7);
    assert!(images.read("root.img")[5 * CHUNK_BYTES..6 * CHUNK_BYTES] == [0xaa; CHUNK_BYTES]);
}

#[test]
fn what_is_not_understood_ends_with_2_and_help_with_0() {
    for words in [
        &[][..],
        &["flsh"],
        &["flush", "--jsn"],
        &["stop", "--within", "0"],
        &["stop", "--within", "soon"],
        &["log", "format"],
        &["recover", "only-one"],
        &["init"],
    ] {
        let (code, out, said) = run(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {said}");
        assert!(said.starts_with("cowflush: "), "{words:?}: {said}");
    }
    let commands = [
        "flush", "merge", "stop", "start", "status", "history", "check", "daemon", "hold",
        "release", "discard", "log", "recover", "attach", "version",
    ];
    for command in commands {
        let (code, said, _) = run(&[command, "--help"]);
        assert!(code == 0 && said.contains("Usage: cowflush"), "{command}: {said}");
    }
    let (code, said, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in commands {
        assert!(said.contains(command), "{command}");
    }
}

#[test]
fn without_a_stack_status_says_so_in_both_forms_and_ends_with_3() {
    let (code, said, _) = run(&["status"]);
    assert!(code == 3 && said.starts_with("mode "), "{code}: {said}");
    let (code, said, _) = run(&["status", "--json"]);
    assert!(code == 3 && said.starts_with(r#"{"version":1,"mode":"inactive""#), "{code}: {said}");
    // There is nothing to watch.
    let (code, said, _) = run(&["status", "--watch"]);
    assert!(code == 3 && said.lines().count() == 1, "{code}: {said}");
}

#[test]
fn history_is_a_table_or_json() {
    let (code, said, _) = run(&["history", "--json"]);
    assert!(code == 0 && said.starts_with(r#"{"version":1,"flushes":["#), "{said}");
    let (code, said, _) = run(&["history"]);
    assert!(code == 0 && !said.contains('{'), "{said}");
    let (code, said, _) = run(&["version"]);
    assert_eq!((code, said), (0, format!("cowflush {}\n", env!("CARGO_PKG_VERSION"))));
}
