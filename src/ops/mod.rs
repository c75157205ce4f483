//! The runner: carries out what the pure modules decide, through the kernel layer.

pub mod cowfile;
pub mod daemon;

pub mod hold;
pub mod log;
pub mod prune;
pub mod quiet;
pub mod rule;
pub mod run_dir;
pub mod seal;
pub mod session;
pub mod settings;
pub mod settle;
pub mod spill;
pub mod status;
pub mod users;
pub mod valve;
pub mod view;
pub mod window;
