//! What decides: no file, no process and no system call, so that all of it is tested on any
//! machine. `tests/rooms.rs` refuses `std::fs`, `std::io`, `std::process`, libc and nix here.
//!
//! * [`units`] are sectors, bytes and device numbers, [`chunks`] what a device is read in, and
//!   [`crc`] checks them; [`field`] is a number at a place of a structure; [`config`] is what an
//!   owner configures, [`cmdline`] what the kernel command line says, [`modules`] the list of
//!   modules in an initramfs.
//! * [`dm`] reads and writes device-mapper's tables; [`stack`] decides the next step; [`cow`] knows
//!   a COW's layout.
//! * [`flushlog`] is the log's layout and meaning; [`disk`] names disks and filesystems; [`ext`]
//!   finds what is free.
//! * [`policy`] decides when to flush and when to hold writers back; [`report`] is what people and
//!   programs get to read.

pub mod chunks;
pub mod cmdline;
pub mod config;
pub mod cow;
pub mod crc;
pub mod disk;
pub mod dm;
pub mod ext;
pub mod field;
pub mod flushlog;
pub mod modules;
pub mod policy;
pub mod report;
pub mod stack;
pub mod units;
