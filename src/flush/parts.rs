//! Writes to root's card in two parts: first the chunks that are free on it, then, behind a FLUSH,
//! the others.
//!
//! The flush log makes a merge safe against a power cut for a boot that applies the log. A boot
//! loader does not apply it, nor does a boot without cowflush's initramfs: they read the card as it
//! is. Free chunks belong to no file, so until the first chunk of the second part is written they
//! find the state before the merge, whole. The second part is short where files are new: their
//! content is in the first part.

use super::errors::refused;
use super::view::Data;
use crate::error::Result;
use crate::pure::chunks::{CHUNK_BYTES, PIECE};
use crate::pure::cow::exception_store::Exception;
use crate::pure::cow::fill;
use crate::pure::cow::merge_order::neighbours;
use crate::pure::ext::{self, ChunkUse};
use crate::pure::units::Bytes;
use crate::sys::block;
use crate::sys::disk::Disk;

/// Whether each of the chunks `olds` (ascending) of `card` is free there. A chunk counts as free
/// only if that is certain.
pub fn free(card: &mut Disk, olds: &mut dyn ExactSizeIterator<Item = u64>) -> Vec<bool> {
    let (chunks, count) = (card.size().0.div_ceil(CHUNK_BYTES as u64), olds.len());
    let uses = ext::free_on(card, chunks, &mut { olds }).unwrap_or_default();
    let mut free: Vec<_> = uses.into_iter().map(|found| found == ChunkUse::Free).collect();
    free.resize(count, false);
    free
}

/// Copies what `data` holds to the card, ascending, neighbours together. `watch` gets how much is
/// left, and may end the copy.
pub fn copy(
    data: &Data,
    card: &mut Disk,
    mut watch: impl FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let mut store = Disk::open(&block::path(data.store))?;
    let mut buffer = vec![0; PIECE * CHUNK_BYTES];
    let mut rest = data.table.as_slice();
    while let Some(start) = rest.first().map(|first| first.old) {
        watch(Bytes((rest.len() * CHUNK_BYTES) as u64))?;
        let (row, next) = rest.split_at(neighbours(rest.get(..PIECE).unwrap_or(rest)));
        rest = next;
        let bad = gather(row, &mut store, card, &mut buffer)?;
        // Fillers that can't be read are left out.
        let row = fill::without(row, |chunk| bad.contains(&chunk));
        for piece in row.chunk_by(|a, b| a.old.checked_add(1) == Some(b.old)) {
            let Some(first) = piece.first() else { continue };
            let at = (first.old - start) as usize * CHUNK_BYTES;
            let bytes = buffer.get(at..at + piece.len() * CHUNK_BYTES).unwrap_or_default();
            card.write_at(first.old, bytes).map_err(refused)?;
        }
    }
    Ok(())
}

/// Reads a row, neighbours in the store together. Returns the fillers that can't be read.
fn gather(
    row: &[Exception],
    store: &mut Disk,
    card: &mut Disk,
    mut into: &mut [u8],
) -> Result<Vec<u64>> {
    let mut bad = Vec::new();
    for run in row.chunk_by(|a, b| a.new.checked_add(1) == Some(b.new)) {
        let Some(first) = run.first() else { continue };
        let (now, later) = into.split_at_mut((run.len() * CHUNK_BYTES).min(into.len()));
        if fill::is_filler(first) {
            bad.extend(fill::read(first.old, now, |chunk, into| card.read_at(chunk, into).is_ok()));
        } else {
            store.read_at(first.new, now)?;
        }
        into = later;
    }
    Ok(bad)
}
