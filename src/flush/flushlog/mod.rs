//! The flush log on its partition: opening it, and (in the files here) appending to it, starting a
//! new generation, and applying it without device-mapper.

pub mod append;
pub mod apply;
pub mod compare;
pub mod count_boots;
pub mod make;

use std::path::Path;

use crate::error::{Error, Exit, Result};
use crate::pure::chunks::CHUNK_BYTES;
use crate::pure::flushlog::chain::{self, Bad, Chain, ChainEnd, LogError};
use crate::pure::flushlog::ownership::Owner;
use crate::pure::flushlog::records::{Header, Life, Link, Mark, Uuid};
use crate::pure::flushlog::ring::Ring;
use crate::pure::flushlog::segment::Segment;
use crate::pure::stack::Stack;
use crate::pure::units::{Bytes, Sectors};
use crate::sys::block;
use crate::sys::disk::Disk;

/// What was found where a log could be.
pub enum Sought {
    /// No log.
    Nothing,
    /// A log.
    Log(Box<FlushLog>),
    /// A log that can't be read, or something that can't be read and may be one.
    Unclear(Error),
    /// A log of a format that this program does not know: its header, and what to do.
    Newer(Box<Header>, Error),
}

/// A log that was opened and read.
pub struct FlushLog {
    disk: Disk,
    /// What it holds.
    pub chain: Chain,
    /// Both copies of the header are intact and equal.
    pub whole: bool,
}

