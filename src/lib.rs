//! cowflush keeps a router's root filesystem in a RAM copy-on-write layer and flushes it to the
//! flash card on demand. ARCHITECTURE.md says how and why.
//!
//! * [`pure`] decides, and holds most tests: it reads no file and calls no kernel.
//! * [`sys`] is the kernel layer: every `unsafe` and every ioctl is there.
//! * [`flush`] changes the stack, [`daemon`] decides when, [`boot`] builds it. [`commands`] has one
//!   file for each subcommand.
//! * [`throttle`] holds writers back, [`notes`] are in /run/cowflush, [`output`] is where messages
//!   go.
//!
//! Each room uses only those below it: commands, then daemon and boot, flush, then throttle, notes
//! and output, sys, pure. `tests/rooms.rs` checks that.

// The product must not panic, whatever its input is; a test may.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod boot;
pub mod commands;
pub mod daemon;
pub mod error;
pub mod flush;
pub mod notes;
pub mod output;
pub mod pure;
#[cfg(test)]
mod simulate;
#[allow(unsafe_code)]
pub mod sys;
pub mod throttle;
