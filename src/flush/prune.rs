//! Leaves out what need not reach the card; [`crate::pure::ext`] decides what that is.
//!
//! Safe under a mounted root: what is left out is not used by the filesystem that was sealed, and
//! whatever root's filesystem begins to use since then it writes first.
//! docs/design/prune.md has the reasons one by one.

use super::view::Data;
use crate::error::Result;
use crate::pure::chunks::{CHUNK_BYTES, CHUNK_SECTORS};
use crate::pure::dm::{SnapshotStatus, Target};
use crate::pure::ext::{self, Refusal};
use crate::pure::stack::Device;
use crate::pure::units::Bytes;
use crate::sys::block;
use crate::sys::disk::Disk;

/// What a flush may leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The configuration allows it.
    pub on: bool,
    /// This process sealed it, and the filesystem was frozen then.
    pub frozen: bool,
}

/// What was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was left out.
    pub bytes: Bytes,
    /// Why nothing could be left out.
    pub refused: Option<Refusal>,
}

/// Removes from `data`, which `layer` shows, what need not reach the card.
pub fn prune(policy: Policy, layer: &Device, data: &mut Data) -> Pruned {
    match try_prune(policy, layer, data) {
        Ok(chunks) => Pruned { bytes: Bytes(chunks * CHUNK_BYTES as u64), refused: None },
        Err(why) => Pruned { bytes: Bytes(0), refused: Some(why) },
    }
}

fn try_prune(
    policy: Policy,
    layer: &Device,
    data: &mut Data,
) -> core::result::Result<u64, Refusal> {
    let Some(Target::Snapshot { origin, .. }) = layer.target().filter(|_| policy.on) else {
        return Err("it is switched off (prune=off)");
    };
    // A filesystem that was refused writes does not match its own metadata.
    if layer.status() == SnapshotStatus::Overflow {
        return Err("the RAM copy was full");
    }
    let open = |device| -> Result<(Disk, u64)> {
        let chunks = block::size(device)?.0.div_ceil(u64::from(CHUNK_SECTORS));
        Ok((Disk::open(&block::path(device))?, chunks))
    };
    let (Ok((mut sealed, chunks)), Ok((mut below, _))) = (open(layer.number), open(origin)) else {
        return Err("root's metadata can't be read");
    };
    ext::prune(&mut data.table, &mut sealed, &mut below, chunks, policy.frozen)
}
