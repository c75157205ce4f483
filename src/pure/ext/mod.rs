//! Which chunks of a sealed ext2/3/4 need not reach the card: those whose blocks are free in its
//! bitmaps or belong to the journal, which is empty. docs/design/prune.md says why that is safe.
//! Also which chunks are free on the card: a merge writes those first.
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
use crate::pure::cow::exception_store::Exception;
use groups::Groups;
use journal::Journal;
pub use refusal::Refusal;
use superblock::Superblock;

/// Removes from `table` (ascending by chunk of root) what need not reach the card. Returns how many
/// chunks it removed. On an error the table stays as it is.
///
/// `sealed` is the filesystem at the moment of the seal, `below` what a read of a pruned chunk will
/// find instead. Both have `chunks` chunks; a last, partial one counts. `frozen`: the caller knows
/// that the filesystem was frozen. A filesystem with a journal shows that by itself.
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

/// What each of the chunks `olds` (ascending) is to the filesystem on a card of `chunks` chunks, by
/// its own bitmaps. Only the order of writes depends on the answer. So a filesystem without a
/// journal, which does not show whether it is whole, is assumed to be.
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
    /// All of it is free or belongs to the journal.
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
    // The log's fingerprint of root covers the superblock's chunk.
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

/// Keeps a chunk of the journal unless every block that a read would find below it is of the
/// journal's past (see [`Journal::is_past`]). A chunk below which nothing can be read is kept.
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
