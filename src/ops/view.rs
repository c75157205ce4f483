//! Building the view over a sealed COW, and reading how far a merge of it came.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cow::format::{self, CHUNK_BYTES, Chunk, Defect, Exception, PER_AREA};
use crate::cow::view::{self, Areas, Budget};
use crate::dm::{Line, Target};
use crate::error::{Doing, Error, Exit, Result};
use crate::stack::{Device, Live, Mark, Name};
use crate::sys::block::{self, ChunkReader};
use crate::sys::dm::Control;
use crate::sys::{loopdev, memory, tmpfs};
use crate::units::{Bytes, DevNo, Sectors};

const NAME: &str = "cowflush-table";
const CHUNK_SECTORS: u64 = format::CHUNK_SECTORS as u64;

/// Writes a table over the sealed COW in the order of the card and makes [`Name::View`] of it.
///
/// `mark` is kept with it. Returns its number and how much it holds.
pub fn build(control: &Control, sealed: &Device, mark: Option<Mark>) -> Result<(DevNo, Bytes)> {
    let Some(Target::Snapshot { origin, cow, .. }) = sealed.target() else {
        return Err(Error::new("build the view", "nothing is sealed"));
    };
    let cow_size = block::size(cow)?;
    let table = read_table(cow, chunks(block::size(origin)?), chunks(cow_size))?;

    let areas = Areas::new(&table, copy_budget());
    let data_start = areas.layout().data_start();
    let metadata = Sectors(data_start * CHUNK_SECTORS);
    let file = tmpfs::file(NAME, metadata.bytes())?;
    write_areas(&file, areas, &mut ChunkReader::open(cow)?)?;
    let table_loop = loopdev::attach(&file, NAME, metadata.bytes())?;

    let linear = |device| Target::Linear { device, offset: Sectors(0) };
    let lines = [
        Line { start: Sectors(0), length: metadata, target: linear(table_loop.number()) },
        Line { start: metadata, length: cow_size, target: linear(cow) },
    ];
    let number = control.create(Name::View, mark)?;
    control.replace(Name::View, &lines)?;
    Ok((number, Bytes(table.len() as u64 * CHUNK_BYTES as u64)))
}

/// Sectors to chunks; a last, partial chunk counts.
fn chunks(sectors: Sectors) -> u64 {
    sectors.0.div_ceil(CHUNK_SECTORS)
}

/// A quarter of the memory that is available may go into copies: they make fewer and larger
/// writes, and are given back after the merge.
fn copy_budget() -> Budget {
    memory::info().map_or(0, |memory| memory.available.0 / 4 / CHUNK_BYTES as u64)
}

fn write_areas(file: &File, areas: Areas<'_>, cow: &mut ChunkReader) -> Result<()> {
    let put = |bytes: &[u8], chunk: u64| {
        file.write_all_at(bytes, chunk * CHUNK_BYTES as u64).doing(|| "write the view's table")
    };
    put(&format::header(), 0)?;
    for area in areas {
        for (from, to) in &area.copies {
            put(&cow.read(*from)?[..], *to)?;
        }
        put(&area.bytes[..], area.chunk)?;
    }
    Ok(())
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
    format::check_header(ChunkReader::open(cow)?.read(0)?).map_err(bad)?;
    each_area(cow, |area| table.extend(format::exceptions(area)))?;
    format::sort_checked(&mut table, origin_chunks, cow_chunks).map_err(bad)?;
    Ok(table)
}

/// Shows the metadata areas of a store that belong to its table: up to the first that is not
/// full, or the device's end.
fn each_area(store: DevNo, mut look: impl FnMut(&Chunk)) -> Result<()> {
    let mut reader = ChunkReader::open(store)?;
    let end = chunks(block::size(store)?);
    for chunk in (0..).map(format::area_chunk).take_while(|chunk| *chunk < end) {
        let area = reader.read(chunk)?;
        look(area);
        if (format::exceptions(area).count() as u64) < PER_AREA {
            break;
        }
    }
    Ok(())
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
    each_area(table, |area| run = view::next_run(area).or(run))?;
    Ok(run.map(|(old, length)| {
        let first = old.saturating_mul(CHUNK_SECTORS);
        let end = first.saturating_add(length.saturating_mul(CHUNK_SECTORS));
        (Sectors(first), Sectors(end.saturating_sub(1)))
    }))
}

/// What is left of a store's table; the kernel has no count of a store that overflowed.
pub fn left(store: DevNo) -> Result<Bytes> {
    let mut exceptions = 0;
    each_area(store, |area| exceptions += format::exceptions(area).count() as u64)?;
    Ok(Bytes(exceptions * CHUNK_BYTES as u64))
}