impl FlushLog {
    /// Reads a log's chain; its data are not verified.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(Disk::open_writable(path)?, false)
    }

    /// Opens the log at `path`; fails while the partition is used by another device.
    pub fn open_exclusive(path: &Path) -> Result<Self> {
        Self::read(Disk::open_exclusive(path)?, false)
    }

    /// Opens the log at `path` for reading only.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        Self::read(Disk::open(path)?, false)
    }

    /// Looks for a log at `path`.
    pub fn seek(path: &Path) -> Sought {
        let mut disk = match Disk::open(path) {
            Ok(disk) => disk,
            Err(error) => return Sought::Unclear(error),
        };
        // Too small for a log, like the entry of an extended partition.
        if Ring::new(disk.chunks(), 1).is_none() {
            return Sought::Nothing;
        }
        let chunks = disk.chunks();
        match chain::open(&mut disk, chunks, false) {
            Ok((chain, whole)) => Sought::Log(Box::new(Self { disk, chain, whole })),
            Err(LogError::Absent) => Sought::Nothing,
            Err(why) => {
                let error = explain(path, &why);
                match why {
                    LogError::Newer(header) => Sought::Newer(header, error),
                    _ => Sought::Unclear(error),
                }
            }
        }
    }

    /// Opens the log for writing as well.
    pub fn make_writable(&mut self) -> Result<()> {
        self.disk = Disk::open_writable(self.disk.path())?;
        Ok(())
    }

    /// Opens a log that the stack uses: without the long search behind a flush that was cut
    /// short.
    pub fn open_in_use(path: &Path) -> Result<Self> {
        Self::read(Disk::open_writable(path)?, true)
    }

    /// The end of a log that root reads to where `mark` says, for an append. `None`: it has to be
    /// read as a whole.
    pub fn open_at(path: &Path, mark: &Mark) -> Option<Self> {
        let mut disk = Disk::open_writable(path).ok()?;
        let chunks = disk.chunks();
        let found = chain::header(&mut disk, chunks).ok()?;
        let chain = Chain::read_last(&mut disk, found.header, mark)?;
        Some(Self { disk, chain, whole: found.whole })
    }

    /// What was appended to the log at `path` since it ended cleanly as `before` says: its
    /// generation, and what the next segment is chained to. `None`: it has to be read as a whole.
    pub fn since(path: &Path, before: (Link, Link)) -> Option<Self> {
        let mut disk = Disk::open(path).ok()?;
        let chunks = disk.chunks();
        let found = chain::header(&mut disk, chunks).ok()?;
        let (start, end) = before;
        let same = found.whole && found.header.start == start;
        let chain = Chain::since(&mut disk, same.then_some(found.header)?, end)?;
        Some(Self { disk, chain, whole: true })
    }

    fn read(mut disk: Disk, in_use: bool) -> Result<Self> {
        let chunks = disk.chunks();
        match chain::open(&mut disk, chunks, in_use) {
            Ok((chain, whole)) => Ok(Self { disk, chain, whole }),
            Err(why) => Err(explain(disk.path(), &why)),
        }
    }

    /// The header of the log at `path`; the chain, which takes longer, is not read.
    pub fn header_at(path: &Path) -> Result<Header> {
        let mut disk = Disk::open(path)?;
        let chunks = disk.chunks();
        let found = chain::header(&mut disk, chunks).map_err(|why| explain(path, &why))?;
        Ok(found.header)
    }

    /// The UUID of the log at `path`, even of a newer format. `None`: it can't be read.
    pub fn uuid_at(path: &Path) -> Option<Uuid> {
        let mut disk = Disk::open(path).ok()?;
        let chunks = disk.chunks();
        match chain::header(&mut disk, chunks) {
            Ok(found) => Some(found.header.uuid),
            Err(LogError::Newer(header)) => Some(header.uuid),
            Err(_) => None,
        }
    }

    /// How much data one flush can put into the log at `path`, when it is empty.
    pub fn capacity_at(path: &Path) -> Result<Bytes> {
        let header = Self::header_at(path)?;
        Ok(capacity(Ring::new(header.chunks, header.align)))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.chain.header
    }

    /// The root that it belongs to, by its header.
    pub fn owner(&self) -> Owner {
        owner(self.header())
    }

    /// Whether it holds flushes, or did before damage.
    pub fn has_flushes(&self) -> bool {
        !self.chain.segments.is_empty()
            || !matches!(self.chain.end, ChainEnd::Clean | ChainEnd::Torn)
    }

    /// The flushes in it.
    pub fn flushes(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.chain.segments.iter().filter(|segment| segment.is_flush())
    }

    /// Figures since the log was made, including the segments that are in it now.
    pub fn life(&self) -> Life {
        let life = self.chain.header.life;
        let chunks = self.flushes().map(|segment| u64::from(segment.head.count));
        Life {
            segments: life.segments.saturating_add(self.flushes().count() as u64),
            chunks: life.chunks.saturating_add(chunks.sum()),
            ..life
        }
    }

    /// The path of its partition.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Whether nothing was appended since its generation began, not even in part.
    pub fn is_unused(&self) -> bool {
        self.chain.segments.is_empty() && self.chain.end == ChainEnd::Clean
    }

    /// How much of it is in use, in percent.
    pub fn used_percent(&self) -> u64 {
        Bytes(self.chain.used()).percent_of(Bytes(self.chain.ring.length))
    }

    /// Reads everything that would be applied, and ends the chain before what is damaged or can't
    /// be read.
    pub fn verify(&mut self) -> Vec<chain::Live> {
        self.chain.verify(&mut self.disk)
    }

    /// Reads all data. Returns the chunks of the log that are damaged or can't be read.
    pub fn verify_all(&mut self) -> Vec<Bad> {
        self.chain.verify_all(&mut self.disk)
    }

    /// How much data one flush can put into the log when it is empty.
    pub fn capacity(&self) -> Bytes {
        capacity(Some(self.chain.ring))
    }

    /// What became of a flush that was cut short at the log's end.
    pub fn torn(&self) -> &'static str {
        // A segment without its commit record counts if everything else of it is intact.
        match self.chain.segments.last() {
            Some(last) if !last.committed && last.is_flush() => {
                "the last flush was cut short after it had written everything: it counts"
            }
            _ => "the last flush was cut short: what counts is the one before",
        }
    }

    /// What was lost, as a sentence; `None` when nothing was.
    pub fn damage(&self) -> Option<String> {
        let ChainEnd::Damaged(damage) = self.chain.end else { return None };
        Some(format!(
            "the flush log on {} is damaged ({} at chunk {}): flushes up to {} are lost, and what \
             counts is {}",
            self.path().display(),
            damage.what,
            damage.chunk,
            damage.youngest,
            self.last(),
        ))
    }

    /// What can't be read, as a sentence; `None` when everything could.
    pub fn hidden(&self) -> Option<String> {
        let ChainEnd::Unreadable { chunk, youngest } = self.chain.end else { return None };
        let what = match youngest {
            Some(youngest) => format!("flushes up to {youngest} are there and can't be read now"),
            None => "there may be flushes that can't be read now".to_owned(),
        };
        Some(format!(
            "chunk {chunk} of the flush log on {} can't be read: {what}, and what root has is {}",
            self.path().display(),
            self.last(),
        ))
    }

    fn last(&self) -> String {
        match self.flushes().next_back() {
            Some(last) => format!("flush {}", last.head.sequence),
            None => "the last merge".to_owned(),
        }
    }
}

/// The root that a log with this header belongs to.
pub fn owner(header: &Header) -> Owner {
    let (start, size) = (Sectors(header.root_start), Sectors(header.root_sectors));
    Owner { uuid: header.root_uuid, start, size }
}

/// Head, table and commit record take one chunk of about 340.
fn capacity(ring: Option<Ring>) -> Bytes {
    let chunks = ring.map_or(0, |ring| ring.length.saturating_sub(2));
    Bytes((chunks - chunks / 300).saturating_mul(CHUNK_BYTES as u64))
}

