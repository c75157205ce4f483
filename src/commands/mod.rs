//! One file a subcommand.

pub mod check;
pub mod flush;
pub mod init;
pub mod log;
pub mod recover;
pub mod status;

use cowflush::boot::cmdline::Options;

/// What this boot was asked for.
fn options() -> Options {
    Options::parse(std::fs::read("/proc/cmdline").unwrap_or_default())
}
