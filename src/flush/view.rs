//! Builds a view over a sealed COW or over the flush log, and reads how far a merge of it came.

use super::errors::explain;
use crate::error::{Doing, Error, Exit, Result};
use crate::pure::chunks::{self, CHUNK_BYTES, Chunk};
use crate::pure::cow::exception_store::{self, Defect, Exception, PER_AREA};
use crate::pure::cow::fill::{self, Budget, EraseBlocks, FROM_CARD};
use crate::pure::cow::merge_order::{self, Areas};
use crate::pure::dm::{Line, Target};
use crate::pure::flushlog::chain::Chain;
use crate::pure::flushlog::records::Mark;
use crate::pure::stack::{Device, Live, Name, PlanError, Stack};
use crate::pure::units::{Bytes, DevNo, Sectors};
use crate::sys::disk::Disk;
use crate::sys::dm::Control;
use crate::sys::node::Node;
use crate::sys::{block, loopdev, memory, tmpfs};

/// The name of the file that holds a view's table.
const TABLE_NAME: &str = "cowflush-table";
const CHUNK_SECTORS: u64 = chunks::CHUNK_SECTORS as u64;
/// Where in the table's first chunk the mark stands, behind the kernel's header, in bytes.
const MARK_AT: usize = 512;

/// Data that a view can show: exceptions whose new chunks are on one device.
pub struct Data {
    /// The device.
    pub store: DevNo,
    /// The exceptions, sorted by old chunk and checked.
    pub table: Vec<Exception>,
    /// The card that fillers of gaps are read from.
    card: Option<DevNo>,
    /// Where the log ends, if these are all its data that count.
    mark: Option<Mark>,
}

impl Data {
    /// How much data it is.
    pub fn bytes(&self) -> Bytes {
        let own = self.table.iter().filter(|exception| !fill::is_filler(exception)).count();
        Bytes(own as u64 * CHUNK_BYTES as u64)
    }

    /// What a sealed COW holds; `origin` is what it is sealed over.
    pub fn of_cow(origin: DevNo, cow: DevNo) -> Result<Self> {
        let table = read_table(cow, chunks(block::size(origin)?), chunks(block::size(cow)?))?;
        Ok(Self { store: cow, table, card: None, mark: None })
    }

    /// What a flush log holds, if all of it was read.
    pub fn of_log(log: DevNo, chain: &Chain) -> Self {
        let live = chain.live();
        let table = live.iter().map(|live| Exception { old: live.old, new: live.place }).collect();
        Self { store: log, table, card: None, mark: chain.mark() }
    }

    /// What root reads of the flush log, as [`seen`] found it.
    pub fn of_seen(log: DevNo, seen: Vec<Exception>) -> Self {
        Self { store: log, table: seen, card: None, mark: None }
    }

    /// Splits off the exceptions that `marks` selects.
    pub fn take(&mut self, marks: &[bool]) -> Self {
        let part = |wanted| {
            let marked = self.table.iter().zip(marks).filter(|(_, mark)| **mark == wanted);
            marked.map(|(exception, _)| *exception).collect()
        };
        let (taken, rest) = (part(true), part(false));
        self.table = rest;
        Self { store: self.store, table: taken, card: None, mark: None }
    }

    /// What root read so far (`seen`), and what the last segment of `chain` holds, which was just
    /// appended; only that part of the log was read.
    pub fn of_both(log: DevNo, seen: Vec<Exception>, chain: &Chain) -> Self {
        Self { mark: chain.mark(), ..Self::of_seen(log, chain.last_over(seen)) }
    }

    /// Fills the gaps in the card's erase blocks with what the card holds there. Nothing else may
    /// write to the card until that is merged.
    pub fn fill(mut self, card: DevNo, size: u64, budget: &mut Budget) -> Self {
        // A partition that begins within a chunk has no chunk that lies in one page of the card.
        let Some(start) = block::start(card).filter(|start| start.0 % CHUNK_SECTORS == 0) else {
            return self;
        };
        let blocks = EraseBlocks { size, before: start.0 / CHUNK_SECTORS };
        self.table = fill::fill(&self.table, blocks, budget);
        self.card = Some(card);
        self
    }
}

