//! What a flush asks of the kernel's devices, as one interface: in a test a model answers
//! ([`ask`]).
//!
//! The real implementation is the functions of this room that are named here, each of which asks
//! the model first. In the program itself there is none, and nothing of this is compiled.
//!
//! What goes to the kernel past it: reads and writes of an open device ([`super::disk`]; they reach
//! a model's device by the file that its path leads to), processes (the guard, the throttle's
//! worker), signals, the lock, memory, clocks.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use nix::errno::Errno;

use super::dm::message::{Message, Request};
use crate::error::Result;
use crate::pure::units::{Bytes, DevNo, Sectors};

/// The kernel's devices.
pub trait Kernel {
    /// `Control::run`: carries out one request to device-mapper.
    fn mapper(&self, request: Request, message: &mut Message) -> std::result::Result<(), Errno>;

    /// `block::name`.
    fn name(&self, device: DevNo) -> String;

    /// `block::path`.
    fn path(&self, device: DevNo) -> PathBuf;

    /// `block::size`.
    fn size(&self, device: DevNo) -> Result<Sectors>;

    /// `block::start`.
    fn start(&self, device: DevNo) -> Option<Sectors>;

    /// `block::flush`.
    fn flush(&self, device: DevNo) -> Result<()>;

    /// `block::write_cache`.
    fn write_cache(&self, device: DevNo) -> io::Result<String>;

    /// `block::set_write_cache`.
    fn set_write_cache(&self, device: DevNo, mode: &str) -> io::Result<()>;

    /// `tmpfs::file`.
    fn file_in_ram(&self, name: &str, size: Bytes) -> Result<File>;

    /// `loopdev::attach`: its open node, and its number.
    fn attach(&self, file: &File) -> (File, DevNo);
}

thread_local! {
    static MODEL: RefCell<Option<Rc<dyn Kernel>>> = const { RefCell::new(None) };
}

/// Lets `model` answer in this thread from now on.
pub fn ask(model: Rc<dyn Kernel>) {
    MODEL.set(Some(model));
}

/// The model, where one answers.
pub(super) fn model() -> Option<Rc<dyn Kernel>> {
    MODEL.with_borrow(Clone::clone)
}
