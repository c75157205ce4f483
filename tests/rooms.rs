//! Which module may use which. This test enforces the rooms of ARCHITECTURE.md ("The map of the
//! code"):
//!
//! * a room uses only rooms below it, and at its own height only itself,
//! * `src/pure` reads no file, starts no process and calls no kernel,
//! * no two files of a room need each other.
//!
//! A module's tests are left out, and modules that exist only for tests: they may use anything.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms by height. All may use `error`, and `error` uses none of them.
const HEIGHTS: [&[&str]; 6] = [
    &["pure"],
    &["sys"],
    &["throttle", "notes", "output"],
    &["flush"],
    &["daemon", "boot"],
    &["commands", "main"],
];

/// Paths to code that acts, which rooms that only decide may not use.
const ACTS: [&str; 9] = [
    "std::fs",
    "std::io",
    "std::process",
    "std::net",
    "std::os",
    "std::env",
    "std::thread",
    "libc",
    "nix",
];

/// Files in which `sys` knows cowflush's own devices by name, each with the reason.
const NAMES_IN_SYS: [(&str, &str); 2] = [
    (
        "sys::dm",
        "its requests take a device by cowflush's name for it, so that nothing else can be asked for",
    ),
    ("sys::dm::message", "a message is about one of cowflush's devices, for the same reason"),
];

/// The rooms and files that reach the kernel only through one interface
/// ([`sys/kernel.rs`](../src/sys/kernel.rs)), so that a model can take the kernel's place.
const BEHIND: [&str; 11] = [
    "flush",
    "throttle",
    "notes",
    "daemon",
    "output::kmsg",
    "output::console",
    "boot::bringup",
    "boot::find_log",
    "boot::stacking",
    "boot::inspecting",
    "boot::mounting",
];

/// Outside names that these may use all the same, each with the reason.
const NAMED_THERE: [(&str, &str, &str); 10] = [
    ("", "nix::errno::Errno", "it is what the interface returns"),
    ("", "nix::sys::signal::Signal", "the interface tells of signals by it"),
    ("", "std::io", "its errors are what the interface returns"),
    ("throttle::guard", "", "the real helper process; a model has another one (`post_guard`)"),
    ("throttle::worker", "", "the real helper process; a model has another one (`start_worker`)"),
    ("flush::write_cache", "libc::EINVAL", "it is a number"),
    ("flush::cow_device", "libc::EIO", "it is a number"),
    ("output::console", "std::fs::File", "it is what the interface returns"),
    ("boot::inspecting", "", "`look` asks the model before it touches root"),
    ("boot::mounting", "", "`root` asks the model; the kernel's own filesystems are init's alone"),
];

/// The files of `sys` whose functions these call, with the functions there that ask no model, each
/// with the reason.
const ASKED: [(&str, &[&str]); 26] = [
    // Paths and numbers; functions for commands only; some that reach the model through
    // `Node::open`; and some that only the real guard and `syncing` call.
    (
        "sys::block",
        &["number", "sysfs", "claim", "in_the_way", "written", "sync_filesystem", "freeze"],
    ),
    // A model's is a null device with signals of its own.
    ("sys::signals", &["hold", "has_ended", "other", "undisturbed"]),
    ("sys::events", &[]),
    // A model has no inotify instance (`instance`).
    ("sys::watch", &["new", "last", "events"]),
    ("sys::psi", &[]),
    ("sys::program", &[]),
    ("sys::watchdog", &[]),
    // They reach the model through `file` and `swap::table`.
    ("sys::sysctl", &["read", "write"]),
    ("sys::swap", &["is_zram", "usage", "areas", "rows"]),
    ("sys::users", &["mounts", "device_of", "file_of", "swap_on", "swap_in", "beside", "not_held"]),
    // `errand` is what the interface returns.
    ("sys::errand", &["wait"]),
    // Processes are the real helpers', init's and `inspecting`'s.
    (
        "sys::process",
        &[
            "is_the_machines",
            "may_be_the_machines",
            "is_in_initramfs",
            "child",
            "turn_into",
            "could_start",
            "rename",
            "close_others",
        ],
    ),
    // `width` is what a command asks before it writes to its output.
    ("sys::terminal", &["width"]),
    ("sys::cgroups", &[]),
    ("sys::cow_threshold", &[]),
    ("sys::loopdev", &["number", "into_node", "has_configure"]),
    ("sys::tmpfs", &[]),
    ("sys::memory", &[]),
    ("sys::mlock", &[]),
    ("sys::priority", &[]),
    ("sys::random", &[]),
    // A model has no helper process; `busy` phrases an error.
    ("sys::lock", &["help", "end_help", "busy"]),
    // `elapsed` reaches the model through `now`.
    ("sys::time", &["elapsed"]),
    ("sys::syncing", &[]),
    // Called by the functions that ask the model
    ("sys::file", &["replace"]),
    ("sys::node", &["size", "read_exact_at", "write_all_at", "sync_all"]),
];

