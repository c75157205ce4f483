//! The COW's persistent exception store, byte by byte, and what is computed from it.
//!
//! Pure: [`crate::flush::view`] reads and writes the bytes.

pub mod exception_store;
pub mod fill;
pub mod merge_order;
pub mod store;
pub mod threshold;