/// Writes a table over `data` in the order of the card and makes the device `name` of it.
/// `copies` says how many chunks may be copied to join neighbours.
pub fn build(control: &Control, name: Name, data: &Data, copies: Budget) -> Result<DevNo> {
    let (file, metadata) = write_table(data, copies)?;
    let table_loop = loopdev::attach(&file, TABLE_NAME, metadata.bytes())?;

    let linear = |device| Target::Linear { device, offset: Sectors(0) };
    let (table, length) = (table_loop.number(), block::size(data.store)?);
    let lines = [
        Line { start: Sectors(0), length: metadata, target: linear(table) },
        Line { start: metadata, length, target: linear(data.store) },
    ];
    let number = control.create(name)?;
    control.replace(name, &lines)?;
    Ok(number)
}

/// Writes the table into a file. Leaves out fillers that can't be read: they only spare the card,
/// and a bad sector outside of the data must not stop a merge. The place of each entry depends on
/// their number, so everything is then written again; and without any fillers, if others turn out
/// to be bad at the second try.
fn write_table(data: &Data, copies: Budget) -> Result<(Node, Sectors)> {
    let mut fewer: Option<Vec<Exception>> = None;
    loop {
        let table = fewer.as_deref().unwrap_or(&data.table);
        let areas = Areas::new(table, copies);
        let metadata = Sectors(areas.layout().data_start() * CHUNK_SECTORS);
        let file = tmpfs::file(TABLE_NAME, metadata.bytes())?;
        let card = data.card.map(|card| Disk::open(&block::path(card))).transpose()?;
        let bad = write_areas(&file, areas, Disk::open(&block::path(data.store))?, card)?;
        if let Some(mark) = data.mark {
            // The kernel reads only the first 16 bytes of that chunk, and writes it only to
            // invalidate the table.
            file.write_all_at(&mark.encode(), MARK_AT as u64).doing(|| "write the view's table")?;
        }
        if bad.is_empty() {
            return Ok((file, metadata));
        }
        let again = fewer.is_some();
        fewer = Some(fill::without(table, |chunk| again || bad.contains(&chunk)));
    }
}

/// Sectors to chunks; a last, partial chunk counts.
fn chunks(sectors: Sectors) -> u64 {
    sectors.0.div_ceil(CHUNK_SECTORS)
}

/// How many chunks may be copied to join neighbours: a quarter of the available memory. Copies make
/// fewer and larger writes, and are freed after the merge.
pub fn copy_budget() -> Budget {
    memory::info().map_or(0, |memory| memory.available.0 / 4 / CHUNK_BYTES as u64)
}

/// Writes the areas and the copies. Returns the chunks of the card that can't be read.
fn write_areas(
    file: &Node,
    areas: Areas<'_>,
    mut store: Disk,
    mut card: Option<Disk>,
) -> Result<Vec<u64>> {
    let mut bad = Vec::new();
    let put = |bytes: &[u8], chunk: u64| {
        file.write_all_at(bytes, chunk * CHUNK_BYTES as u64).doing(|| "write the view's table")
    };
    put(&exception_store::header(), 0)?;
    for area in areas {
        let follows =
            |a: &(u64, u64), b: &(u64, u64)| *b == (a.0.saturating_add(1), a.1.saturating_add(1));
        // Neighbours are read together: a card takes few requests a second.
        for run in area.copies.chunk_by(follows) {
            let Some(&(from, to)) = run.first() else { continue };
            let mut bytes = vec![0; run.len() * CHUNK_BYTES];
            match (from.checked_sub(FROM_CARD), &mut card) {
                (Some(from), Some(card)) => {
                    bad.extend(fill::read(from, &mut bytes, |from, into| {
                        card.read_at(from, into).is_ok()
                    }))
                }
                _ => store.read_at(from, &mut bytes)?,
            }
            put(&bytes, to)?;
        }
        put(&area.bytes[..], area.chunk)?;
    }
    Ok(bad)
}

/// The sealed COW's table, sorted by old chunk and checked.
fn read_table(cow: DevNo, origin_chunks: u64, cow_chunks: u64) -> Result<Vec<Exception>> {
    let bad = |defect: Defect| {
        Error::new(format!("read what was sealed on {}", block::name(cow)), defect.to_string())
            .advise(
                "Nothing was written to the card. The data can be read until a reboot: copy \
                 what you need to another place, then reboot.",
            )
            .exit(Exit::Lost)
    };
    let mut table = Vec::new();
    exception_store::check_header(&Disk::open(&block::path(cow))?.chunk(0)?).map_err(bad)?;
    each_area(cow, |area| table.extend(exception_store::exceptions(area)))?;
    exception_store::sort_checked(&mut table, origin_chunks, cow_chunks).map_err(bad)?;
    Ok(table)
}

