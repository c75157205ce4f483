//! The spill area: a swap area on the card that takes what the RAM can't.
//!
//! A COW is a file in a tmpfs, and the kernel moves its pages to swap when it needs memory for
//! others. So nothing in the stack knows of the spill area, and nothing of it has to be cleaned up:
//! it only makes the room larger ([`crate::pure::policy::cow_memory::Room`]).

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{run_dir, settings, value};
use crate::error::{Error, Result};
use crate::pure::disk::reference::Reference;
use crate::pure::units::Bytes;
use crate::sys::{devices, swap};

/// How readily the kernel swaps (vm.swappiness): only when nothing else gives memory. Else it would
/// wear the card out in order to cache files.
const SWAPPINESS: u64 = 1;

/// The note that says where it is, for `cowflush status`.
const NOTE: &str = "spill";

/// Makes the kernel use the spill area, unless it does. Returns the area's path.
pub fn begin(reference: &Reference) -> Result<PathBuf> {
    let doing = || format!("use cowflush.spill={reference}");
    let found = devices::find(reference);
    let candidate = found.first().ok_or_else(|| {
        Error::new(doing(), "there is no such device").advise("`blkid` lists what there is.")
    })?;
    let path = candidate.path();
    let kind = candidate.filesystem.as_ref().map(|found| found.kind);
    let make =
        format!("`mkswap {}` makes a swap area of it; what is there is lost.", path.display());
    if kind != Some("swap") {
        let holds = kind.unwrap_or("nothing that is known");
        return Err(Error::new(doing(), format!("{} holds {holds}", path.display())).advise(make));
    }
    let advice = match swap::on(&path, 0) {
        Ok(()) => {
            settings::set(settings::SWAPPINESS, SWAPPINESS);
            // The note is for people; a missing /run is not an error.
            let _ = run_dir::write(NOTE, &format!("device={}\n", path.display()));
            return Ok(path);
        }
        Err(errno @ Errno::ENOSYS) => (errno, "The kernel needs CONFIG_SWAP.".to_owned()),
        Err(errno) => (errno, make),
    };
    Err(Error::new(doing(), advice.0.desc()).advise(advice.1))
}

/// How much of the spill area is in use, and its size; `None` when there is none.
pub fn usage() -> Option<(Bytes, Bytes)> {
    let note = run_dir::read(NOTE)?;
    swap::usage(Path::new(value(&note, "device")))
}
