//! A second process that waits for work and begins at once when it gets it: starting a process
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
use crate::sys::{ask, lock, priority};

/// What a worker does. It may neither print nor touch a file on root, since root may be suspended.
pub trait Work {
    /// Sets the limits by which it works from now on.
    fn take(&mut self, cow_limits: CowLimits);
    /// Does one step. Returns how long to wait until the next, at most a minute.
    fn step(&mut self) -> Duration;
    /// Ends the work: it is over, or this process's parent is dead.
    fn end(&mut self);
}

/// A worker, waiting or at work.
pub struct Worker {
    wire: UnixStream,
    pid: Pid,
}

/// A message to the worker.
enum Message {
    /// Work by these limits.
    Work(CowLimits),
    /// End the work and wait.
    Idle,
}

const WORK: u8 = 1;
const IDLE: u8 = 2;
const HEARD: u8 = 3;

impl Worker {
    /// Starts a worker. Of this process's files it keeps only device-mapper's control device.
    /// Returns when its memory is locked.
    pub fn start(control: &Control, mut work: Box<dyn Work>) -> Result<Self> {
        #[cfg(test)]
        if let Some(model) = crate::sys::kernel::model() {
            let (wire, _) = UnixStream::pair().unwrap();
            return model.start_worker(work).map(|()| Self { wire, pid: Pid::from_raw(0) });
        }
        let (parent, file) = (getpid(), control.file());
        let serve = |wire| serve(parent, file, wire, &mut *work);
        let (wire, pid) = guard::fork_helper(Some(file.as_raw_fd()), || true, serve)?;
        Ok(Self { wire, pid })
    }

    /// Tells the worker to work by these limits from now on. This process must have the lock, which
    /// no other gets until the work is over. When this returns the worker has done a step. `false`:
    /// it is dead.
    pub fn work(&mut self, cow_limits: CowLimits) -> bool {
        ask!(worker_works(cow_limits));
        let mut message = [WORK; LONGEST];
        for (to, word) in message[1..].chunks_exact_mut(size_of::<u64>()).zip(cow_limits.to_words())
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.send(&message)
    }

    /// Tells the worker to end its work, and wait for the next. `false`: it is dead.
    pub fn idle(&mut self) -> bool {
        ask!(worker_rests());
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
    /// Dismisses the worker, which ends its work, and waits until it is gone.
    fn drop(&mut self) {
        ask!(dismiss_worker());
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
        // The wire does not show the parent's death while another child of the parent has a copy of
        // it.
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
