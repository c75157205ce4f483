//! An open block device or file, read and written at offsets: the kernel's, or in a test a model's.

use std::fs::File;
use std::io::{Result, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
use super::kernel::Opened;
use crate::pure::units::Bytes;

/// An open block device or file. In the program it is always the kernel's.
pub enum Node {
    /// One of the kernel's.
    Real(File),
    /// One of a model's.
    #[cfg(test)]
    Model(Box<dyn Opened>),
}

impl Node {
    /// Opens what `path` leads to, for reading, and for writing as well if `writable`; `flags` are
    /// those of open(2).
    pub fn open(path: &Path, writable: bool, flags: libc::c_int) -> Result<Self> {
        ask!(open(path, writable, flags).map(Self::Model));
        File::options().read(true).write(writable).custom_flags(flags).open(path).map(Self::Real)
    }

    /// Its size.
    pub fn size(&self) -> Result<Bytes> {
        match self {
            Self::Real(file) => {
                let mut file: &File = file;
                file.seek(SeekFrom::End(0)).map(Bytes)
            }
            #[cfg(test)]
            Self::Model(node) => node.size(),
        }
    }

    /// Reads `into.len()` bytes from byte `at` on, all or none.
    pub fn read_exact_at(&self, into: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Real(file) => file.read_exact_at(into, at),
            #[cfg(test)]
            Self::Model(node) => node.read_exact_at(into, at),
        }
    }

    /// Writes all of `from` from byte `at` on.
    pub fn write_all_at(&self, from: &[u8], at: u64) -> Result<()> {
        match self {
            Self::Real(file) => file.write_all_at(from, at),
            #[cfg(test)]
            Self::Model(node) => node.write_all_at(from, at),
        }
    }

    /// Makes everything that was written durable: on a block device this ends with a FLUSH.
    pub fn sync_all(&self) -> Result<()> {
        match self {
            Self::Real(file) => file.sync_all(),
            #[cfg(test)]
            Self::Model(node) => node.sync_all(),
        }
    }

    /// The kernel's file. Only a function that has asked the model first may call this.
    pub(super) fn file(&self) -> &File {
        match self {
            Self::Real(file) => file,
            // The caller did not ask the model first.
            #[cfg(test)]
            Self::Model(_) => unreachable!(),
        }
    }
}
