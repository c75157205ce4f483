//! Finding and mounting root, as PID 1 of the initramfs or for a distribution's own.
//!
//! Pure: [`cmdline`], [`modules`], [`reference`], [`superblock`], [`partition`], [`whose`],
//! [`served`]. The others carry it out.

pub mod bringup;
pub mod cmdline;
pub mod console;
pub mod devices;
pub mod flushlog;
pub mod handover;
pub mod inspecting;
pub mod loading;
pub mod modules;
pub mod mounting;
pub mod partition;
pub mod reference;
pub mod rescue;
pub mod served;
pub mod stacking;
pub mod superblock;
pub mod whose;
