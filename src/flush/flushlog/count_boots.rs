//! Notes in the log how many boots have begun on the stack; [`crate::pure::flushlog::boot_count`] says
//! what that means.

use super::FlushLog;
use crate::error::Result;
use crate::notes::{self, run_dir};
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::flushlog::boot_count::{AT, LIMIT, begun};
use crate::pure::flushlog::records::{BootCount, RECORD_BYTES};
use crate::sys::dm::Control;
use crate::sys::{block, lock};

impl FlushLog {
    /// How many boots in a row have begun on the stack and left nothing behind.
    pub fn boots_begun(&mut self) -> u32 {
        let place = last_chunk(self.header().chunks);
        let chunk = self.disk.chunk(place).ok();
        let bytes = chunk.as_ref().and_then(|chunk| chunk.get(AT..AT + RECORD_BYTES));
        begun(bytes, self.header().uuid, self.chain.next.id)
    }

    /// Notes that `count` boots have begun. It sends no FLUSH: if a power cut comes that soon, one
    /// more boot does not make a loop; and until somebody pulls the plug of a machine that hangs,
    /// the card has written it.
    pub fn note_boots(&mut self, count: u32) -> Result<()> {
        let tries = BootCount { log: self.header().uuid, last: self.chain.next.id, count };
        self.disk.write_sector(last_chunk(self.header().chunks), AT, &tries.encode())
    }
}

fn last_chunk(chunks: u64) -> u64 {
    chunks.saturating_sub(1)
}

/// Notes that this system has come up. It writes nothing where a flush says the same, so that a
/// boot costs one sector. It writes a second one only if the next boot would do without the stack,
/// as on a system whose power is always cut before its first flush.
pub fn reached(control: &Control) -> Result<()> {
    let note = run_dir::read(run_dir::BOOT).unwrap_or_default();
    let tries = notes::value(&note, "tries").parse::<u32>().unwrap_or(0);
    let Some(partition) = control.stack()?.log_partition().filter(|_| tries >= LIMIT) else {
        return Ok(());
    };
    lock::take(control)?;
    let noted = FlushLog::open_in_use(&block::path(partition)).and_then(|mut log| {
        let needed = log.boots_begun() >= LIMIT;
        if needed { log.note_boots(0) } else { Ok(()) }
    });
    lock::release(control);
    noted
}

const _: () = assert!(AT + RECORD_BYTES <= CHUNK_BYTES);
