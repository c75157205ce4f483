//! What of a sealed ext2/3/4 needn't reach the card: blocks that are free in its bitmaps, and the
//! journal's, which is empty. docs/design/prune.md tells why that is safe. And what is free on
//! the card, and is written before the rest.
//!
//! Pure, and sceptical: the metadata are hostile input, and whatever is unusual (a feature that is
//! not known here, a wrong checksum or count, a journal that is not empty, recorded errors) means
//! that nothing is pruned. Formats: the kernel's Documentation/filesystems/ext4.

pub mod groups;
pub mod journal;
pub mod layout;
mod refusal;
pub mod superblock;

use crate::pure::chunks::{CHUNK_BYTES, Chunks, PIECE};
use crate::pure::cow::format::Exception;
use groups::Groups;
use journal::Journal;
pub use refusal::Refusal;
use superblock::Superblock;

/// Takes from `table` (ascending by chunk of root) what needn't reach the card. Returns how many
/// chunks that were. If nothing may be pruned the table stays as it is.
///
/// `sealed` is the filesystem at the moment of the seal, `below` what a read of a chunk that is left
/// out will find instead: both have so many `chunks`; a last, partial one counts. `frozen` says that the filesystem is
/// known to have been frozen; one with a journal tells by itself.
pub fn prune(
    table: &mut Vec<Exception>,
    sealed: &mut impl Chunks,
    below: &mut impl Chunks,
    chunks: u64,
    frozen: bool,
) -> Result<u64, Refusal> {
    let superblock = Superblock::read(sealed, chunks, frozen)?;
    let mut groups = Groups::new(&superblock, sealed);
    let journal = Journal::read(&mut groups)?;
    let olds = &mut table.iter().map(|exception| exception.old);
    let mut uses = uses(&superblock, &mut groups, &journal, olds)?;
    keep_what_a_recovery_could_read(&superblock, &journal, table, &mut uses, below);
    let before = table.len();
    let mut uses = uses.into_iter();
    table.retain(|_| uses.next() == Some(ChunkUse::Needed));
    Ok(before.saturating_sub(table.len()) as u64)
}

/// What each of the chunks `olds` (ascending) is to the filesystem on a card of so many `chunks`, by its own bitmaps: free
/// or not. Only the order of writes hangs on it: so a filesystem without a journal, which nobody can see to be whole, is
/// taken for that.
pub fn free_on(
    card: &mut impl Chunks,
    chunks: u64,
    olds: &mut dyn Iterator<Item = u64>,
) -> Result<Vec<ChunkUse>, Refusal> {
    let superblock = Superblock::read(card, chunks, true)?;
    uses(&superblock, &mut Groups::with_untouched(&superblock, card), &Journal::default(), olds)
}

/// What a chunk is to the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkUse {
    /// Something in it counts.
    Needed,
    /// All of it is free, or the journal's.
    Journal,
    /// All of it is free.
    Free,
}

fn uses(
    superblock: &Superblock,
    groups: &mut Groups<'_, impl Chunks>,
    journal: &Journal,
    olds: &mut dyn Iterator<Item = u64>,
) -> Result<Vec<ChunkUse>, Refusal> {
    let mut uses = Vec::new();
    for old in olds {
        uses.push(usage(superblock, groups, journal, old)?);
    }
    Ok(uses)
}

fn usage(
    superblock: &Superblock,
    groups: &mut Groups<'_, impl Chunks>,
    journal: &Journal,
    chunk: u64,
) -> Result<ChunkUse, Refusal> {
    // The superblock's chunk is the log's fingerprint of root, too.
    let Some(blocks) = superblock.blocks_of(chunk).filter(|_| chunk != 0) else {
        return Ok(ChunkUse::Needed);
    };
    let mut found = ChunkUse::Free;
    for block in blocks {
        if journal.has(block) {
            found = ChunkUse::Journal;
        } else if !groups.is_free(block)? {
            return Ok(ChunkUse::Needed);
        }
    }
    Ok(found)
}

/// Of the journal's chunks only those are left out below which no block could pass for one of the
/// journal's future (see [`Journal::is_past`]). What can't be read is not left out.
fn keep_what_a_recovery_could_read(
    superblock: &Superblock,
    journal: &Journal,
    table: &[Exception],
    uses: &mut [ChunkUse],
    below: &mut impl Chunks,
) {
    let mut buffer = vec![0; PIECE * CHUNK_BYTES];
    let (mut table, mut uses) = (table, uses);
    while let Some(first) = table.first() {
        let next_to = |(n, (exception, used)): &(u64, (&Exception, &ChunkUse))| {
            first.old.checked_add(*n) == Some(exception.old) && **used == ChunkUse::Journal
        };
        let row = (0..).zip(table.iter().zip(uses.iter())).take(PIECE).take_while(next_to).count();
        let count = row.max(1).min(table.len()).min(uses.len());
        let (now, later) = table.split_at(count);
        let (used, rest) = uses.split_at_mut(count);
        let bytes = buffer.get_mut(..row * CHUNK_BYTES).unwrap_or_default();
        let readable = row == 0 || below.read(first.old, bytes).is_ok();
        for ((exception, used), chunk) in now.iter().zip(used).zip(bytes.chunks(CHUNK_BYTES)) {
            let past =
                superblock.headers_in(exception.old, chunk).all(|head| journal.is_past(head));
            if !(readable && past) {
                *used = ChunkUse::Needed;
            }
        }
        (table, uses) = (later, rest);
    }
}
