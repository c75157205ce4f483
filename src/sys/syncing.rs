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
    ///
    /// A process that died tells of no error: whoever gives up waiting knows of none either.
    pub fn wait(&mut self, at_most: Duration) -> Option<std::result::Result<(), Errno>> {
        let mut heard = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        let millis = at_most.as_millis().min(60_000) as u16;
        if !matches!(poll(&mut heard, millis), Ok(1)) {
            return None;
        }
        let mut errno = [0];
        match self.wire.read(&mut errno) {
            Ok(1) if errno != [0] => Some(Err(Errno::from_raw(errno[0].into()))),
            _ => Some(Ok(())),
        }
    }
}

fn work(file: &File, mut wire: &UnixStream) {
    rename(c"cowflush-sync");
    priority::realtime(false);
    // It may be at work long after its parent: nobody is to wait for it.
    close_others(&[file.as_raw_fd(), wire.as_raw_fd()]);
    let errno = block::sync_filesystem(file).err().map_or(0, |errno| errno as i32);
    // Linux' numbers end at 133.
    let _ = wire.write_all(&[u8::try_from(errno).unwrap_or(u8::MAX)]);
}
