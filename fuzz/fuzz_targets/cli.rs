//! The arguments of the `cowflush` command.
#![cfg_attr(not(test), no_main)]

// The command line belongs to the binary, not to the library.
#[path = "../../src/cli.rs"]
mod arguments;

use argh::FromArgs;
use arguments::{Cli, Command};

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the arguments, one a line. None holds a zero byte: the kernel ends them with one
/// (and argh takes it for any subcommand).
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<&str> = text.split_terminator(['\n', '\0']).collect();
    match Cli::from_args(&["cowflush"], &words) {
        Ok(cli) => {
            let (name, json) = read(&cli.command);
            // `--` ends the options, wherever it stands.
            let mut said = words.iter().filter(|word| **word != "--");
            assert_eq!(said.next(), Some(&name), "{words:?}");
            // Nothing that was not understood is let pass, nothing understood is lost.
            assert!(said.clone().all(|word| *word == "--json"), "{words:?}");
            assert_eq!(said.count() > 0, json, "{words:?}");
        }
        Err(early) => {
            // Help or a complaint: a user must see something.
            assert!(!early.output.trim_end().is_empty(), "{words:?}");
            let subcommand = ["flush", "stop", "start", "status", "check", "init", "version"];
            assert!(!matches!(words[..], [word] if subcommand.contains(&word)), "{words:?}");
        }
    }
}

fn read(command: &Command) -> (&'static str, bool) {
    match command {
        Command::Flush(options) => ("flush", options.json),
        Command::Stop(options) => ("stop", options.json),
        Command::Start(_) => ("start", false),
        Command::Status(options) => ("status", options.json),
        Command::Check(options) => ("check", options.json),
        Command::Init(_) => ("init", false),
        Command::Version(_) => ("version", false),
    }
}
