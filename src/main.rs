//! The `cowflush` command: reads its arguments and runs one subcommand.

#![forbid(unsafe_code)]
// Public items of a binary are nobody's interface.
#![allow(missing_docs)]
// What input can't make panic is a rule for the product; a test may.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod cli;
mod commands;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use argh::FromArgs;
use cowflush::error::{Error, Exit, Result};

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let program = arguments.drain(..1.min(arguments.len())).next().unwrap_or_default();
    // As /init of an initramfs the arguments are the real init's. Process 1 of a container runs what it was told to.
    if let Some(arguments) = commands::init::asked_for(&program, &arguments)
        && commands::init::is_the_machines()
    {
        commands::init::run(arguments.to_vec())
    }
    let words: Vec<String> =
        arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let exit = match cli::Cli::from_args(&["cowflush"], &words) {
        Ok(cli) => run(cli.command).unwrap_or_else(|error| {
            put(std::io::stderr(), &format!("cowflush: {error}\n"));
            error.exit_code()
        }),
        Err(early) if early.status.is_ok() => {
            put(std::io::stdout(), &format!("{}\n", early.output.trim_end()));
            Exit::Done
        }
        Err(early) => {
            put(std::io::stderr(), &format!("cowflush: {}\n", early.output.trim_end()));
            Exit::Usage
        }
    };
    ExitCode::from(exit as u8)
}

fn run(command: cli::Command) -> Result<Exit> {
    match command {
        cli::Command::Flush(options) => commands::flush::flush(options.json, options.direct),
        cli::Command::Merge(options) => commands::flush::merge(options.json),
        cli::Command::Stop(options) if options.shutdown && !options.json => {
            commands::shutdown::run(options.within)
        }
        cli::Command::Stop(options) if options.shutdown || options.within.is_some() => {
            let cause = "--within is for --shutdown, and --json is not";
            Err(Error::new("stop", cause).exit(Exit::Usage))
        }
        cli::Command::Stop(options) => commands::flush::stop(options.json),
        cli::Command::Start(_) => commands::flush::start(),
        cli::Command::Status(options) => commands::status::run(options.json, options.watch),
        cli::Command::History(options) => commands::history::run(options.json),
        cli::Command::Check(options) => commands::check::run(options.json),
        cli::Command::Daemon(_) => commands::daemon::run(),
        cli::Command::Hold(_) => commands::hold::hold(),
        cli::Command::Release(_) => commands::hold::release(),
        cli::Command::Discard(options) => commands::hold::discard(options.now),
        cli::Command::Log(options) => match options.command {
            None if options.word => commands::log::word(),
            None => commands::log::show(options.verify, options.json),
            Some(cli::LogCommand::Format(options)) => commands::log::format(&options),
        },
        cli::Command::Recover(options) => commands::recover::run(&options),
        cli::Command::Init(_) => {
            Err(Error::new("run init", "this is not the init of an initramfs")
                .advise("It is for an initramfs, where the kernel starts it as /init.")
                .exit(Exit::Usage))
        }
        cli::Command::Attach(options) => {
            commands::attach::run(options.root.as_deref(), options.plain, options.by_log)
        }
        cli::Command::Version(_) => {
            put(std::io::stdout(), concat!("cowflush ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(Exit::Done)
        }
    }
}

/// A reader that went away must not stop what was asked for, so a failed write is let be.
fn put(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
