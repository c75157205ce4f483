//! The stack of devices under root: what it looks like and what to do next.
//!
//! ```text
//! card ── cowflush-origin ── cowflush-logged ── cowflush-sealed ── cowflush-root, mounted as /
//!           linear             snapshot over      snapshot over      snapshot over a COW in RAM,
//!                              the flush log      a sealed COW       or linear
//! ```
//!
//! `cowflush-logged` exists while the flush log holds something, `cowflush-sealed` during a flush.
//! Each of these two layers can be merged into the card; then it becomes `linear` and takes the
//! origin's place and name. Nothing is remembered outside the kernel: every command reads
//! the tables ([`state`]) and decides from them ([`plan`]), so that it can finish or clean up
//! what a killed one began. Pure.

#[cfg(test)]
pub(crate) mod fixtures;
pub mod plan;
pub mod state;

pub use plan::{Goal, PlanError, Step, next};
pub use state::{Device, Live, Mode, Name, Stack, Store};
