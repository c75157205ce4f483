//! Device-mapper's ioctls through one funnel on one fixed buffer.
//!
//! Source: include/uapi/linux/dm-ioctl.h and drivers/md/dm-ioctl.c.

pub(super) mod message;
pub mod store;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Doing, Error, Result};
use crate::pure::dm::target::Line;
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::stack::{Device, Live, Name, Stack};
use crate::pure::units::DevNo;
use crate::sys::mknod;
use crate::sys::time::pause;

pub use message::{Message, Request};

/// How often, and after what pause, a removal is tried again while a program has the device open.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Where the kernel takes the ioctls.
pub const CONTROL: &str = "/dev/mapper/control";

/// The control device, open. A clone is the same descriptor.
#[derive(Clone)]
pub struct Control(Rc<File>);

impl Control {
    /// Opens [`CONTROL`].
    pub fn open() -> Result<Self> {
        ask!(control());
        // sysfs, and by it the node that OpenWrt's preinit makes, has another name for it.
        mknod::misc(CONTROL, "device-mapper");
        File::options()
            .read(true)
            .write(true)
            .open(CONTROL)
            .doing(|| format!("open {CONTROL}"))
            .map(|file| Self(Rc::new(file)))
            .map_err(|error| {
                error.advise(if nix::unistd::geteuid().is_root() {
                    "The kernel needs device-mapper (CONFIG_BLK_DEV_DM); see `cowflush check`."
                } else {
                    "Run this as root."
                })
            })
    }

    /// A control device behind which a model answers.
    #[cfg(test)]
    pub(crate) fn of(file: File) -> Self {
        Self(Rc::new(file))
    }

    /// The open file, on which locks are taken.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Runs one request. The only way to the kernel's device-mapper; allocates nothing.
    pub fn run(&self, request: Request, message: &mut Message) -> std::result::Result<(), Errno> {
        message.prepare(request);
        ask!(mapper(request, message));
        // SAFETY: every request in `Request` takes a `struct dm_ioctl` with data_size bytes
        // behind the pointer; `Message` is that struct with its buffer (sizes asserted above),
        // initialised, exclusively borrowed, and outlives the call.
        let result = unsafe {
            libc::ioctl(self.0.as_raw_fd(), request.code() as _, std::ptr::from_mut(message))
        };
        Errno::result(result)?;
        if message.is_cut() { Err(Errno::ENOBUFS) } else { Ok(()) }
    }

    fn ask(
        &self,
        request: Request,
        mut message: Box<Message>,
        what: &str,
        name: &str,
    ) -> Result<Box<Message>> {
        self.run(request, &mut message).doing(|| format!("{what} {name}"))?;
        Ok(message)
    }

    /// The interface's version.
    pub fn version(&self) -> Result<[u32; 3]> {
        let message = self.ask(
            Request::Version,
            Message::named(""),
            "ask for the version of",
            "device-mapper",
        )?;
        Ok(message.interface_version())
    }

    /// The version of a target type; `None` when the kernel has not (yet) got it.
    pub fn target_version(&self, kind: &str) -> Result<Option<[u32; 3]>> {
        let message = self.ask(
            Request::ListVersions,
            Message::named(""),
            "list the targets of",
            "device-mapper",
        )?;
        Ok(message.target_types().find(|(name, _)| *name == kind).map(|(_, version)| version))
    }

    /// Makes a device without a table.
    pub fn create(&self, name: Name) -> Result<DevNo> {
        Ok(self.ask(Request::Create, Message::about(name), "create", name.text())?.number())
    }

    /// Removes a device, and with it the last use of the loop devices under it. A program that
    /// looks at a new device, as udev does, keeps it busy for a moment, so the removal is tried
    /// again.
    pub fn remove(&self, name: Name) -> Result<()> {
        let mut message = Message::about(name);
        for _ in 0..BUSY_TRIES {
            match self.run(Request::Remove, &mut message) {
                Err(Errno::EBUSY) => pause(BUSY_PAUSE),
                result => return result.doing(|| format!("remove {}", name.text())),
            }
        }
        Err(Errno::EBUSY).doing(|| format!("remove {}", name.text()))
    }

    /// Gives a device another name.
    pub fn rename(&self, from: Name, to: Name) -> Result<()> {
        self.ask(Request::Rename, Message::rename(from, to), "rename", from.text()).map(drop)
    }

    /// Loads a table into the inactive slot.
    pub fn load(&self, name: Name, lines: &[Line]) -> Result<()> {
        self.load_as(Request::Load, name, lines)
    }

    fn load_as(&self, request: Request, name: Name, lines: &[Line]) -> Result<()> {
        self.ask(request, Message::load(name, lines), "load a table into", name.text())
            .map(drop)
            .map_err(|error| self.explain_load(error, name, lines))
    }

