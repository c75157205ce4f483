//! Writes a filesystem out in another process, so that the daemon can do other work meanwhile and
//! need not wait for the end: nothing can interrupt a syncfs.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;

use super::block;
use super::errand::{Ended, Errand};
use super::node::Node;
use crate::error::Result;

/// Proof that a filesystem was written out completely and accepts writes. Only [`write_out`] makes
/// one, in this process or in the one of a [`Syncing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenOut(());

#[cfg(test)]
impl WrittenOut {
    pub(crate) const FOR_TESTS: Self = Self(());
}

/// What became of writing a filesystem out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// The filesystem was written out.
    Done(WrittenOut),
    /// The filesystem could not be written out.
    Failed(Errno),
    /// The caller did not wait for the end, or the process that wrote out was killed.
    Unknown,
}

/// Writes out the filesystem whose root folder `file` is, and waits for it.
///
/// A filesystem that has shut down after errors reports no error for what it can't write out any
/// more (`ext4_sync_fs` in the kernel's fs/ext4/super.c, `sync_filesystem` for one that became
/// read-only), but it refuses an fsync (`ext4_sync_file`). So the root folder is synced as well,
/// which costs a FLUSH.
pub fn write_out(file: &Node) -> std::result::Result<WrittenOut, Errno> {
    ask!(write_out().map(WrittenOut));
    block::sync_filesystem(file)?;
    match nix::unistd::fsync(file.file()) {
        // A filesystem without fsync for folders.
        Ok(()) | Err(Errno::EINVAL) => Ok(WrittenOut(())),
        Err(errno) => Err(errno),
    }
}

/// A filesystem that is being written out.
pub enum Syncing {
    /// A process writes it out.
    Real(Errand),
    /// A model writes it out.
    #[cfg(test)]
    Model,
}

impl Syncing {
    /// Begins to write out the filesystem that holds `file`.
    pub fn begin(file: &Node) -> Result<Self> {
        ask!(begin_to_write_out().map(|()| Self::Model));
        let sync = || write_out(file).map(drop);
        Errand::begin(c"cowflush-sync", "a process that syncs", Some(file.file().as_raw_fd()), sync)
            .map(Self::Real)
    }

    /// Waits for the end for at most that long. `None`: the kernel is still writing.
    pub fn wait(&mut self, at_most: Duration) -> Option<Synced> {
        #[cfg(test)]
        let Self::Real(errand) = self else {
            let written = super::kernel::model().map(|model| model.write_out().map(WrittenOut));
            return written.map(|written| written.map_or_else(Synced::Failed, Synced::Done));
        };
        #[cfg(not(test))]
        let Self::Real(errand) = self;
        errand.wait(at_most).map(|ended| match ended {
            Ended::Done => Synced::Done(WrittenOut(())),
            Ended::Failed(errno) => Synced::Failed(errno),
            Ended::Killed => Synced::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_a_filesystem_that_says_so_is_written_out() {
        let waited = |errand: Errand| Syncing::Real(errand).wait(Duration::from_secs(5));
        let said = |byte: u8| waited(Errand::ended(|mut wire| wire.write_all(&[byte]).unwrap()));
        assert_eq!(said(0), Some(Synced::Done(WrittenOut(()))));
        assert_eq!(said(Errno::EIO as u8), Some(Synced::Failed(Errno::EIO)));
        assert_eq!(waited(Errand::ended(|_| ())), Some(Synced::Unknown), "it was killed");
        assert_eq!(
            write_out(&Node::open(std::path::Path::new("/dev"), false, 0).unwrap()),
            Ok(WrittenOut(()))
        );
    }
}
