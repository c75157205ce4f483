//! The COW's persistent exception store, byte by byte, and what is computed from it.
//!
//! Pure: who reads and writes the bytes is in [`crate::flush::view`].

pub mod fill;
pub mod format;
pub mod size;
pub mod store;
pub mod threshold;
pub mod view;
