//! Building the view over a sealed COW, and reading how far a merge of it came.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cow::format::{self, CHUNK_BYTES, Defect, Exception, PER_AREA};
use crate::cow::view::{self, Areas};
use crate::dm::{Line, Target};
use crate::error::{Doing, Error, Exit, Result};
use crate::stack::{Device, Live, Name};
use crate::sys::block::{self, ChunkReader};
use crate::sys::dm::Control;
use crate::sys::{loopdev, tmpfs};
use crate::units::{DevNo, Sectors};

const NAME: &str = "cowflush-table";
const CHUNK_SECTORS: u64 = format::CHUNK_SECTORS as u64;

/// Writes a table over the sealed COW in the order of the card and makes [`Name::View`] of it.
///
/// The device is made last: a view that exists is a whole one.
pub fn build(control: &Control, sealed: &Device) -> Result<()> {
    let Some(Target::Snapshot { origin, cow, .. }) = sealed.target() else {
        return Err(Error::new("build the view", "nothing is sealed"));
    };
    let cow_size = block::size(cow)?;
    let table = read_table(cow, chunks(block::size(origin)?), chunks(cow_size))?;

    let areas = Areas::new(&table);
    let data_start = areas.layout().data_start();
    let metadata = Sectors(data_start * CHUNK_SECTORS);
    let file = tmpfs::file(NAME, metadata.bytes())?;
    write_areas(&file, areas).doing(|| "write the view's table")?;
    let table_loop = loopdev::attach(&file, NAME, metadata.bytes())?;

    let linear = |device| Target::Linear { device, offset: Sectors(0) };
    let lines = [
        Line { start: Sectors(0), length: metadata, target: linear(table_loop.number()) },
        Line { start: metadata, length: cow_size, target: linear(cow) },
    ];
    control.create(Name::View)?;
    control.replace(Name::View, &lines)
}

/// Sectors to chunks; a last, partial chunk counts.
fn chunks(sectors: Sectors) -> u64 {
    sectors.0.div_ceil(CHUNK_SECTORS)
}

fn write_areas(file: &File, areas: Areas<'_>) -> std::io::Result<()> {
    file.write_all_at(&format::header(), 0)?;
    for area in areas {
        file.write_all_at(&area.bytes[..], area.chunk * CHUNK_BYTES as u64)?;
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
    let mut reader = ChunkReader::open(cow)?;
    format::check_header(reader.read(0)?).map_err(bad)?;
    let mut table = Vec::new();
    for area in 0.. {
        let chunk = format::area_chunk(area);
        if chunk >= cow_chunks {
            break;
        }
        let before = table.len();
        table.extend(format::exceptions(reader.read(chunk)?));
        if ((table.len() - before) as u64) < PER_AREA {
            break;
        }
    }
    format::sort_checked(&mut table, origin_chunks, cow_chunks).map_err(bad)?;
    Ok(table)
}

/// The sectors of the origin that the kernel was merging when the merge failed.
pub fn failed_sectors(view: &Device) -> Result<Option<(Sectors, Sectors)>> {
    let Some(Live::Joined(metadata, _)) = view.live else { return Ok(None) };
    let Target::Linear { device, .. } = metadata.target else { return Ok(None) };
    let mut reader = ChunkReader::open(device)?;
    let last_area = (metadata.length.0 / CHUNK_SECTORS).saturating_sub(2) / (PER_AREA + 1);
    for area in (0..=last_area).rev() {
        if let Some((old, length)) = view::next_run(reader.read(format::area_chunk(area))?) {
            let first = old.saturating_mul(CHUNK_SECTORS);
            let last = first.saturating_add(length * CHUNK_SECTORS).saturating_sub(1);
            return Ok(Some((Sectors(first), Sectors(last))));
        }
    }
    Ok(None)
}
