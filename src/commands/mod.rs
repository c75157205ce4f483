//! One file a subcommand.

pub mod check;
pub mod flush;
pub mod init;
pub mod status;
