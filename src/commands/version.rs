//! `cowflush version`.

use argh::FromArgs;

use crate::error::Exit;
use crate::output::put;

/// Print the version.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
pub struct Arguments {}

/// Prints the version.
pub fn run() -> Exit {
    put(std::io::stdout(), concat!("cowflush ", env!("CARGO_PKG_VERSION"), "\n"));
    Exit::Done
}