/// What to do about a card that can't be read.
pub const READ_AGAIN: &str = "Nothing is known to be lost, and nothing was written. Look for the card's errors in \
    the kernel log (dmesg), and whether it sits well in its slot; then try again. Don't format anything.";

/// What to do about a log of a newer program.
const NEWER: &str = "A newer cowflush wrote it, and nothing in it is lost. Boot with that one: choose a kernel whose initramfs \
    has it, or make all initramfs images anew with it. To go back to this one: `cowflush merge` with the newer one empties \
    the log, and after that this one reads it.";

fn explain(path: &Path, why: &LogError) -> Error {
    let (advice, exit) = match why {
        LogError::Unreadable(_) => (READ_AGAIN, Exit::Card),
        LogError::Absent => ("`cowflush log format` makes a log of a partition.", Exit::Failed),
        LogError::Truncated { .. } => (
            "Make the partition as large as it was; `cowflush recover` can then apply the log.",
            Exit::Lost,
        ),
        LogError::Newer(_) => (NEWER, Exit::Newer),
        LogError::Damaged | LogError::Nonsense => (
            "Flushes that were only in the log are lost, and the card holds the last merge. \
             `cowflush log format DEVICE --over cowflush-log` makes the log anew.",
            Exit::Lost,
        ),
    };
    Error::new(format!("use {} as the flush log", path.display()), why.to_string())
        .advise(advice)
        .exit(exit)
}

