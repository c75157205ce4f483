//! What people and programs get to read, as text. Where it goes is in [`crate::output`] and [`crate::notes`].

pub mod history;
pub mod json;
pub mod metrics;
pub mod record;
pub mod totals;
