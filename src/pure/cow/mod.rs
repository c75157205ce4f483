//! The COW's persistent exception store, byte by byte, and what is computed from it.
//!
//! Pure: [`crate::flush::view`] reads and writes the bytes.

pub mod fill;
pub mod format;
pub mod size;
pub mod store;
pub mod threshold;
pub mod view;
