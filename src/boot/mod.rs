//! Finding and mounting root, as PID 1 of the initramfs or for a distribution's own.
//!
//! Pure: [`cmdline`], [`modules`], [`reference`], [`superblock`], [`partition`], [`whose`]. The others
//! carry it out.

pub mod bringup;
pub mod cmdline;
pub mod console;
pub mod devices;
pub mod flushlog;
pub mod handover;
pub mod loading;
pub mod modules;
pub mod mounting;
pub mod partition;
pub mod reference;
pub mod rescue;
pub mod stacking;
pub mod superblock;
pub mod whose;
