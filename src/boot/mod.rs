//! Finds and mounts root, as PID 1 of the initramfs or for a distribution's own. The decisions on
//! the way are in [`crate::pure`].

pub mod bringup;
pub mod find_log;
pub mod inspecting;
pub mod loading;
pub mod messages;
pub mod mounting;
pub mod rescue;
pub mod stacking;
pub mod switch_root;
