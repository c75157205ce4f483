//! One ioctl message: `struct dm_ioctl`, its buffer, and what is read back from it.

use std::mem::size_of;

use crate::pure::dm::target::Line;
use crate::pure::stack::Name;
use crate::pure::units::{DevNo, Sectors};

const VERSION: [u32; 3] = [4, 0, 0];
const NAME_LEN: usize = 128;

// Flags of the header, in or out as the kernel's header says.
const READ_ONLY: u32 = 1 << 0; // in: the table takes no writes
const SUSPEND: u32 = 1 << 1; // in: suspend instead of resume; out: is suspended
const STATUS_TABLE: u32 = 1 << 4; // in: table text instead of status text
const ACTIVE_PRESENT: u32 = 1 << 5; // out: has a live table
const INACTIVE_PRESENT: u32 = 1 << 6; // out: has a loaded table
const BUFFER_FULL: u32 = 1 << 8; // out: the answer did not fit
const SKIP_LOCKFS: u32 = 1 << 10; // in: suspend without freezing the filesystem
const NOFLUSH: u32 = 1 << 11; // in: suspend or ask without waiting for queued I/O

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_LEN],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`: stands before each target's text.
#[repr(C)]
struct TargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const HEADER: usize = size_of::<Header>();
const SPEC: usize = size_of::<TargetSpec>();
const BODY: usize = 4096 - HEADER;

// The sizes are part of the ioctl numbers; they are the same on 32- and 64-bit machines.
const _: () = assert!(HEADER == 312 && SPEC == 40 && size_of::<Message>() == 4096);

/// A whole ioctl message. All of cowflush's tables and answers fit; a buffer that turns out too
/// small is an error and is not grown, since nothing may be allocated while root is suspended.
#[repr(C)]
pub struct Message {
    header: Header,
    body: [u8; BODY],
}

/// The requests cowflush uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// DM_VERSION: the interface's version.
    Version,
    /// DM_DEV_CREATE: a device without a table.
    Create,
    /// DM_DEV_REMOVE.
    Remove,
    /// DM_DEV_RENAME.
    Rename,
    /// DM_DEV_SUSPEND: hold back I/O.
    Suspend {
        /// Freeze the mounted filesystem first (lockfs), so that the device holds it complete.
        freeze: bool,
    },
    /// DM_DEV_SUSPEND with the flag for resuming: swaps in the inactive table, if there is one,
    /// and lets I/O go on.
    Resume {
        /// Freeze the mounted filesystem around the swap.
        freeze: bool,
    },
    /// DM_DEV_STATUS: flags only.
    Status,
    /// DM_TABLE_LOAD into the inactive slot.
    Load,
    /// DM_TABLE_LOAD of a read-only table.
    LoadReadOnly,
    /// DM_TABLE_CLEAR: drop the inactive table.
    Clear,
    /// DM_TABLE_STATUS: what the live table's targets say of themselves.
    TargetStatus,
    /// DM_TABLE_STATUS with the flag for the live table's text.
    Table,
    /// DM_LIST_VERSIONS: the target types the kernel has.
    ListVersions,
}

impl Request {
    /// The ioctl number, `_IOWR(0xfd, n, struct dm_ioctl)`.
    pub const fn code(self) -> u32 {
        let number = match self {
            Request::Version => 0,
            Request::Create => 3,
            Request::Remove => 4,
            Request::Rename => 5,
            Request::Suspend { .. } | Request::Resume { .. } => 6,
            Request::Status => 7,
            Request::Load | Request::LoadReadOnly => 9,
            Request::Clear => 10,
            Request::TargetStatus | Request::Table => 12,
            Request::ListVersions => 13,
        };
        nix::request_code_readwrite!(0xfd, number, HEADER) as u32
    }

    const fn flags(self) -> u32 {
        match self {
            Request::Suspend { freeze: true } => SUSPEND,
            Request::Suspend { freeze: false } => SUSPEND | SKIP_LOCKFS,
            Request::Resume { freeze: false } => SKIP_LOCKFS,
            Request::LoadReadOnly => READ_ONLY,
            Request::TargetStatus => NOFLUSH,
            Request::Table => NOFLUSH | STATUS_TABLE,
            _ => 0,
        }
    }
}

impl Message {
    /// An empty message about the device of that name.
    pub fn about(name: Name) -> Box<Self> {
        Self::named(name.text())
    }

    pub(super) fn named(name: &str) -> Box<Self> {
        let mut header = Header {
            version: [0; 3],
            data_size: 0,
            data_start: 0,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; NAME_LEN],
            uuid: [0; 129],
            data: [0; 7],
        };
        put_text(&mut header.name, name);
        Box::new(Self { header, body: [0; BODY] })
    }

    /// A message that loads this table.
    pub fn load(name: Name, lines: &[Line]) -> Box<Self> {
        let mut message = Self::about(name);
        let mut at = 0;
        for line in lines {
            let (kind, params) = (line.target.kind(), line.target.params());
            let Some(end) = message.put(at, line.start, line.length, kind, &params) else { break };
            at = end;
        }
        message
    }

    /// A message that loads a table of one target into a device that is not one of the stack's.
    pub(super) fn load_one(name: &str, length: Sectors, kind: &str, params: &str) -> Box<Self> {
        let mut message = Self::named(name);
        message.put(0, Sectors(0), length, kind, params);
        message
    }

    /// Puts one target at that place of the body; returns where the next one goes. `None`: no room.
    fn put(
        &mut self,
        at: usize,
        start: Sectors,
        length: Sectors,
        kind: &str,
        params: &str,
    ) -> Option<usize> {
        let size = (SPEC + params.len() + 1).next_multiple_of(8);
        let slot = self.body.get_mut(at..at + size)?;
        let mut kind_field = [0; 16];
        put_text(&mut kind_field, kind);
        let fields: [&[u8]; 6] = [
            &start.0.to_ne_bytes(),
            &length.0.to_ne_bytes(),
            &0i32.to_ne_bytes(),
            &(size as u32).to_ne_bytes(),
            &kind_field,
            params.as_bytes(),
        ];
        let mut bytes = slot.iter_mut();
        for value in fields.into_iter().flatten() {
            if let Some(byte) = bytes.next() {
                *byte = *value;
            }
        }
        Some(at + size)
    }

    pub(super) fn rename(from: Name, to: Name) -> Box<Self> {
        let mut message = Self::about(from);
        put_text(&mut message.body, to.text());
        message
    }

    fn has(&self, flag: u32) -> bool {
        self.header.flags & flag != 0
    }

    /// Restores what the kernel's last answer overwrote, so that the message can be sent again.
    pub(super) fn prepare(&mut self, request: Request) {
        let header = &mut self.header;
        header.version = VERSION;
        header.data_size = size_of::<Self>() as u32;
        header.data_start = HEADER as u32;
        header.flags = request.flags();
        header.event_nr = 0;
        // The kernel refuses a message that names its device twice.
        header.dev = 0;
        header.uuid = [0; 129];
        if matches!(request, Request::Load | Request::LoadReadOnly) {
            self.header.target_count = self.lines();
        }
    }

    /// How many targets were put into a table to load: the kernel's answer has another count.
    fn lines(&self) -> u32 {
        let (mut at, mut count) = (0usize, 0);
        while let Some(size) = self.body.get(at..).and_then(|body| body.get(20..)?.first_chunk())
            && u32::from_ne_bytes(*size) > 0
        {
            at = at.saturating_add(u32::from_ne_bytes(*size) as usize);
            count += 1;
        }
        count
    }

    pub(super) fn interface_version(&self) -> [u32; 3] {
        self.header.version
    }

    /// The answer did not fit.
    pub(super) fn is_cut(&self) -> bool {
        self.has(BUFFER_FULL)
    }

    /// A table is loaded.
    pub(super) fn has_inactive(&self) -> bool {
        self.has(INACTIVE_PRESENT)
    }

    /// After [`Request::Status`]: the device is suspended.
    pub fn is_suspended(&self) -> bool {
        self.has(SUSPEND)
    }

    /// After [`Request::Status`]: the device has a live table.
    pub fn has_live(&self) -> bool {
        self.has(ACTIVE_PRESENT)
    }

    pub(super) fn number(&self) -> DevNo {
        DevNo::from_huge(self.header.dev)
    }

    /// The targets of an answer to [`Request::Table`]: start, length, type, text.
    pub(super) fn targets(&self) -> impl Iterator<Item = (Sectors, Sectors, &str, &str)> {
        let mut at = 0usize;
        (0..self.header.target_count).map_while(move |_| {
            let spec = self.body.get(at..)?;
            let start = u64::from_ne_bytes(*spec.first_chunk()?);
            let length = u64::from_ne_bytes(*spec.get(8..)?.first_chunk()?);
            let next = u32::from_ne_bytes(*spec.get(20..)?.first_chunk()?);
            let kind = text(spec.get(24..SPEC)?);
            let params = text(spec.get(SPEC..)?);
            // Unlike in a load, offsets in an answer count from the start of the data.
            at = next as usize;
            Some((Sectors(start), Sectors(length), kind, params))
        })
    }

    /// The names in an answer to [`Request::ListVersions`]: entries of (next, 3 × version,
    /// name), where `next` is relative and 0 ends the list.
    pub(super) fn target_types(&self) -> impl Iterator<Item = (&str, [u32; 3])> {
        let mut at = Some(0usize);
        std::iter::from_fn(move || {
            let entry = self.body.get(at?..)?;
            let word = |n: usize| Some(u32::from_ne_bytes(*entry.get(4 * n..)?.first_chunk()?));
            let next = word(0)? as usize;
            let version = [word(1)?, word(2)?, word(3)?];
            at = if next == 0 { None } else { at?.checked_add(next) };
            Some((text(entry.get(16..)?), version))
        })
    }
}

/// Requests about any device, which are put to the kernel and its model alike.
#[cfg(feature = "model")]
#[allow(clippy::unwrap_used, clippy::type_complexity)]
impl Message {
    /// Loads that table (start, length, type, text), or gives that name.
    pub(crate) fn any(name: &str, rows: &[(u64, u64, &str, &str)], new: &str) -> Box<Self> {
        let mut message = Self::named(name);
        put_text(&mut message.body, new);
        let mut at = 0;
        for (start, length, kind, params) in rows {
            at = message.put(at, Sectors(*start), Sectors(*length), kind, params).unwrap();
        }
        message
    }

    /// The kernel's answer: number, suspended, live, loaded, and its targets.
    pub(crate) fn said(&self) -> (DevNo, [bool; 3], Vec<(u64, u64, String, String)>) {
        let row = |(start, length, kind, params): (Sectors, Sectors, &str, &str)| {
            (start.0, length.0, kind.to_owned(), params.to_owned())
        };
        let flags = [self.is_suspended(), self.has_live(), self.has_inactive()];
        (self.number(), flags, self.targets().map(row).collect())
    }
}

/// What a model of the kernel reads of a request, and answers.
#[cfg(test)]
impl Message {
    /// The device that it is about.
    pub(crate) fn device(&self) -> &str {
        text(&self.header.name)
    }

    /// The name that the device is to have.
    pub(crate) fn new_name(&self) -> &str {
        text(&self.body)
    }

    /// The targets that are to be loaded: start, length, type, text.
    pub(crate) fn loads(&self) -> Vec<(Sectors, Sectors, String, String)> {
        let (mut at, mut found) = (0, Vec::new());
        for _ in 0..self.header.target_count {
            let spec = &self.body[at..];
            let word = |at: usize| u64::from_ne_bytes(spec[at..at + 8].try_into().unwrap());
            let (kind, params) = (text(&spec[24..SPEC]), text(&spec[SPEC..]));
            found.push((Sectors(word(0)), Sectors(word(8)), kind.to_owned(), params.to_owned()));
            at += u32::from_ne_bytes(spec[20..24].try_into().unwrap()) as usize;
        }
        found
    }

    /// The answer: which device it is, whether it is suspended, and has a live and a loaded table.
    pub(crate) fn answer(&mut self, number: DevNo, suspended: bool, live: bool, loaded: bool) {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        self.header.dev = u64::from(number.major << 8 | number.minor);
        self.header.flags =
            flag(suspended, SUSPEND) | flag(live, ACTIVE_PRESENT) | flag(loaded, INACTIVE_PRESENT);
        self.header.target_count = 0;
    }

    /// The same about its targets: start, length, type, text.
    pub(crate) fn answer_targets(&mut self, targets: &[(Sectors, Sectors, &str, String)]) {
        let mut at = 0;
        for (start, length, kind, params) in targets {
            let end = self.put(at, *start, *length, kind, params).unwrap();
            // Unlike in a load, offsets in an answer count from the start of the data.
            self.body[at + 20..at + 24].copy_from_slice(&(end as u32).to_ne_bytes());
            self.body[at + SPEC + params.len()] = 0;
            at = end;
        }
        self.header.target_count = targets.len() as u32;
    }
}

/// Copies as much of `text` as fits with a final NUL.
fn put_text(slot: &mut [u8], text: &str) {
    let room = slot.len().saturating_sub(1);
    for (to, from) in slot.iter_mut().zip(text.bytes().take(room)) {
        *to = from;
    }
}

/// The text up to the first NUL; empty if it is not UTF-8.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::dm::Target;

    #[test]
    fn request_codes_are_the_kernels() {
        let codes = [
            (Request::Version, 0xC138_FD00),
            (Request::Create, 0xC138_FD03),
            (Request::Remove, 0xC138_FD04),
            (Request::Rename, 0xC138_FD05),
            (Request::Suspend { freeze: true }, 0xC138_FD06),
            (Request::Resume { freeze: false }, 0xC138_FD06),
            (Request::Status, 0xC138_FD07),
            (Request::Load, 0xC138_FD09),
            (Request::LoadReadOnly, 0xC138_FD09),
            (Request::Clear, 0xC138_FD0A),
            (Request::Table, 0xC138_FD0C),
            (Request::ListVersions, 0xC138_FD0D),
        ];
        for (request, code) in codes {
            assert_eq!(request.code(), code, "{request:?}");
        }
    }

    #[test]
    fn a_table_of_one_target_is_the_same_by_any_way() {
        let card = DevNo { major: 8, minor: 1 };
        let target = Target::Linear { device: card, offset: Sectors(63) };
        let lines = [Line::whole(Sectors(8), target)];
        let (kind, params) = (target.kind(), target.params());
        let one = Message::load_one(Name::View.text(), Sectors(8), kind, &params);
        let same = Message::load(Name::View, &lines);
        assert_eq!((one.lines(), one.header.name), (same.lines(), same.header.name));
        assert_eq!(one.body, same.body);
    }

    #[test]
    fn a_loaded_table_has_the_kernels_layout() {
        let card = DevNo { major: 8, minor: 1 };
        let target = Target::Linear { device: card, offset: Sectors(63) };
        let lines = [
            Line { start: Sectors(0), length: Sectors(8), target },
            Line { start: Sectors(8), length: Sectors(16), target },
        ];
        let mut message = Message::load(Name::View, &lines);
        // Also when it is loaded again: an answer counts the live table's targets.
        for count in [0, 7] {
            message.header.target_count = count;
            message.prepare(Request::Load);
            assert_eq!((message.header.target_count, message.header.flags), (2, 0));
            message.prepare(Request::LoadReadOnly);
            assert_eq!((message.header.target_count, message.header.flags), (2, READ_ONLY));
        }
        assert_eq!(&message.header.name[..14], b"cowflush-view\0");
        assert_eq!(message.header.target_count, 2);
        let (first, second) = message.body.split_at(48);
        assert_eq!(first[8..16], 8u64.to_ne_bytes());
        assert_eq!(first[20..24], 48u32.to_ne_bytes());
        assert_eq!(&first[24..31], b"linear\0");
        assert_eq!(&first[40..48], b"8:1 63\0\0");
        assert_eq!(second[0..8], 8u64.to_ne_bytes());
    }

    #[test]
    fn a_broken_answer_ends_the_list() {
        let mut message = Message::about(Name::Root);
        message.header.target_count = 3;
        message.body[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(message.targets().count(), 1);
        message.body[0..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(message.target_types().count(), 1);
    }

    #[test]
    fn text_ends_at_nul_and_fits() {
        let mut slot = [0; 4];
        put_text(&mut slot, "linear");
        assert_eq!(&slot, b"lin\0");
        assert_eq!(text(b"ab\0c"), "ab");
        assert_eq!(text(b"\xff\0"), "");
    }
}
