//! What people and programs get to read.

pub mod console;
pub mod history;
pub mod json;
pub mod kmsg;
pub mod metrics;
pub mod progress;
pub mod record;
pub mod syslog;
pub mod totals;
