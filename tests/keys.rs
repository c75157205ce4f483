//! Every list of the configuration's keys matches their table (src/pure/config). `make keys` writes
//! the lists.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

use cowflush::pure::config::{Config, KEYS, Key};

/// The part of a file that is made from the table: it is between two texts.
struct List {
    path: PathBuf,
    begins: &'static str,
    ends: &'static str,
    text: String,
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lines(line: impl Fn(&Key) -> String) -> String {
    KEYS.iter().map(line).collect()
}

/// The keys' names as UCI spells them.
fn uci(key: &Key) -> String {
    key.name.replace('-', "_")
}

/// The only document with the table of keys.
fn document() -> PathBuf {
    fn documents(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.iter().flat_map(|folder| documents(folder)).chain(files).collect()
    }
    let mut all = documents(&top().join("docs"));
    all.push(top().join("README.md"));
    all.retain(|path| fs::read_to_string(path).unwrap_or_default().contains(&table()));
    let [path] = &all[..] else { panic!("the table of keys is in {all:?}") };
    path.clone()
}

/// The table's beginning: its head, which the kernel command line's table shares, and its first
/// key.
fn table() -> String {
    format!("{TABLE}| `{}` |", KEYS[0].name)
}

const TABLE: &str = "\n| key | default | meaning |\n| --- | --- | --- |\n";

/// Text for a manual page: backticks become bold, and a hyphen is one that can be copied.
fn roff(markdown: &str) -> String {
    let pieces = markdown.split('`').enumerate();
    let text: String = pieces
        .map(|(at, piece)| if at % 2 == 1 { format!("\\fB{piece}\\fR") } else { piece.to_owned() })
        .collect();
    text.replace('-', "\\-")
}

fn capital(text: &str) -> String {
    let mut signs = text.chars();
    signs
        .next()
        .map_or_else(String::new, |first| format!("{}{}", first.to_uppercase(), signs.as_str()))
}

/// The names, wrapped as lines of a shell script.
fn wrapped() -> String {
    let mut text = String::new();
    let mut width = "KEYS=\"".len();
    for key in KEYS {
        let first = text.is_empty();
        if width + 1 + key.name.len() > 100 {
            text.push_str("\n\t");
            width = 8;
        } else if !first {
            text.push(' ');
            width += 1;
        }
        text.push_str(key.name);
        width += key.name.len();
    }
    text
}

fn lists() -> [List; 5] {
    let manual = |key: &Key| {
        let (name, default) = (roff(key.name), roff(&key.default()));
        format!(".TP\n.BR \"{name}\" \" ({default})\"\n{}\n", roff(&capital(key.help)))
    };
    [
        List {
            path: document(),
            begins: TABLE,
            ends: "\n",
            text: lines(|key| format!("| `{}` | `{}` | {} |\n", key.name, key.default(), key.help)),
        },
        List {
            path: top().join("package/cowflush.8"),
            begins: ".SH CONFIGURATION\n",
            ends: ".SH ",
            text: lines(manual),
        },
        List {
            path: top().join("package/cowflush.conf"),
            begins: "\n\n",
            ends: "",
            text: lines(|key| format!("# {} = {}\n", key.name, key.default())),
        },
        List {
            path: top().join("package/openwrt/files/cowflush.config"),
            begins: "config cowflush 'daemon'\n",
            ends: "",
            text: lines(|key| format!("\t# option {} '{}'\n", uci(key), key.default())),
        },
        List {
            path: top().join("package/openwrt/files/cowflush.init"),
            begins: "\nKEYS=\"",
            ends: "\"\n",
            text: wrapped(),
        },
    ]
}

impl List {
    /// The file as it is, and as it should be.
    fn both(&self) -> (String, String) {
        let file = fs::read_to_string(&self.path).unwrap();
        let marker = if self.begins == TABLE { table() } else { self.begins.to_owned() };
        let at = file.find(&marker);
        let at = at.unwrap_or_else(|| panic!("{} has no {marker:?}", self.path.display()));
        let (before, rest) = file.split_at(at + self.begins.len());
        let end = match self.ends {
            "" => rest.len(),
            // A table ends with its last row.
            "\n" => rest
                .lines()
                .take_while(|line| line.starts_with('|'))
                .map(|line| line.len() + 1)
                .sum(),
            ends => rest.find(ends).unwrap(),
        };
        let made = format!("{before}{}{}", self.text, &rest[end..]);
        (file, made)
    }
}

#[test]
fn everything_that_lists_the_keys_has_each_of_them_with_its_default_and_its_help() {
    let mut stale = Vec::new();
    for list in lists() {
        let (file, made) = list.both();
        if file != made {
            stale.push(list.path.clone());
            if std::env::var_os("COWFLUSH_WRITE_KEYS").is_some() {
                fs::write(&list.path, made).unwrap();
            }
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} said something else about the keys: `make keys` writes them"
    );
}

#[test]
fn the_files_of_the_packages_are_the_defaults() {
    // With every setting of the package's file uncommented
    let file = fs::read_to_string(top().join("package/cowflush.conf")).unwrap();
    let settings = file.split_once("\n\n").unwrap().1.replace("# ", "");
    let mut config = Config::default();
    assert_eq!(config.read(&settings), [""; 0]);
    assert_eq!(config, Config::default());
    assert_eq!(settings, config.write());
}

#[test]
fn the_fuzzer_begins_with_every_key() {
    let seed = fs::read_to_string(top().join("fuzz/seeds/config/usual")).unwrap();
    let set =
        |key: &&Key| seed.lines().any(|line| line.split('=').next().unwrap().trim() == key.name);
    let missing: Vec<&str> = KEYS.iter().filter(|key| !set(key)).map(|key| key.name).collect();
    assert_eq!(missing, [""; 0], "in fuzz/seeds/config/usual");
}