/// Files that need each other, each with the reason.
const CIRCLES: [(&[&str], &str); 0] = [];

/// A file of the program: its text without comments and tests, and what it uses.
struct Module {
    text: String,
    uses: BTreeSet<String>,
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut all: Vec<_> = folders.iter().flat_map(|folder| sources(folder)).collect();
    all.extend(files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")));
    all
}

/// Expands `a::{b, c::{d, self}}` to `a::b`, `a::c::d` and `a::c`.
fn leaves(path: &str) -> Vec<String> {
    let Some((before, inside)) = path.split_once('{') else {
        let path = path.split(" as ").next().unwrap_or(path).trim();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inside = inside.trim_end().strip_suffix('}').expect("braces come in pairs");
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for sign in inside.chars() {
        match sign {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(sign == '{') - i32::from(sign == '}');
                parts.last_mut().unwrap().push(sign);
            }
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| leaves(&format!("{}{part}", before.trim()))).collect()
}

/// A module's path from the crate's root on; `None` if it leads out of the crate.
fn absolute(module: &str, path: &str) -> Option<Vec<String>> {
    let mut base: Vec<_> = module.split("::").map(str::to_owned).collect();
    let mut words = path.split("::").peekable();
    match *words.peek()? {
        "crate" | "cowflush" => base.clear(),
        "self" => {}
        "super" => {
            while words.next_if_eq(&"super").is_some() {
                base.pop();
            }
            return Some(base.into_iter().chain(words.map(str::to_owned)).collect());
        }
        _ => return None,
    }
    words.next();
    Some(base.into_iter().chain(words.map(str::to_owned)).collect())
}

/// All paths in a text: those of its `use` lines, and others that begin with `crate` or `super`.
fn paths(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|sign| sign.is_whitespace()) {
            let statement = text[at + 4..].split(';').next().unwrap_or_default();
            // The word is in a message.
            if statement.contains('"') {
                continue;
            }
            all.extend(leaves(&statement.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    let of_a_path = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
    for start in ["crate::", "cowflush::", "super::"] {
        for (at, _) in text.match_indices(start) {
            if !text[..at].ends_with(of_a_path) {
                let end = text[at..].find(|sign| !of_a_path(sign)).unwrap_or(text.len() - at);
                all.push(text[at..at + end].trim_end_matches(':').to_owned());
            }
        }
    }
    all
}

fn without_comments_and_tests(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// Whether a module, or one around it, is declared only for tests.
fn is_for_tests(top: &Path, module: &str) -> bool {
    let words: Vec<_> = module.split("::").collect();
    (0..words.len()).any(|depth| {
        let folder = words[..depth].iter().fold(top.to_owned(), |path, word| path.join(word));
        let file = if depth == 0 { top.join("lib.rs") } else { folder.join("mod.rs") };
        let text = fs::read_to_string(file).unwrap_or_default();
        ["pub mod", "pub(crate) mod", "mod"]
            .iter()
            .any(|word| text.contains(&format!("#[cfg(test)]\n{word} {};\n", words[depth])))
    })
}

/// All files of the program by their module's name.
fn modules() -> BTreeMap<String, Module> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = |path: &Path| {
        let inside = path.strip_prefix(&top).unwrap().with_extension("");
        let words: Vec<_> = inside.iter().map(|word| word.to_str().unwrap()).collect();
        words.strip_suffix(&["mod"]).unwrap_or(&words).join("::")
    };
    let texts: BTreeMap<_, _> = sources(&top)
        .iter()
        .map(|path| (name(path), without_comments_and_tests(&fs::read_to_string(path).unwrap())))
        .filter(|(name, _)| name != "lib" && !name.split("::").any(|word| word == "tests"))
        .collect();
    let texts: BTreeMap<_, _> = texts
        .iter()
        .filter(|(name, _)| !is_for_tests(&top, name))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    let used = |module: &str, text: &str| {
        let paths = paths(text);
        let known = paths.iter().filter_map(|path| {
            let words = absolute(module, path)?;
            let ends = (1..=words.len()).rev().map(|end| words[..end].join("::"));
            ends.into_iter().find(|name| texts.contains_key(name))
        });
        known.filter(|name| name != module).collect()
    };
    let all = texts
        .iter()
        .map(|(name, text)| (name.clone(), Module { text: text.clone(), uses: used(name, text) }));
    let all: BTreeMap<_, _> = all.collect();
    assert!(all.len() > 100 && all.values().filter(|module| module.uses.is_empty()).count() < 40);
    all
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn height(module: &str) -> usize {
    let room = room(module);
    let found = HEIGHTS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| {
        panic!("{room} is no room: give it a height here and in ARCHITECTURE.md")
    })
}

#[test]
fn a_room_uses_only_those_below_it() {
    for (name, module) in modules() {
        for used in &module.uses {
            if name == "error" {
                panic!("error uses {used}");
            }
            let inside = room(&name) == room(used) || height(&name) == HEIGHTS.len() - 1;
            assert!(
                used == "error" || inside || height(used) < height(&name),
                "{name} uses {used}, which is not below it"
            );
        }
    }
}

#[test]
fn what_decides_does_not_act() {
    for (name, module) in modules().into_iter().filter(|(name, _)| room(name) == "pure") {
        for path in paths(&module.text) {
            let acts =
                ACTS.iter().find(|acts| path == **acts || path.starts_with(&format!("{acts}::")));
            assert_eq!(acts, None, "{name} uses {path}");
        }
        for acts in ACTS {
            let called = format!("{acts}::");
            let mut places = module.text.match_indices(&called).map(|(at, _)| at);
            let whole = |at| {
                !module.text[..at].ends_with(|sign: char| sign.is_alphanumeric() || sign == '_')
            };
            assert!(!places.any(whole), "{name} calls something of {acts}");
        }
    }
}

fn is_behind(module: &str) -> bool {
    let inside = |room: &str| module == room || module.starts_with(&format!("{room}::"));
    BEHIND.iter().any(|room| inside(room))
}

#[test]
fn what_a_model_can_drive_reaches_the_kernel_through_one_interface() {
    let outside = [
        "std::fs",
        "std::net",
        "std::os",
        "std::process",
        "std::env",
        "std::thread",
        "libc",
        "nix",
        "std::time::Instant",
    ];
    let mut met = 0;
    for (name, module) in modules().into_iter().filter(|(name, _)| is_behind(name)) {
        met += 1;
        let excused = |path: &str| {
            NAMED_THERE.iter().any(|(file, named, _)| {
                (file.is_empty() || *file == name) && path.starts_with(named)
            })
        };
        for path in paths(&module.text) {
            let reaches =
                outside.iter().any(|out| path == *out || path.starts_with(&format!("{out}::")));
            assert!(!reaches || excused(&path), "{name} uses {path}: let the interface have it");
        }
        for called in ["File::", "std::fs::", "thread::", "libc::", "nix::", "env::"] {
            for (at, _) in module.text.match_indices(called) {
                let before = module.text[..at]
                    .rsplit(|sign: char| sign.is_whitespace() || "(&[|!".contains(sign));
                let before = before.into_iter().next().unwrap_or_default();
                let end = module.text[at..]
                    .find(|sign: char| !(sign.is_alphanumeric() || "_:".contains(sign)));
                let path = format!("{before}{}", &module.text[at..at + end.unwrap_or(0)]);
                assert!(excused(&path), "{name} calls {path}: let the interface have it");
            }
        }
    }
    assert!(met > 45, "{met}");
}

/// The public functions of a file, each with its text.
fn functions(text: &str) -> Vec<(&str, &str)> {
    let starts = text.match_indices("pub fn ").map(|(at, word)| at + word.len());
    let one = |at: usize| {
        let rest = &text[at..];
        let end = ["\n}\n", "\n    }\n"].iter().filter_map(|end| rest.find(end)).min();
        let name = rest.find(|sign: char| !(sign.is_alphanumeric() || sign == '_')).unwrap_or(0);
        (&rest[..name], &rest[..end.unwrap_or(rest.len())])
    };
    starts.map(one).collect()
}

#[test]
fn what_they_call_of_the_kernel_layer_asks_the_model_first() {
    let all = modules();
    for (file, free) in ASKED {
        let mut names = BTreeSet::new();
        for (name, text) in functions(&all[file].text) {
            let asks =
                text.contains("ask!(") || text.contains("kernel::model()") || free.contains(&name);
            assert!(asks, "{file}::{name} asks no model");
            names.insert(name);
        }
        for name in free {
            assert!(names.contains(name), "{file} has no {name} any more");
        }
    }
}

/// Those of `sys` that these use and that [`ASKED`] does not list, each with why.
const THROUGH_OTHERS: [(&str, &str); 6] = [
    ("sys", "it has the macro that asks"),
    ("sys::dm", "`Control::run` and `Control::open` ask the model, and all else goes through them"),
    ("sys::dm::message", "what is asked, and the answer"),
    ("sys::dm::store", "`stores` and `number_of` ask the model, all else goes through `Control`"),
    ("sys::disk", "it reads and writes through `Node`"),
    ("sys::devices", "`candidates` asks the model, and all else goes through `Node`"),
];

#[test]
fn nothing_of_the_kernel_layer_is_used_there_that_asks_no_model() {
    let known: BTreeSet<_> =
        ASKED.iter().map(|(file, _)| *file).chain(THROUGH_OTHERS.map(|(file, _)| file)).collect();
    let excused =
        |name: &str| NAMED_THERE.iter().any(|(file, named, _)| *file == name && named.is_empty());
    for (name, module) in modules().into_iter().filter(|(name, _)| is_behind(name)) {
        for used in module.uses.iter().filter(|used| room(used) == "sys") {
            let asks = known.contains(used.as_str()) || excused(&name);
            assert!(asks, "{name} uses {used}, which is not known to ask the model");
        }
    }
}

#[test]
fn the_kernel_layer_knows_cowflushs_devices_in_few_places() {
    let names = |module: &Module| module.uses.iter().any(|used| used.starts_with("pure::stack"));
    let found = modules();
    let found = found.iter().filter(|(name, module)| room(name) == "sys" && names(module));
    let expected: Vec<_> = NAMES_IN_SYS.iter().map(|(name, _)| *name).collect();
    assert_eq!(found.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
}

#[test]
fn no_two_files_of_a_room_need_each_other() {
    let all = modules();
    // A file in a folder may use what the folder's own file declares.
    let uses = |name: &str| -> Vec<&str> {
        let module = all.get(name);
        let used = module.into_iter().flat_map(|module| module.uses.iter().map(String::as_str));
        used.filter(|used| !name.starts_with(&format!("{used}::"))).collect()
    };
    let reached = |name: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), uses(name));
        while let Some(now) = next.pop() {
            if seen.insert(now.to_owned()) {
                next.extend(uses(now));
            }
        }
        seen
    };
    let circles: BTreeSet<Vec<String>> = all
        .keys()
        .map(|name| {
            let together = reached(name).into_iter().filter(|other| reached(other).contains(name));
            together.collect::<Vec<_>>()
        })
        .filter(|together| !together.is_empty())
        .collect();
    let expected =
        CIRCLES.iter().map(|(files, _)| files.iter().map(|file| (*file).to_owned()).collect());
    assert_eq!(circles, expected.collect());
}

#[test]
fn paths_are_found_as_rust_reads_them() {
    let text = "use crate::a::{self, b::{C, d}};\npub use super::e;\nfn f() { super::super::g::h(); crate::i::J }\n";
    let text = without_comments_and_tests(text);
    let all: BTreeSet<_> =
        paths(&text).iter().filter_map(|path| absolute("x::y::z", path)).collect();
    let all: Vec<_> = all.iter().map(|words| words.join("::")).collect();
    for path in ["a", "a::b::C", "a::b::d", "x::y::e", "x::g::h", "i::J"] {
        assert!(all.iter().any(|found| found == path), "{path}: {all:?}");
    }
    assert_eq!(absolute("x::y", "std::fs::read"), None);
    assert!(paths("use std::{fs, io::Read};").contains(&"std::fs".to_owned()));
}
