//! The runner: carries out what the pure modules decide, through the kernel layer.

pub mod cowfile;
pub mod daemon;
pub mod daemon_note;
pub mod feeder;
pub mod flush;
pub mod hold;
pub mod led;
pub mod log;
pub mod prune;
pub mod quiet;
pub mod report;
pub mod run_dir;
pub mod seal;
pub mod settle;
pub mod spill;
pub mod status;
pub mod valve;
pub mod view;
pub mod voice;
pub mod watch;
pub mod window;
