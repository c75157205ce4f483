//! Runs every checked-in seed of the fuzz targets through the targets' own code, so that what the
//! fuzzer once found, and what it starts from, stays right without the fuzzer.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/fuzz_targets"]
mod targets {
    pub mod card;
    pub mod cli;
    pub mod cmdline;
    pub mod config;
    pub mod cow;
    pub mod ext;
    pub mod log;
    pub mod modules;
    pub mod record;
    pub mod tables;
}

/// A target's name, and its check of an input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("card", targets::card::check),
    ("cli", targets::cli::check),
    ("cmdline", targets::cmdline::check),
    ("config", targets::config::check),
    ("cow", targets::cow::check),
    ("ext", targets::ext::check),
    ("log", targets::log::check),
    ("modules", targets::modules::check),
    ("record", targets::record::check),
    ("tables", targets::tables::check),
];

fn sorted(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let mut found: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn every_seed_passes() {
    for &(name, check) in TARGETS {
        let seeds = sorted(&format!("seeds/{name}"));
        assert!(!seeds.is_empty(), "{name} has no seed");
        for seed in seeds {
            println!("{}", seed.display());
            check(&fs::read(&seed).unwrap());
        }
    }
}

#[test]
fn every_target_is_listed_here() {
    let stems = |folder| {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        sorted(folder).into_iter().map(stem).collect::<Vec<_>>()
    };
    let listed: Vec<_> = TARGETS.iter().map(|target| target.0.to_owned()).collect();
    assert_eq!(stems("fuzz_targets"), listed);
    assert_eq!(stems("seeds"), listed);
}

/// proptest finds its file by the module's path, and reports no error if it is missing.
#[test]
fn what_proptest_once_found_lies_where_its_module_is() {
    fn check(seeds: &Path, sources: &Path) -> usize {
        let entries = fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap());
        let found = entries.map(|entry| {
            let inside = sources.join(entry.file_name());
            if entry.path().is_dir() {
                return check(&entry.path(), &inside);
            }
            let module = inside.with_extension("rs");
            assert!(module.exists(), "{} has no {}", entry.path().display(), module.display());
            1
        });
        found.sum()
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(check(&top.join("proptest-regressions"), &top.join("src")) > 0);
}
