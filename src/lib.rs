//! cowflush keeps a router's root filesystem in a RAM copy-on-write layer and flushes it to the
//! flash card on demand. ARCHITECTURE.md tells how and why.
//!
//! * Pure modules decide and hold most tests: [`units`], [`dm`], [`cow`], ….
//! * [`sys`] is the kernel layer: every `unsafe` and every ioctl is there.
//! * [`ops`] runs what was decided; [`commands`] is one file a subcommand.

#![deny(missing_docs)]

pub mod boot;
pub mod cow;
pub mod dm;
pub mod error;
pub mod ops;
pub mod report;
pub mod stack;
pub mod sys;
pub mod units;
