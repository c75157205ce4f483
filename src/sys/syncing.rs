//! Writing a filesystem out in another process, so that whoever asked for it can look after other things
//! meanwhile, and need not wait for the end: nothing can interrupt a syncfs.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;

use super::block;
use super::errand::{Ended, Errand};
use crate::error::Result;

/// Proof that a filesystem has written everything out, and takes writes: [`write_out`] alone makes one, here or in the
/// process that a [`Syncing`] has heard.
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
    /// The end was not waited for, or the process that wrote out was killed.
    Unknown,
}

/// Writes out the filesystem whose root folder `file` is, and waits for it.
///
/// One that has shut down after errors does not complain of what it can't write out any more (`ext4_sync_fs` in the
/// kernel's fs/ext4/super.c, `sync_filesystem` for one that went read-only), but it refuses an fsync
/// (`ext4_sync_file`). That of a folder that was just written out costs a FLUSH.
pub fn write_out(file: &File) -> std::result::Result<WrittenOut, Errno> {
    block::sync_filesystem(file)?;
    match nix::unistd::fsync(file) {
        // A filesystem whose folders need none.
        Ok(()) | Err(Errno::EINVAL) => Ok(WrittenOut(())),
        Err(errno) => Err(errno),
    }
}

/// A filesystem that is being written out.
pub struct Syncing(Errand);

impl Syncing {
    /// Begins with the filesystem that holds `file`.
    pub fn begin(file: &File) -> Result<Self> {
        let sync = || write_out(file).map(drop);
        Errand::begin(c"cowflush-sync", "a process that syncs", Some(file.as_raw_fd()), sync)
            .map(Self)
    }

    /// Waits for the end, but not longer than that. `None`: it is still at work.
    pub fn wait(&mut self, at_most: Duration) -> Option<Synced> {
        self.0.wait(at_most).map(|ended| match ended {
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
        let waited = |errand: Errand| Syncing(errand).wait(Duration::from_secs(5));
        let said = |byte: u8| waited(Errand::ended(|mut wire| wire.write_all(&[byte]).unwrap()));
        assert_eq!(said(0), Some(Synced::Done(WrittenOut(()))));
        assert_eq!(said(Errno::EIO as u8), Some(Synced::Failed(Errno::EIO)));
        assert_eq!(waited(Errand::ended(|_| ())), Some(Synced::Unknown), "it was killed");
        assert_eq!(write_out(&File::open("/dev").unwrap()), Ok(WrittenOut(())));
    }
}
