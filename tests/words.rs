//! The words of the sources: the kernel's and the field's, and ours only where those have none
//! (docs/glossary.md).
//!
//! A private word that was replaced must not return as a name, nor a phrase that hides its actor.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// Replaced names, each with the current one.
const RETIRED: [(&str, &str); 31] = [
    ("attend", "serve"),
    ("attendant", "worker"),
    ("brim", "limit"),
    ("cowfile", "cow_device"),
    ("Direct", "Disk"),
    ("feeder", "watchdog"),
    ("gate", "throttle"),
    ("Guarded", "Compared"),
    ("Gate", "Writers"),
    ("glance", "poll_cow"),
    ("hands", "Context"),
    ("How", "FlushOptions"),
    ("hush", "defer"),
    ("let_be", "not_emptied"),
    ("NoLog", "LogError"),
    ("note_tries", "note_boots"),
    ("Now", "Sample"),
    ("pace", "threshold"),
    ("quiet", "write_cache"),
    ("roof", "log_capacity"),
    ("rule", "cow_limits"),
    ("Rule", "CowLimits"),
    ("seat", "root's origin"),
    ("tend", "show_progress"),
    ("tight", "FrozenRoot"),
    ("Tries", "BootCount"),
    ("Trouble", "PlanError"),
    ("valve", "throttle"),
    ("Why", "Refusal"),
    ("Wish", "Goal"),
    ("witness", "fingerprint"),
];

/// Files whose name said something else than what is in them, each with what it is called now.
const RETIRED_FILES: [(&str, &str); 11] = [
    ("flush/flushlog/guard", "compare: the guard is the process that wakes root up"),
    ("flush/flushlog/tries", "count_boots"),
    ("flush/settled", "figures"),
    ("pure/cow/format", "exception_store"),
    ("pure/cow/size", "policy/cow_memory: how much a COW may take of the RAM, and the reserve"),
    ("pure/cow/view", "merge_order"),
    ("pure/disk/superblock", "filesystem: which one it is, of all that can be root"),
    ("pure/flushlog/format", "records"),
    ("pure/flushlog/tries", "boot_count"),
    ("pure/policy/memory", "meminfo"),
    ("pure/policy/pressure", "throttle: when writers are held back"),
];

/// Files of one room with the same name, each with why.
const SAME_NAME: [(&str, &str, &str); 2] = [
    ("flush", "append", "the step of a flush, and what the log does for it"),
    ("sys", "store", "the kernel's, and the model's of it"),
];

/// Phrases without an actor, or that can be read as their opposite, each with a better one.
const PHRASES: [(&str, &str); 6] = [
    ("whoever", "name the process, the program or the user"),
    ("everybody", "name the processes, the programs or the users"),
    ("in doubt it is", "say which answer counts when the answer is unknown"),
    ("let be", "say that it stays as it is"),
    ("needn't", "need not"),
    ("sent home", "dismissed"),
];

fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut all: Vec<_> = folders.iter().flat_map(|folder| self::files(folder, end)).collect();
    all.extend(files.into_iter().filter(|path| path.extension().is_some_and(|is| is == end)));
    all
}

/// Removes comments, and the content of strings and characters.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let hashes =
            rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        let raw = hashes.filter(|hashes| rest[1 + hashes..].starts_with('"'));
        let inside = code.ends_with(|sign: char| sign.is_alphanumeric() || sign == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let (Some(hashes), false) = (raw, inside) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            begin + rest[begin..].find(&end).expect("a string ends") + end.len()
        } else if sign == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|sign| {
                let ends = sign == '"' && !escaped;
                escaped = sign == '\\' && !escaped;
                ends
            });
            end.expect("a string ends") + 2
        } else if let Some(character) = character(rest) {
            character
        } else {
            code.push(sign);
            rest = &rest[sign.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

/// The length of the character that a text begins with; `None` for anything else, such as a
/// lifetime.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let escaped = inside.starts_with('\\');
    let first = inside.chars().take(1 + usize::from(escaped)).map(char::len_utf8).sum::<usize>();
    let end = inside[first..].find('\'')?;
    (escaped && end < 10 || end == 0).then_some(1 + first + end + 1)
}

fn names(text: &str) -> Vec<String> {
    let code = code(text);
    let words = code.split(|sign: char| !sign.is_alphanumeric() && sign != '_');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn no_retired_word_is_a_name_in_the_sources() {
    let all = files(&root().join("src"), "rs");
    assert!(all.len() > 100, "{}", all.len());
    let mut found = Vec::new();
    for path in all {
        let names = names(&fs::read_to_string(&path).unwrap());
        for (word, instead) in RETIRED {
            if names.iter().any(|name| name == word) {
                found.push(format!("{}: `{word}` is called {instead}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_file_has_one_name_of_its_own_in_its_room() {
    let src = root().join("src");
    for (file, instead) in RETIRED_FILES {
        assert!(!src.join(file).with_extension("rs").exists(), "{file} is called {instead}");
    }
    let mut seen = std::collections::BTreeMap::<_, Vec<PathBuf>>::new();
    for path in files(&src, "rs") {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.iter().next().unwrap().to_owned();
        let name = path.file_stem().unwrap().to_owned();
        if name != "mod" && !inside.iter().any(|folder| folder == "tests") {
            seen.entry((room, name)).or_default().push(path);
        }
    }
    seen.retain(|_, paths| paths.len() > 1);
    let found: Vec<_> =
        seen.keys().map(|(room, name)| (room.to_str().unwrap(), name.to_str().unwrap())).collect();
    let known: Vec<_> = SAME_NAME.iter().map(|(room, name, _)| (*room, *name)).collect();
    assert_eq!(found, known, "two files of a room with one name: {seen:?}");
}

/// A text in lower case, as one line, since a phrase may continue on the next line of a comment or
/// paragraph.
fn flat(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !["//", "///", "//!", "\\"].contains(word));
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

#[test]
fn no_sentence_hides_who_does_it() {
    let mut all = files(&root().join("src"), "rs");
    all.extend(files(&root().join("docs"), "md"));
    all.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    let mut found = Vec::new();
    for path in all {
        let text = flat(&fs::read_to_string(&path).unwrap());
        for (phrase, instead) in PHRASES {
            let mut places = text.match_indices(phrase).map(|(at, _)| at);
            let whole = |at: usize| {
                let around =
                    [text[..at].chars().next_back(), text[at + phrase.len()..].chars().next()];
                around.iter().flatten().all(|sign| !sign.is_alphanumeric())
            };
            if places.any(whole) {
                found.push(format!("{}: \"{phrase}\": {instead}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn names_are_told_from_comments_and_strings() {
    let text = "// rule\nfn f<'a>(roof: &'a str) -> u8 { \"brim \\\" seat\"; r#\"quiet\"#; b'\\''; 'x'; cow_rule }";
    assert_eq!(names(text), ["fn", "f", "a", "roof", "a", "str", "u8", "b", "cow_rule"]);
}
