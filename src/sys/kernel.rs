//! What a flush asks of the kernel's devices, as one interface: in a test a model answers
//! ([`ask`]).
//!
//! The real implementation is the functions of this room that are named here, each of which asks
//! the model first. In the program itself there is none, and nothing of this is compiled.
//!
//! Beside devices it is the lock, the two helpers of a flush (a model runs a worker's steps, and
//! decides for a guard, in the process that asks), root's filesystem, memory, clocks, signals, and
//! text files under /run, /proc and /sys. For what is not about devices, the methods here answer as
//! a machine without faults does.

use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::block::Written;
use super::devices::Candidate;
use super::dm::Control;
use super::dm::message::{Message, Request};
use super::errand::Errand;
use super::events::Happened;
use super::watch::Change;
use crate::error::Result;
use crate::pure::policy::cow_limits::CowLimits;
use crate::pure::policy::meminfo::MemInfo;
use crate::pure::policy::served::Seen;
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::throttle::guard::AtEnd;
use crate::throttle::worker::Work;

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

    /// `Node::open`. With O_EXCL in `flags` a device in use is refused with EBUSY.
    fn open(&self, path: &Path, writable: bool, flags: libc::c_int) -> io::Result<Box<dyn Opened>>;

    /// `tmpfs::file`.
    fn file_in_ram(&self, name: &str, size: Bytes) -> Result<Box<dyn Opened>>;

    /// `loopdev::attach`: its open node, and its number.
    fn attach(
        &self,
        file: &dyn Opened,
        name: &str,
        limit: Bytes,
    ) -> Result<(Box<dyn Opened>, DevNo)>;

    /// `loopdev::grow`.
    fn grow(&self, device: DevNo, limit: Bytes) -> Result<()>;

    /// `dm::store::stores`.
    fn stores(&self) -> Vec<(u32, bool)>;

    /// `dm::store::number_of`.
    fn store_number(&self, device: DevNo) -> Option<u32>;

    /// `block::number_at`.
    fn number_at(&self, path: &Path) -> Option<DevNo>;

    /// `block::disk_of`.
    fn disk_of(&self, device: DevNo) -> Option<DevNo>;

    /// `block::is_write_protected`.
    fn is_write_protected(&self, device: DevNo) -> bool;

    /// `block::refuse_writes`.
    fn refuse_writes(&self, device: DevNo, refuse: bool) -> Result<()>;

    /// The block devices that root or a log could be on, by name ([`Candidate::of_model`]).
    fn disks(&self) -> Vec<Candidate>;

    /// `time::pause`.
    fn pause(&self, time: Duration);

    /// `Instant::now`: the time since a fixed moment.
    fn clock(&self) -> Duration {
        Duration::ZERO
    }

    /// `time::running`.
    fn running(&self) -> u64 {
        self.clock().as_millis() as u64
    }

    /// `time::now`.
    fn now(&self) -> i64 {
        self.clock().as_secs() as i64
    }

    /// `random::random`.
    fn random(&self) -> Result<u64> {
        Ok(4)
    }

    /// `Control::open`.
    fn control(&self) -> Result<Control>;

    /// `lock::take` and `lock::keep`.
    fn lock(&self) -> Result<()> {
        Ok(())
    }

    /// `lock::release`.
    fn unlock(&self) {}

    /// `lock::holder`.
    fn holder(&self) -> Option<i32> {
        None
    }

    /// `guard::start`.
    fn post_guard(&self, at_end: AtEnd) -> Result<()> {
        drop(at_end);
        Ok(())
    }

    /// `Guard::freeze`.
    fn guard_freezes(&self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    /// `Guard::thaw`.
    fn guard_thaws(&self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    /// `Guard::dismiss`.
    fn dismiss_guard(&self) {}

    /// `Worker::start`.
    fn start_worker(&self, work: Box<dyn Work>) -> Result<()> {
        drop(work);
        Ok(())
    }

    /// `Worker::work`.
    fn worker_works(&self, limits: CowLimits) -> bool {
        let _ = limits;
        true
    }

    /// `Worker::idle`.
    fn worker_rests(&self) -> bool {
        true
    }

    /// `Worker::drop`.
    fn dismiss_worker(&self) {}

    /// `block::thaw` of root's filesystem.
    fn thaw(&self) {}

    /// `Syncing::begin`.
    fn begin_to_write_out(&self) -> Result<()> {
        Ok(())
    }

    /// `syncing::write_out` of root's filesystem.
    fn write_out(&self) -> std::result::Result<(), Errno> {
        Ok(())
    }

    /// `mounting::root`.
    fn mount(&self, device: &Path, writable: bool) -> Result<&'static str> {
        let _ = device;
        Ok(if writable { "rw" } else { "ro" })
    }

    /// `Held::arrived`: a signal that came and was not taken yet.
    fn signal(&self) -> Option<Signal> {
        None
    }

    /// `memory::info`.
    fn memory(&self) -> Result<MemInfo> {
        let all = Bytes(256 << 20);
        Ok(MemInfo { total: all, available: all, ..MemInfo::default() })
    }

    /// `mlock::all`.
    fn keep_in_memory(&self) -> Result<()> {
        Ok(())
    }

    /// The functions of `priority`, which change nothing that a model keeps.
    fn priority(&self) {}

    /// `kmsg::say`.
    fn say(&self, text: &str) -> io::Result<()> {
        let _ = text;
        Ok(())
    }

    /// `program::keep`.
    fn keep_program(&self) -> io::Result<()> {
        Ok(())
    }

    /// `file::read`.
    fn text(&self, path: &Path) -> io::Result<String> {
        let _ = path;
        Err(io::ErrorKind::NotFound.into())
    }

    /// `file::write`.
    fn put_text(&self, path: &Path, text: &str) -> io::Result<()> {
        let _ = (path, text);
        Ok(())
    }

    /// `file::inode`.
    fn inode(&self, path: &Path) -> Option<u64> {
        panic!("the model has no inode of {}", path.display())
    }

    /// `block::written`.
    fn written(&self, device: DevNo) -> Option<Written>;

    /// `block::mapped`.
    fn mapped(&self, name: &str) -> Option<DevNo>;

    /// `block::below`.
    fn below(&self, device: DevNo) -> Vec<DevNo> {
        panic!("the model has no sysfs, and so nothing that says what {device} stands on")
    }

    /// `inspecting::look`: whether root has the program and its service, as a machine without
    /// faults has.
    fn look_on_root(&self) -> (Seen, Seen) {
        (Seen::There, Seen::There)
    }

    /// `events::wait`: the time passes, or something happens.
    fn wait(&self, millis: u64) -> Happened;

    /// `Watch::changed`: what changed last under these paths since the last call.
    fn changed(&self, paths: &[String]) -> Option<(PathBuf, Change)>;

    /// `time::local`, where the wall clock says that: days since a fixed day, and minutes since
    /// midnight. A machine without faults is in UTC.
    fn local(&self, seconds: i64) -> (i64, u16) {
        (seconds.div_euclid(86_400), (seconds.rem_euclid(86_400) / 60) as u16)
    }

    /// `process::number`.
    fn number_of_process(&self) -> u32 {
        100
    }

    /// `Program::start`.
    fn start_program(&self, name: &CStr) -> nix::Result<()> {
        panic!("the model has no program {name:?}")
    }

    /// `Program::wait`.
    fn program_succeeds(&self) -> bool {
        panic!("the model has no programs")
    }

    /// `process::reboot`.
    fn reboot(&self) -> Errno {
        panic!("the model does not boot again by itself")
    }

    /// `watchdog::begin`.
    fn begin_watchdog(&self, path: &Path) -> Result<Duration> {
        panic!("the model has no watchdog {}", path.display())
    }

    /// `watchdog::progress`, which does nothing unless one was begun.
    fn feed_watchdog(&self) {}

    /// `watchdog::leave`.
    fn leave_watchdog(&self) {
        panic!("the model has no watchdog")
    }

    /// `watchdog::stop`.
    fn stop_watchdog(&self) {
        panic!("the model has no watchdog")
    }

    /// `swap::on`.
    fn use_swap(&self, path: &Path, flags: u32) -> std::result::Result<(), Errno> {
        panic!("the model has no swap {} {flags}", path.display())
    }

    /// `swap::give_up`.
    fn give_up_swap(&self, path: &str) -> Result<Errand> {
        panic!("the model has no swap {path}")
    }

    /// `file::remove`.
    fn remove_text(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Err(io::ErrorKind::NotFound.into())
    }
}

/// An open device or file of a model, as [`super::node::Node`] has it.
pub trait Opened {
    /// Its size.
    fn size(&self) -> io::Result<Bytes>;

    /// Reads all of `into` from byte `at` on.
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `from` from byte `at` on.
    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    fn sync_all(&self) -> io::Result<()>;

    /// The number by which the model knows a file in RAM.
    fn file(&self) -> u64;
}

thread_local! {
    static MODEL: RefCell<Option<Rc<dyn Kernel>>> = const { RefCell::new(None) };
}

/// Lets `model` answer in this thread from now on.
pub fn ask(model: Rc<dyn Kernel>) {
    MODEL.set(Some(model));
}

/// The model, where one answers.
pub(crate) fn model() -> Option<Rc<dyn Kernel>> {
    MODEL.with_borrow(Clone::clone)
}
