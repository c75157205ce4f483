//! The classic recipe, for comparison: suspend root, merge everything, resume.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::Failure;
use argh::FromArgs;
use cowflush::error::{Doing, Error};
use cowflush::flush::cow_device;
use cowflush::pure::chunks::CHUNK_SECTORS;
use cowflush::pure::dm::{Line, Target};
use cowflush::pure::stack::Name;
use cowflush::pure::units::Bytes;
use cowflush::sys::dm::{Control, Message, Request};
use cowflush::sys::node::Node;
use cowflush::sys::{block, mlock};

/// Flush root the classic way: freeze it, merge its COW in the COW's own order, give it a fresh
/// COW, thaw it. Prints `merged_bytes N stall_us N`. A kill in between leaves root suspended.
#[derive(FromArgs)]
#[argh(subcommand, name = "classic")]
pub struct Classic {
    /// size of the fresh COW in bytes (default 64 MiB)
    #[argh(option, default = "64 << 20")]
    size: u64,
}

impl Classic {
    pub fn run(self) -> Result<ExitCode, Failure> {
        Ok(self.flush().map_err(|error| error.to_string())?)
    }

    fn flush(self) -> Result<ExitCode, Error> {
        let control = Control::open()?;
        let failed =
            |what: &'static str| move |errno: nix::errno::Errno| Error::new(what, errno.desc());
        let root = Node::open(Path::new("/"), false, 0).doing(|| "open /")?;
        block::sync_filesystem(&root).map_err(failed("sync root"))?;
        let stack = control.stack()?;
        let none = || Error::new("flush the classic way", "root is not deferring");
        let root = stack.root.ok_or_else(none)?;
        let (Some(Target::Snapshot { origin, cow, chunk }), Some(length)) =
            (root.target(), root.length())
        else {
            return Err(none());
        };
        let merged = root.usage().map_or(Bytes(0), |usage| usage.data().bytes());
        // With exactly that size, without slack
        let size = Bytes(self.size);
        let fresh = cow_device::create(&control, size, Bytes(0), size)?;
        control.create(Name::Sealed)?;
        let merge = Line::whole(length, Target::SnapshotMerge { origin, cow, chunk });
        control.load(Name::Sealed, &[merge])?;
        let next = Target::Snapshot { origin, cow: fresh.number(), chunk: CHUNK_SECTORS };

        mlock::all()?;
        let begin = Instant::now();
        let mut message = Message::about(Name::Root);
        control
            .run(Request::Suspend { freeze: true }, &mut message)
            .map_err(failed("suspend root"))?;
        control.resume(Name::Sealed)?;
        while control.device(Name::Sealed)?.and_then(|d| d.usage()).is_some_and(|u| u.data().0 > 0)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        control.load(Name::Root, &[Line::whole(length, next)])?;
        control.resume(Name::Root)?;
        let stall = begin.elapsed();
        control.remove(Name::Sealed)?;
        println!("merged_bytes {} stall_us {}", merged.0, stall.as_micros());
        Ok(ExitCode::SUCCESS)
    }
}
