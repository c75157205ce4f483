//! The `cowflush` command: reads its arguments and runs one subcommand.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use argh::FromArgs;
use cowflush::commands::{Cli, init};
use cowflush::error::Exit;
use cowflush::output::put;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let program = arguments.drain(..1.min(arguments.len())).next().unwrap_or_default();
    // As /init of an initramfs, the arguments are the real init's. As process 1 of a container,
    // this runs the given subcommand.
    if let Some(arguments) = init::asked_for(&program, &arguments)
        && init::is_the_machines()
    {
        init::run(arguments.to_vec())
    }
    let words: Vec<String> =
        arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let exit = match Cli::from_args(&["cowflush"], &words) {
        Ok(cli) => cli.command.run().unwrap_or_else(|error| {
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
