//! Making and growing COW devices.

use std::fs::File;

use crate::cow::size;
use crate::error::{Doing, Result};
use crate::sys::loopdev::{self, Loop};
use crate::sys::{block, tmpfs};
use crate::units::{Bytes, DevNo};

const NAME: &str = "cowflush-cow";

/// A fresh, empty COW device for as much as a sealed COW of `sealed` bytes leaves of `limit`, and the slack
/// behind it; see [`grow`].
pub fn create(limit: Bytes, sealed: Bytes, roof: Bytes) -> Result<Loop> {
    let file = tmpfs::file(NAME, size::fresh_device(limit, Bytes(0), Bytes::MAX))?;
    loopdev::attach(&file, NAME, size::fresh_device(limit, sealed, roof))
}

/// Lets a COW device in use grow to `limit` and the slack behind it, unless that is more than `roof`, which
/// one flush can put into the flush log.
pub fn grow(cow: DevNo, limit: Bytes, roof: Bytes) -> Result<()> {
    let path = block::path(cow);
    let node = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .doing(|| format!("open {}", path.display()))?;
    loopdev::grow(&node, size::fresh_device(limit, Bytes(0), roof))
}
