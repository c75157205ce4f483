//! The header of a log, of which there are two copies.

use core::fmt;

use super::checked::fetch;
use super::{Chain, ChainEnd};
use crate::pure::chunks::{CHUNK_BYTES, Chunks, Unreadable};
use crate::pure::flushlog::records::{Defect, FORMAT, HEADER_MAGIC, Header};
use crate::pure::flushlog::ring::Ring;

/// Why there is no log to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// Neither copy has a header's magic number.
    Absent,
    /// The header can't be read, so it may be intact: at this chunk.
    Unreadable(u64),
    /// A header is there, but neither copy is intact.
    Damaged,
    /// A copy of the header is intact and of a format that this program does not know: it may hold
    /// anything.
    Newer(Box<Header>),
    /// The header makes no sense.
    Nonsense,
    /// The partition has fewer chunks than the log.
    Truncated {
        /// Chunks that the log has by its header.
        log: u64,
        /// Chunks that there are.
        partition: u64,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Absent => f.write_str("it holds no flush log"),
            LogError::Unreadable(chunk) => write!(f, "its chunk {chunk} can't be read"),
            LogError::Newer(header) => write!(
                f,
                "its log has format {}, and this program knows none above {FORMAT}",
                header.format.0
            ),
            LogError::Damaged => f.write_str("both copies of the log's header are damaged"),
            LogError::Nonsense => f.write_str("the log's header makes no sense"),
            LogError::Truncated { log, partition } => write!(
                f,
                "the log has {log} chunks of 4096 bytes, but the partition has only {partition}"
            ),
        }
    }
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRead {
    /// The younger of the intact copies.
    pub header: Header,
    /// Both copies were intact and equal.
    pub whole: bool,
    /// The chunk of a copy that can't be read.
    pub hidden: Option<u64>,
}

/// Reads the header of a log on a partition of `chunks`.
pub fn header(from: &mut impl Chunks, chunks: u64) -> Result<HeaderRead, LogError> {
    // The outer error: the chunk can't be read. The inner one: what it holds is not intact.
    let mut record = |chunk: u64| {
        let mut bytes = vec![0; CHUNK_BYTES];
        fetch(from, chunk, &mut bytes).map_err(|Unreadable| chunk)?;
        Ok(Header::decode(&bytes).map_err(|defect| match defect {
            Defect::Magic if !bytes.starts_with(HEADER_MAGIC) => Defect::Magic,
            other => other,
        }))
    };
    let first = record(0);
    let end = first.as_ref().ok().and_then(|read| read.as_ref().ok());
    let last_chunk = end.map_or(chunks, |header| header.chunks).checked_sub(1);
    let second =
        last_chunk.filter(|chunk| *chunk < chunks).map_or(Ok(Err(Defect::Magic)), &mut record);
    // A disk whose last partition is a log, up to the disk's end, ends with that log's copy.
    let second = match second {
        Ok(Ok(header)) if !matches!(first, Ok(Ok(_))) && header.chunks != chunks => {
            Ok(Err(Defect::Magic))
        }
        other => other,
    };
    // The other copy may be one that a newer program could not write.
    let newer = [&first, &second].into_iter().filter_map(|read| read.as_ref().ok()?.as_ref().ok());
    if let Some(newer) = newer.copied().find(|header| header.format.is_newer()) {
        return Err(LogError::Newer(Box::new(newer)));
    }
    let header = match (first, second) {
        (Ok(Ok(a)), Ok(Ok(b))) => {
            if b.number > a.number {
                b
            } else {
                a
            }
        }
        (Ok(Ok(one)), _) | (_, Ok(Ok(one))) => one,
        (Err(chunk), _) | (_, Err(chunk)) => return Err(LogError::Unreadable(chunk)),
        (Ok(Err(Defect::Magic)), Ok(Err(Defect::Magic))) => return Err(LogError::Absent),
        _ => return Err(LogError::Damaged),
    };
    if header.chunks > chunks {
        return Err(LogError::Truncated { log: header.chunks, partition: chunks });
    }
    if Ring::new(header.chunks, header.align).is_none() {
        return Err(LogError::Nonsense);
    }
    let hidden = first.err().or(second.err());
    Ok(HeaderRead { header, whole: hidden.is_none() && first == second, hidden })
}

/// Reads a log on a partition of `chunks`, and says whether both copies of its header are intact.
/// `in_use`: reads as [`Chain::read_in_use`] does.
pub fn open(from: &mut impl Chunks, chunks: u64, in_use: bool) -> Result<(Chain, bool), LogError> {
    let HeaderRead { header, whole, hidden } = header(from, chunks)?;
    let mut chain = Chain::read_as(from, header, in_use)?;
    // The copy that can't be read may be the younger one; then what seems lost belongs to its
    // generation.
    if let (Some(chunk), ChainEnd::Damaged(damage)) = (hidden, chain.end) {
        chain.end = ChainEnd::Unreadable { chunk, youngest: Some(damage.youngest) };
    }
    Ok((chain, whole))
}
