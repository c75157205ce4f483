//! cowflush keeps a router's root filesystem in a RAM copy-on-write layer and flushes it to the
//! flash card on demand. ARCHITECTURE.md tells how and why.
//!
//! * Pure modules decide and hold most tests: [`units`], [`dm`], [`cow`], [`log`], ….
//! * [`sys`] is the kernel layer: every `unsafe` and every ioctl is there.
//! * [`ops`] runs what was decided; [`commands`] is one file a subcommand.

// What input can't make panic is a rule for the product; a test may.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod boot;
pub mod config;
pub mod cow;
pub mod daemon;
pub mod dm;
pub mod error;
pub mod ext;
pub mod log;
pub mod ops;
pub mod report;
pub mod stack;
#[allow(unsafe_code)]
pub mod sys;
pub mod units;