    /// Adds advice to the error of a load. The kernel gives the same answer for a bad table and for
    /// a target that it does not have.
    fn explain_load(&self, error: Error, name: Name, lines: &[Line]) -> Error {
        let kinds = lines.iter().map(|line| line.target.kind());
        match kinds.into_iter().find(|kind| matches!(self.target_version(kind), Ok(None))) {
            Some(kind) => Error::new(
                format!("load a table into {}", name.text()),
                format!("the kernel has no {kind} target"),
            )
            .advise("It needs CONFIG_DM_SNAPSHOT, or the module dm-snapshot."),
            None => error.advise("The kernel log (dmesg) has the reason."),
        }
    }

    /// Drops the inactive table.
    pub fn clear(&self, name: Name) -> Result<()> {
        self.ask(Request::Clear, Message::about(name), "clear the loaded table of", name.text())
            .map(drop)
    }

    /// Resumes the device, with its inactive table if it has one. Root's filesystem is frozen
    /// around the swap; on the others none is mounted.
    pub fn resume(&self, name: Name) -> Result<()> {
        let request = Request::Resume { freeze: name == Name::Root };
        self.ask(request, Message::about(name), "resume", name.text()).map(drop)
    }

    /// Resumes root with its inactive table, without a freeze: the content under the new table may
    /// differ from what the filesystem has in memory, and a freeze would write that out.
    pub fn swap_root(&self) -> Result<()> {
        let (name, request) = (Name::Root, Request::Resume { freeze: false });
        self.ask(request, Message::about(name), "resume", name.text()).map(drop)
    }

    /// Resumes a device with its inactive table, where its live table would serve as well. A swap
    /// that fails leaves the device suspended and its users waiting, so it is then resumed with the
    /// live table.
    pub fn swap(&self, name: Name) -> Result<()> {
        self.resume(name).inspect_err(|_| _ = self.resume(name))
    }

    /// Loads a table and swaps it in, as [`Self::swap`] does.
    pub fn replace(&self, name: Name, lines: &[Line]) -> Result<()> {
        self.load(name, lines)?;
        self.swap(name)
    }

    /// As [`Self::replace`], with a read-only table. For a writable one the kernel opens the
    /// devices below for writing, which the driver of a write-protected card refuses.
    pub fn replace_read_only(&self, name: Name, lines: &[Line]) -> Result<()> {
        self.load_as(Request::LoadReadOnly, name, lines)?;
        self.swap(name)
    }

    /// The device as it is now; `None` when there is none of that name.
    pub fn device(&self, name: Name) -> Result<Option<Device>> {
        let (mut info, mut table) = (Message::about(name), Message::about(name));
        match self.read_device(&mut info, &mut table) {
            Ok(device) => Ok(device),
            Err((Request::Table, errno)) => {
                Err(errno).doing(|| format!("ask for the table of {}", name.text()))
            }
            Err((_, errno)) => {
                Err(errno).doing(|| format!("ask for the status of {}", name.text()))
            }
        }
    }

    /// The device that both messages are about, as it is now; `None` when there is none. Allocates
    /// nothing. An error has the request that was refused.
    pub fn read_device(
        &self,
        info: &mut Message,
        table: &mut Message,
    ) -> std::result::Result<Option<Device>, (Request, Errno)> {
        let refused = |request| move |errno| (request, errno);
        match self.run(Request::TargetStatus, info) {
            Err(Errno::ENXIO) => return Ok(None),
            result => result.map_err(refused(Request::TargetStatus))?,
        }
        self.run(Request::Table, table).map_err(refused(Request::Table))?;
        Ok(Some(Device {
            number: info.number(),
            suspended: info.is_suspended(),
            inactive: info.has_inactive(),
            live: info.has_live().then(|| live(info, table)),
        }))
    }

    /// What root's snapshot says of itself, and whether root is suspended. Allocates nothing:
    /// `message` is about root.
    pub fn root_status(&self, message: &mut Message) -> std::result::Result<SnapshotStatus, Errno> {
        self.run(Request::TargetStatus, message)?;
        let text = message.targets().next().map_or("", |(_, _, _, text)| text);
        Ok(SnapshotStatus::parse(text))
    }

    /// All of cowflush's devices.
    pub fn stack(&self) -> Result<Stack> {
        let mut stack = Stack::default();
        for name in Name::ALL {
            *stack.slot(name) = self.device(name)?;
        }
        Ok(stack)
    }
}

fn live(info: &Message, table: &Message) -> Live {
    let line =
        |(start, length, kind, params)| Line { start, length, target: Target::parse(kind, params) };
    let mut lines = table.targets().map(line);
    match (lines.next(), lines.next(), lines.next()) {
        (Some(line), None, _) => {
            let text = info.targets().next().map_or("", |(_, _, _, text)| text);
            let status = SnapshotStatus::parse(text);
            Live::Single { length: line.length, target: line.target, status }
        }
        (Some(first), Some(second), None) => Live::Joined(first, second),
        _ => Live::Foreign,
    }
}
