//! What people and programs get to read.

pub mod json;
pub mod progress;
pub mod record;
pub mod syslog;
