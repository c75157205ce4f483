//! A second process that waits to be given work, and is there at once when it is: to start a process
//! takes tens of milliseconds while memory is short.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, getppid};

use super::guard;
use crate::error::Result;
use crate::pure::policy::cow_limits::CowLimits;
use crate::sys::dm::Control;
use crate::sys::{lock, priority};

/// What a worker does. It may neither print nor touch a file on root: it runs while root may be
/// suspended.
pub trait Work {
    /// From now on it works by these limits.
    fn take(&mut self, cow_limits: CowLimits);
    /// Does something. Returns for how long it may rest, at most a minute.
    fn step(&mut self) -> Duration;
    /// The work is over, or this process's parent is dead.
    fn end(&mut self);
}

/// A worker, waiting or at work.
pub struct Worker {
    wire: UnixStream,
    pid: Pid,
}

/// What a worker is told.
enum Message {
    /// To work by these limits.
    Work(CowLimits),
    /// To end its work and wait.
    Idle,
}

const WORK: u8 = 1;
const IDLE: u8 = 2;
const HEARD: u8 = 3;

impl Worker {
    /// Starts one. Of this process's files it keeps device-mapper's control device, and no other. Returns when its
    /// memory is locked.
    pub fn start(control: &Control, work: &mut dyn Work) -> Result<Self> {
        let (parent, file) = (getpid(), control.file());
        let serve = |wire| serve(parent, file, wire, work);
        let (wire, pid) = guard::fork_helper(Some(file.as_raw_fd()), || true, serve)?;
        Ok(Self { wire, pid })
    }

    /// Lets it work, by these limits from now on. This process must have the lock, which nobody else gets until the work is
    /// over. When this returns it has done a step. `false`: it is dead.
    pub fn work(&mut self, cow_limits: CowLimits) -> bool {
        let mut message = [WORK; LONGEST];
        for (to, word) in message[1..].chunks_exact_mut(size_of::<u64>()).zip(cow_limits.to_words())
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.send(&message)
    }

    /// Lets it end its work, and wait for the next. `false`: it is dead.
    pub fn idle(&mut self) -> bool {
        self.send(&[IDLE])
    }

    fn send(&mut self, message: &[u8]) -> bool {
        self.wire.write_all(message).is_ok() && self.is_heard()
    }

    fn is_heard(&mut self) -> bool {
        let mut answer = [0];
        self.wire.read_exact(&mut answer).is_ok() && answer == [HEARD]
    }
}

/// The longest message: [`WORK`] and the limits.
const LONGEST: usize = 1 + size_of::<[u64; CowLimits::WORDS]>();

impl Drop for Worker {
    /// Dismisses it and waits until it is gone. It ends its work.
    fn drop(&mut self) {
        let _ = self.wire.shutdown(std::net::Shutdown::Both);
        let _ = waitpid(self.pid, None);
        guard::spare_from_sendsigs(self.pid, false);
    }
}

fn serve(parent: Pid, control: &File, mut wire: UnixStream, work: &mut dyn Work) {
    priority::realtime(true);
    let mut working = false;
    loop {
        let wait = working.then(|| work.step());
        // The wire does not tell of a parent's death while another child of it has a copy.
        if getppid() != parent {
            break;
        }
        let mut heard = [PollFd::new(wire.as_fd(), PollFlags::POLLIN)];
        let wait = wait.map(|wait| PollTimeout::from(wait.as_millis().min(60_000) as u16));
        if matches!(poll(&mut heard, wait), Ok(0) | Err(Errno::EINTR)) {
            continue;
        }
        match listen(&mut wire) {
            Some(Message::Work(cow_limits)) => {
                if !working && !lock::help(control, parent) {
                    break;
                }
                working = true;
                work.take(cow_limits);
                work.step();
            }
            Some(Message::Idle) => {
                work.end();
                lock::end_help(control);
                working = false;
            }
            None => break,
        }
        if wire.write_all(&[HEARD]).is_err() {
            break;
        }
    }
    work.end();
}

/// The next message; `None`: the process that the worker belongs to has dismissed it.
fn listen(wire: &mut UnixStream) -> Option<Message> {
    let mut what = [0];
    wire.read_exact(&mut what).ok()?;
    if what != [WORK] {
        return Some(Message::Idle);
    }
    let mut words = [0; CowLimits::WORDS];
    let mut bytes = [0; 8];
    for word in &mut words {
        wire.read_exact(&mut bytes).ok()?;
        *word = u64::from_le_bytes(bytes);
    }
    Some(Message::Work(CowLimits::from_words(words)))
}