/// Calls `each` with the metadata areas of a store that belong to its table: up to the first that
/// is not full, or the device's end.
fn each_area(store: DevNo, mut each: impl FnMut(&Chunk)) -> Result<()> {
    let mut reader = Disk::open(&block::path(store))?;
    let end = chunks(block::size(store)?);
    for chunk in (0..).map(exception_store::area_chunk).take_while(|chunk| *chunk < end) {
        let area = reader.chunk(chunk)?;
        each(&area);
        if (exception_store::exceptions(&area).count() as u64) < PER_AREA {
            break;
        }
    }
    Ok(())
}

/// What root reads through the flush log, by the kernel's own table: chunk of root and its place in
/// the log, ascending. Empty when nothing in the log counts for root, or it is merged already.
pub fn seen(stack: &Stack) -> Result<Vec<Exception>> {
    if !reads_log(stack) {
        return Ok(Vec::new());
    }
    let Some(Live::Joined(Line { target: Target::Linear { device: table, .. }, .. }, data)) =
        stack.log_view.and_then(|view| view.live)
    else {
        return Err(explain(PlanError::Foreign(Name::LogView)));
    };
    let mut seen = Vec::new();
    each_area(table, |area| {
        let place = |new: u64| new.checked_sub(data.start.0 / CHUNK_SECTORS).unwrap_or(u64::MAX);
        seen.extend(
            exception_store::exceptions(area).map(|e| Exception { new: place(e.new), ..e }),
        );
    })?;
    merge_order::sort_back(&mut seen);
    Ok(seen)
}

/// Where the log ended when the table was made by which root reads it; `None` if that is unknown.
pub fn mark(stack: &Stack) -> Option<Mark> {
    let table = table_device(&stack.log_view.filter(|_| reads_log(stack))?)?;
    let first = Disk::open(&block::path(table)).ok()?.chunk(0).ok()?;
    exception_store::check_header(&first).ok()?;
    Mark::decode(first.get(MARK_AT..)?).ok()
}

/// Whether root reads something of the flush log.
fn reads_log(stack: &Stack) -> bool {
    let logged = stack.logged.filter(|_| stack.is_under_root(Name::Logged));
    matches!(
        logged.and_then(|logged| logged.target()),
        Some(Target::Snapshot { .. } | Target::SnapshotMerge { .. })
    )
}

/// The device that holds a view's table.
fn table_device(view: &Device) -> Option<DevNo> {
    match view.live {
        Some(Live::Joined(Line { target: Target::Linear { device, .. }, .. }, _)) => Some(device),
        _ => None,
    }
}

/// The sectors of the origin that the kernel was merging when the merge failed. It empties a
/// table from the end, so it was at the end of what is left.
pub fn failed_sectors(view: &Device) -> Result<Option<(Sectors, Sectors)>> {
    let Some(table) = table_device(view) else { return Ok(None) };
    let mut run = None;
    each_area(table, |area| run = merge_order::next_run(area).or(run))?;
    Ok(run.map(|(old, length)| {
        let first = old.saturating_mul(CHUNK_SECTORS);
        let end = first.saturating_add(length.saturating_mul(CHUNK_SECTORS));
        (Sectors(first), Sectors(end.saturating_sub(1)))
    }))
}

/// How much data a store's table holds; the kernel does not count a store that overflowed.
pub fn left(store: DevNo) -> Result<Bytes> {
    let mut exceptions = 0;
    each_area(store, |area| exceptions += exception_store::exceptions(area).count() as u64)?;
    Ok(Bytes(exceptions * CHUNK_BYTES as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_part_is_taken_whole_and_nothing_is_lost_or_doubled(
            marked in prop::collection::btree_map(any::<u64>(), any::<bool>(), 0..300),
        ) {
            let store = DevNo { major: 7, minor: 1 };
            let table: Vec<_> =
                (2..).zip(marked.keys()).map(|(new, &old)| Exception { old, new }).collect();
            let mut data = Data::of_seen(store, table.clone());
            let marks: Vec<_> = marked.values().copied().collect();
            let first = data.take(&marks);
            prop_assert_eq!((first.store, data.store), (store, store));
            prop_assert!(first.table.is_sorted() && data.table.is_sorted());
            prop_assert!(first.table.iter().all(|exception| marked[&exception.old]));
            prop_assert!(data.table.iter().all(|exception| !marked[&exception.old]));
            let mut both = [first.table, data.table].concat();
            both.sort();
            prop_assert_eq!(both, table);
        }
    }
}
