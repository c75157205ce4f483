//! Writing a filesystem out in another process, so that whoever asked for it can look after other things
//! meanwhile, and need not wait for the end: nothing can interrupt a syncfs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::waitpid;

use super::process::{child, close_others, rename};
use super::{block, priority};
use crate::error::{Doing, Result};

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
    /// It has.
    Done(WrittenOut),
    /// It could not.
    Failed(Errno),
    /// It was not waited for, or who did it was killed.
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
pub struct Syncing {
    wire: UnixStream,
}

impl Syncing {
    /// Begins with the filesystem that holds `file`.
    pub fn begin(file: &File) -> Result<Self> {
        let (wire, far_end) =
            UnixStream::pair().doing(|| "make a socket for a process that syncs")?;
        // A child's child: nobody has to wait for one that is given up.
        let between =
            child(|| _ = child(|| work(file, &far_end))).doing(|| "start a process that syncs")?;
        let _ = waitpid(between, None);
        Ok(Self { wire })
    }

    /// Waits for the end, but not longer than that. `None`: it is still at work.
    pub fn wait(&mut self, at_most: Duration) -> Option<Synced> {
        let mut heard = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        let millis = at_most.as_millis().min(60_000) as u16;
        if !matches!(poll(&mut heard, millis), Ok(1)) {
            return None;
        }
        let mut errno = [0];
        Some(match (self.wire.read(&mut errno), errno) {
            (Ok(1), [0]) => Synced::Done(WrittenOut(())),
            (Ok(1), [errno]) => Synced::Failed(Errno::from_raw(errno.into())),
            _ => Synced::Unknown,
        })
    }
}

fn work(file: &File, mut wire: &UnixStream) {
    rename(c"cowflush-sync");
    priority::realtime(false);
    // It may be at work long after its parent: nobody is to wait for it.
    close_others(&[file.as_raw_fd(), wire.as_raw_fd()]);
    let errno = write_out(file).err().map_or(0, |errno| errno as i32);
    // Linux' numbers end at 133.
    let _ = wire.write_all(&[u8::try_from(errno).unwrap_or(u8::MAX)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(work: impl FnOnce(&UnixStream)) -> Option<Synced> {
        let (wire, far_end) = UnixStream::pair().unwrap();
        work(&far_end);
        drop(far_end);
        Syncing { wire }.wait(Duration::from_secs(5))
    }

    #[test]
    fn only_a_filesystem_that_says_so_is_written_out() {
        let said = |byte: u8| waited(|mut wire| wire.write_all(&[byte]).unwrap());
        assert_eq!(said(0), Some(Synced::Done(WrittenOut(()))));
        assert_eq!(said(Errno::EIO as u8), Some(Synced::Failed(Errno::EIO)));
        assert_eq!(waited(|_| ()), Some(Synced::Unknown), "it was killed");
        let root = File::open("/dev").unwrap();
        let (wire, _far_end) = UnixStream::pair().unwrap();
        assert_eq!(Syncing { wire }.wait(Duration::from_millis(1)), None, "still at work");
        assert_eq!(write_out(&root), Ok(WrittenOut(())));
    }
}
