//! Finding and mounting root, as PID 1 of the initramfs or for a distribution's own. What is decided on the way is in
//! [`crate::pure`].

pub mod bringup;
pub mod find_log;
pub mod inspecting;
pub mod loading;
pub mod messages;
pub mod mounting;
pub mod rescue;
pub mod stacking;
pub mod switch_root;
