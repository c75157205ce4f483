//! Loop devices: a file as a block device.
//!
//! Every loop device is made with *autoclear*: the kernel detaches it, and frees its unlinked file,
//! when the last table that uses it goes. So a killed process leaks nothing, and no command has to
//! guess by a name which devices are cowflush's.
//!
//! Source: include/uapi/linux/loop.h and drivers/block/loop.c.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::block;
use super::mknod;
use super::node::Node;
use crate::error::{Doing, Error, Result};
use crate::pure::units::{Bytes, DevNo};

const SET_FD: u32 = 0x4C00;
const CLR_FD: u32 = 0x4C01;
const SET_STATUS64: u32 = 0x4C04;
const GET_STATUS64: u32 = 0x4C05;
const CONFIGURE: u32 = 0x4C0A;
const GET_FREE: u32 = 0x4C82;

const AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

impl Info {
    fn new(name: &str, limit: Bytes) -> Self {
        let mut file_name = [0; 64];
        for (to, from) in file_name.iter_mut().take(63).zip(name.bytes()) {
            *to = from;
        }
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: limit.0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// An attached loop device. Keep it until a table uses the device; dropping it earlier
/// detaches it.
pub struct Loop {
    node: Node,
    number: DevNo,
}

/// Where the kernel is asked for a free loop device.
const CONTROL: &str = "/dev/loop-control";

/// Attaches `file` to a free loop device of at most `limit` bytes. `name` is what
/// `losetup` shows.
pub fn attach(file: &Node, name: &str, limit: Bytes) -> Result<Loop> {
    #[cfg(test)]
    if let Some(model) = super::kernel::model() {
        // A file of `tmpfs::file`, which asks the model.
        let Node::Model(file) = file else { unreachable!() };
        let (node, number) = model.attach(&**file, name, limit)?;
        return Ok(Loop { node: Node::Model(node), number });
    }
    mknod::misc(CONTROL, "loop-control");
    let control = open(Path::new(CONTROL))
        .map_err(|error| error.advise("The kernel needs loop devices (CONFIG_BLK_DEV_LOOP)."))?;
    let info = Info::new(name, limit);
    // Another program may take the free device first; then the next one is tried.
    for _ in 0..16 {
        let (path, node) = open_free(&control)?;
        match configure(&node, file.file(), &info) {
            Ok(()) => {
                let number = block::number(&node).doing(|| format!("open {path}"))?;
                return Ok(Loop { number, node: Node::Real(node) });
            }
            Err(Errno::EBUSY) => continue,
            Err(errno) => return Err(errno).doing(|| format!("attach {name} to {path}")),
        }
    }
    Err(Error::new(format!("attach {name} to a loop device"), "others took every free one")
        .advise("Free one (`losetup -a` lists them), then try again."))
}

/// A device that is free now: its path and its open node. `control` is [`CONTROL`].
fn open_free(control: &File) -> Result<(String, File)> {
    // SAFETY: LOOP_CTL_GET_FREE takes no pointer.
    let free = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
    let free = Errno::result(free).doing(|| "find a free loop device")?;
    let path = node_of(&format!("loop{free}"));
    let node = open(&path)?;
    Ok((path.display().to_string(), node))
}

/// The node of the loop device with this kernel name.
fn node_of(name: &str) -> PathBuf {
    let number = std::fs::read_to_string(format!("/sys/block/{name}/dev"));
    let number = number.ok().and_then(|text| DevNo::parse(text.trim()));
    number.map_or_else(|| Path::new("/dev").join(name), block::path)
}

fn open(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path).doing(|| format!("open {}", path.display()))
}

fn configure(node: &File, file: &File, info: &Info) -> std::result::Result<(), Errno> {
    let config =
        Config { fd: file.as_raw_fd() as u32, block_size: 0, info: *info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config` (size asserted above).
    let result = unsafe { libc::ioctl(node.as_raw_fd(), CONFIGURE as _, &raw const config) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        // Kernels before 5.8 don't know it.
        Err(Errno::EINVAL | Errno::ENOTTY) => configure_in_two_steps(node, file, info),
        Err(errno) => Err(errno),
    }
}

/// Configures the device on kernels before 5.8. If this process is killed between the two calls,
/// the device stays attached until the next boot, over a file that takes no memory, since nothing
/// was written to it.
fn configure_in_two_steps(node: &File, file: &File, info: &Info) -> std::result::Result<(), Errno> {
    // SAFETY: LOOP_SET_FD takes a file descriptor by value.
    Errno::result(unsafe { libc::ioctl(node.as_raw_fd(), SET_FD as _, file.as_raw_fd()) })?;
    set_status(node, info).inspect_err(|_| clear(node))
}

fn set_status(node: &File, info: &Info) -> std::result::Result<(), Errno> {
    // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64` (size asserted above).
    let result = unsafe { libc::ioctl(node.as_raw_fd(), SET_STATUS64 as _, &raw const *info) };
    Errno::result(result).map(drop)
}

/// Detaches the device. Always safe: on a device in use the kernel sets autoclear instead.
fn clear(node: &File) {
    // SAFETY: LOOP_CLR_FD takes no argument. A failure leaves the device as it was.
    let _ = unsafe { libc::ioctl(node.as_raw_fd(), CLR_FD as _) };
}

impl Loop {
    /// The device's number.
    pub fn number(&self) -> DevNo {
        self.number
    }

    /// Lets it have another limit, smaller ones, too.
    #[cfg(feature = "model")]
    pub(super) fn limit(&self, limit: Bytes) -> Result<()> {
        set_status(self.node.file(), &Info::new("", limit))
            .doing(|| "change the size of a loop device")
    }

    /// The open node, which keeps the device attached.
    pub fn into_node(self) -> Node {
        self.node
    }
}

/// Makes a loop device larger, at most as large as its file, while it is in use.
/// dm-snapshot reads the size at every allocation, so the COW over it grows at once.
///
/// Never smaller: a table may point to what lies behind the new end.
pub fn grow(device: DevNo, limit: Bytes) -> Result<()> {
    ask!(grow(device, limit));
    let node = open(&block::path(device))?;
    let mut info = Info::new("", limit);
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64` (size asserted above).
    let result = unsafe { libc::ioctl(node.as_raw_fd(), GET_STATUS64 as _, &raw mut info) };
    Errno::result(result).doing(|| "ask for the size of the COW")?;
    if info.size_limit >= limit.0 {
        return Ok(());
    }
    info.size_limit = limit.0;
    set_status(&node, &info).doing(|| "change the size of the COW")
}

/// Whether the kernel knows LOOP_CONFIGURE (5.8): it looks at the descriptor first.
pub fn has_configure() -> Result<bool> {
    mknod::misc(CONTROL, "loop-control");
    let control = File::open(CONTROL).doing(|| format!("open {CONTROL}"))?;
    let (_, node) = open_free(&control)?;
    let config =
        Config { fd: u32::MAX, block_size: 0, info: Info::new("", Bytes(0)), reserved: [0; 8] };
    // SAFETY: as in `configure`; the descriptor is invalid on purpose.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), CONFIGURE as _, &raw const config) };
    Ok(Errno::result(result) == Err(Errno::EBADF))
}
