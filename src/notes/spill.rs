//! The spill area: a swap area on the card that takes what the RAM can't.
//!
//! A COW is a file in a tmpfs, and the kernel moves pages of that to swap when it needs memory for
//! others. So nothing in the stack knows of the spill area, and nothing can be left of it: it only
//! makes the room larger ([`crate::pure::cow::size::Room`]).

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{run_dir, settings, value};
use crate::error::{Error, Result};
use crate::pure::disk::reference::Reference;
use crate::pure::units::Bytes;
use crate::sys::{devices, swap};

/// How gladly the kernel swaps (vm.swappiness): only when nothing else gives memory. Else it would
/// wear the card to cache files.
const SWAPPINESS: u64 = 1;

/// The note that says where it is, for `cowflush status`.
const NOTE: &str = "spill";

/// Sees to it that the spill area is in use. Returns where it is.
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
            // For people; a /run that is gone is no error.
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
