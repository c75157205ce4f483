//! What people and programs get to read, as text. [`crate::output`] and [`crate::notes`] write it.

pub mod history;
pub mod json;
pub mod metrics;
pub mod record;
pub mod totals;
