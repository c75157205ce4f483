//! Flushes: the only code that changes a stack. [`session`] is a command at work; it asks
//! [`crate::pure::stack`] for the next step and lets the files here carry it out. [`status`]
//! changes nothing.

pub mod append;
pub mod context;
pub mod cow_device;
pub mod errors;
pub mod figures;
pub mod flushlog;
pub mod handover;
pub mod last_step;
pub mod layer;
#[cfg(test)]
mod machine;
pub mod merge;
pub mod parts;
pub mod prune;
pub mod seal;
pub mod session;
pub mod settle;
pub mod status;
pub mod view;
pub mod write_cache;