/// What one flush can put into the flush log of `stack`. No limit without a log, or if it can't be
/// read: the append will report that.
pub fn log_capacity(stack: &Stack) -> Bytes {
    let capacity = stack.log_partition().map(|log| FlushLog::capacity_at(&block::path(log)));
    capacity.and_then(Result::ok).unwrap_or(Bytes::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::make::LogOptions;
    use super::*;
    use crate::output::progress::Meter;
    use crate::pure::cow::exception_store::Exception;
    use crate::pure::flushlog::agree::{Act, Agreement};
    use crate::pure::flushlog::chain::Live;
    use crate::pure::flushlog::records::{FORMAT, Format};

    /// An empty log and a root, in files that the drop removes.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("cowflush-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["log", "root"] {
                std::fs::write(folder.join(file), vec![0; 2 << 20]).unwrap();
            }
            Self(folder)
        }

        fn log(&self) -> FlushLog {
            let root = Owner { size: Sectors(4096), ..Owner::default() };
            let options =
                LogOptions { root, erase_block: Bytes(4096), fill: Bytes(0), label: [0; 16] };
            FlushLog::make(&self.0.join("log"), &options).unwrap()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_log_of_a_newer_program_may_be_intact_and_one_that_is_emptied_is_every_programs() {
        let files = Files::new("newer");
        let (mut log, at) = (files.log(), files.0.join("log"));
        let newer = |log: &mut FlushLog| {
            log.chain.header.format = Format(FORMAT + 1);
            log.rebind(Owner { size: Sectors(4096), ..Owner::default() }).unwrap();
        };
        newer(&mut log);
        let Err(error) = FlushLog::open(&at) else { panic!() };
        assert_eq!(error.exit_code(), Exit::Newer);
        assert!(error.exit_code().may_be_intact());
        let Sought::Newer(header, _) = FlushLog::seek(&at) else { panic!() };
        assert_eq!(owner(&header), log.owner());
        // Only a program that can read the log has merged it.
        log.reset(0).unwrap();
        assert_eq!(FlushLog::header_at(&at).unwrap().format, Format::default());
        assert!(FlushLog::open(&at).unwrap().whole);
        // A program that appends first notes the format.
        let mut data = Disk::open(&files.0.join("root")).unwrap();
        let mut card = Disk::open(&files.0.join("root")).unwrap();
        log.append(&[Exception { old: 3, new: 4 }], &mut data, &mut card, &mut |_| Ok(())).unwrap();
        assert_eq!(FlushLog::header_at(&at).unwrap().format, Format(FORMAT));
    }

    #[test]
    fn boots_are_counted_in_one_sector_until_the_log_is_written_to() {
        let files = Files::new("tries");
        let (mut log, at) = (files.log(), files.0.join("log"));
        let mut before = std::fs::read(&at).unwrap();
        assert_eq!(log.boots_begun(), 0);
        for count in 1..4 {
            log.note_boots(count).unwrap();
            let after = std::fs::read(&at).unwrap();
            let changed = (0..after.len()).filter(|at| after[*at] != before[*at]);
            let sector = after.len() - CHUNK_BYTES + crate::pure::flushlog::boot_count::AT;
            assert!({ changed }.all(|at| (sector..sector + 512).contains(&at)));
            before = after;
            let mut again = FlushLog::open(&at).unwrap();
            assert_eq!((again.boots_begun(), again.whole), (count, true));
        }
        let mut data = Disk::open(&files.0.join("root")).unwrap();
        let mut card = Disk::open(&files.0.join("root")).unwrap();
        log.append(&[Exception { old: 3, new: 4 }], &mut data, &mut card, &mut |_| Ok(())).unwrap();
        assert_eq!((log.boots_begun(), FlushLog::open(&at).unwrap().boots_begun()), (0, 0));
        log.note_boots(2).unwrap();
        log.reset(1).unwrap();
        assert_eq!(log.boots_begun(), 0);
        // Torn: the power failed in the middle of it.
        log.note_boots(2).unwrap();
        let mut bytes = std::fs::read(&at).unwrap();
        let sector = bytes.len() - CHUNK_BYTES + crate::pure::flushlog::boot_count::AT;
        bytes[sector + 300..sector + 512].fill(0x5a);
        std::fs::write(&at, bytes).unwrap();
        let mut again = FlushLog::open(&at).unwrap();
        assert_eq!((again.boots_begun(), again.whole, again.chain.end), (1, true, ChainEnd::Clean));
    }

    #[test]
    fn what_stands_against_a_write_is_said_for_each_act() {
        let files = Files::new("refuse");
        let (mut log, at) = (files.log(), files.0.join("log"));
        log.chain.next.sequence = 7;
        let at = at.display();
        let clean = log.chain.end;
        let hidden = |youngest| ChainEnd::Unreadable { chunk: 9, youngest };
        for (act, agreement, end, said) in [
            (
                Act::Append,
                Agreement::More(0),
                clean,
                format!(
                    "cannot append to the flush log: {at} holds flushes up to 7 that root does not have: they could not be read at the boot."
                ),
            ),
            (
                Act::Merge,
                Agreement::More(0),
                clean,
                format!(
                    "cannot merge the flush log: {at} holds flushes up to 7 that root does not have: they could not be read at the boot."
                ),
            ),
            (
                Act::Retire,
                Agreement::More(0),
                clean,
                format!(
                    "cannot write to root past the flush log: {at} holds flushes up to 7 that root does not have: they could not be read at the boot."
                ),
            ),
            (
                Act::Append,
                Agreement::Less,
                clean,
                format!(
                    "cannot append to the flush log: {at} does not hold any more what root reads through it: it was damaged since the boot."
                ),
            ),
            (
                Act::Append,
                Agreement::Less,
                hidden(None),
                format!(
                    "cannot append to the flush log: its chunk 9 on {at} can't be read any more."
                ),
            ),
            (
                Act::Append,
                Agreement::Hidden,
                hidden(Some(7)),
                format!(
                    "cannot append to the flush log: chunk 9 of the flush log on {at} can't be read: flushes up to 7 are there and can't be read now, and what root has is the last merge."
                ),
            ),
            (
                Act::Append,
                Agreement::Hidden,
                hidden(None),
                format!(
                    "cannot append to the flush log: chunk 9 of the flush log on {at} can't be read: there may be flushes that can't be read now, and what root has is the last merge."
                ),
            ),
        ] {
            log.chain.end = end;
            let error = log.refuse(act, agreement);
            assert!(error.to_string().starts_with(&said), "{error}");
            assert_eq!(error.exit_code(), Exit::Card);
        }
    }

    #[test]
    fn a_chunk_that_is_another_at_each_read_is_not_applied() {
        let files = Files::new("apply");
        let mut log = files.log();
        let mut root = Disk::open_writable(&files.0.join("root")).unwrap();
        let live = Live { old: 3, segment: 0, place: 5, crc: 1 };
        let error = log.apply(&[live], &mut root, &mut Meter::silent()).unwrap_err();
        let at = files.0.join("log");
        let said = format!(
            "cannot read chunk 5 of {}: its checksum was right before and is wrong now.",
            at.display()
        );
        assert!(error.to_string().starts_with(&said), "{error}");
        assert_eq!(error.exit_code(), Exit::Card);
        assert_eq!(std::fs::read(files.0.join("root")).unwrap(), vec![0; 2 << 20]);
    }

    #[test]
    fn a_data_chunk_that_a_merge_finds_wrong_is_told_with_what_is_lost() {
        let files = Files::new("cut");
        let mut log = files.log();
        let (log_path, root_path) = (files.0.join("log"), files.0.join("root"));
        let mut data = Disk::open(&root_path).unwrap();
        let mut card = Disk::open(&root_path).unwrap();
        let table = [Exception { old: 3, new: 4 }];
        log.append(&table, &mut data, &mut card, &mut |_| Ok(())).unwrap();
        let place = log.chain.live()[0].place;
        log.chain.cut(0, Bad { place, unreadable: false });
        let said = format!(
            "the flush log on {} is damaged (a segment's data at chunk {place}): flushes up to 1 are lost, and what counts is the last merge",
            log_path.display()
        );
        assert_eq!(log.damage(), Some(said));
    }
}
