//! Device-mapper in plain values: typed targets to table text, table and status text back.
//!
//! Pure: the ioctls are in [`crate::sys::dm`].

pub mod status;
pub mod target;

pub use status::SnapshotStatus;
pub use target::{Line, Target};
