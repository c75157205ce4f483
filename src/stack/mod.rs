//! The stack of devices under root: what it looks like and what to do next.
//!
//! ```text
//! card ── cowflush-origin (linear) ── cowflush-sealed (snapshot | snapshot-merge | linear)
//!              └────────────────────────────┴── cowflush-root (snapshot | linear), mounted as /
//! ```
//!
//! `cowflush-sealed` and `cowflush-view` exist only during a flush; then the sealed device takes
//! the origin's place and name. Nothing is remembered outside the kernel: every command reads
//! the tables ([`state`]) and decides from them ([`plan`]), so that it can finish or clean up
//! what a killed one began. Pure.

pub mod plan;
pub mod state;

pub use plan::{Step, Trouble, next};
pub use state::{Device, Live, Mark, Mode, Name, Stack};
