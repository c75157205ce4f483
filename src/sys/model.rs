//! A model of the kernel's devices, for tests of what works on them: device-mapper with `linear`, `snapshot` and
//! `snapshot-merge` as drivers/md/dm-snap.c has them, block devices that are files, and loop devices over such files.
//!
//! A store is what stands on its device in the kernel's own format, so a table that this program has written is read by
//! the model as the kernel reads it. A mapped device is read by way of a file with what it shows at that moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::devices::Candidate;
use super::dm::Control;
use super::dm::message::{Message, Request};
use super::kernel::{self, Kernel, Opened};
use crate::error::{Error, Exit, Result};
use crate::pure::chunks::{self, CHUNK_BYTES, Chunk};
use crate::pure::cow::format::{self, Exception, PER_AREA};
use crate::pure::dm::{Line, Target};
use crate::pure::units::{Bytes, DevNo, Sectors};

const CHUNK_SECTORS: u64 = chunks::CHUNK_SECTORS as u64;
const DM: u32 = 253;
const LOOP: u32 = 7;

/// A table that was loaded.
#[derive(Clone, Debug)]
struct Table {
    lines: Vec<Line>,
    /// What a snapshot knows of its store, in the store's order; `None`: it waits for another's, or has lost it.
    holds: Option<Vec<Exception>>,
    /// It was resumed.
    active: bool,
    merge_failed: bool,
}

impl Table {
    /// Origin and store of a snapshot, merging or not.
    fn parts(&self) -> Option<(DevNo, DevNo)> {
        match self.lines.first()?.target {
            Target::Snapshot { origin, cow, .. } | Target::SnapshotMerge { origin, cow, .. } => {
                Some((origin, cow))
            }
            _ => None,
        }
    }

    fn merges(&self) -> bool {
        matches!(self.lines[0].target, Target::SnapshotMerge { .. })
    }

    fn reads(&self, device: DevNo) -> bool {
        self.lines.iter().any(|line| match line.target {
            Target::Linear { device: below, .. } => below == device,
            Target::Snapshot { origin, cow, .. } | Target::SnapshotMerge { origin, cow, .. } => {
                origin == device || cow == device
            }
            Target::Other => false,
        })
    }

    fn length(&self) -> Sectors {
        Sectors(self.lines.iter().map(|line| line.length.0).sum())
    }
}

#[derive(Clone, Debug)]
struct Mapped {
    number: DevNo,
    suspended: bool,
    live: Option<Table>,
    loaded: Option<Table>,
}

#[derive(Default)]
struct State {
    mapped: BTreeMap<String, Mapped>,
    files: BTreeMap<DevNo, PathBuf>,
    made: u32,
    /// The requests that change something, as they came.
    said: Vec<String>,
    /// How many tables were read.
    looks: usize,
    /// How many requests that change something came. A command that is killed before a look was killed before the next
    /// change, as far as anybody can tell.
    calls: usize,
    /// What becomes of them.
    fate: Option<Fate>,
    /// How the kernel was told to treat write caches.
    caches: BTreeMap<DevNo, String>,
    /// Devices that refuse writes.
    refuses: Vec<DevNo>,
}

/// What becomes of requests.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// The one of that number fails.
    Fails(usize, Errno),
    /// The process that makes them was killed before the one of that number.
    Killed(usize),
}

/// The model. The files are in a folder that goes with it.
pub struct Model {
    folder: PathBuf,
    state: RefCell<State>,
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Model {
    /// A machine without block devices, which answers in this thread from now on.
    pub fn new() -> Rc<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("cowflush-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let model = Rc::new(Self { folder, state: RefCell::default() });
        kernel::ask(model.clone());
        model
    }

    /// Device-mapper's control device.
    pub fn control(&self) -> Control {
        Control::of(self.file("control", Bytes(0)).1)
    }

    /// Adds a block device of that many chunks.
    pub fn disk(&self, number: DevNo, chunks: u64) -> PathBuf {
        let name = format!("disk-{}-{}", number.major, number.minor);
        let (path, _) = self.file(&name, Bytes(chunks * CHUNK_BYTES as u64));
        self.state.borrow_mut().files.insert(number, path.clone());
        path
    }

    fn file(&self, name: &str, size: Bytes) -> (PathBuf, File) {
        let path = self.folder.join(name);
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(size.0).unwrap();
        (path, file)
    }

    /// What a device shows in a chunk.
    pub fn read(&self, device: DevNo, chunk: u64) -> Chunk {
        self.state.borrow().read(device, chunk)
    }

    /// The mounted filesystem writes a chunk of the device of that name.
    pub fn write(&self, name: &str, chunk: u64, data: &Chunk) {
        let mut state = self.state.borrow_mut();
        assert!(!state.mapped[name].suspended, "a write to {name} would wait");
        let number = state.mapped[name].number;
        state.write(number, chunk, data).unwrap();
    }

    /// The requests that changed something since the last call.
    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().said)
    }

    /// How many tables were read since the last call.
    pub fn looks(&self) -> usize {
        std::mem::take(&mut self.state.borrow_mut().looks)
    }

    /// Sets what becomes of requests that change something, counted from 1 on. Returns how many came since the last call.
    pub fn ordain(&self, fate: Option<Fate>) -> usize {
        let mut state = self.state.borrow_mut();
        state.fate = fate;
        std::mem::take(&mut state.calls)
    }

    /// Lets a device refuse writes that a merge makes, or take them again.
    pub fn refuse_writes(&self, device: DevNo, refuse: bool) {
        self.state.borrow_mut().refuses = if refuse { vec![device] } else { Vec::new() };
    }
}

impl State {
    fn by_number(&self, number: DevNo) -> Option<&Mapped> {
        self.mapped.values().find(|mapped| mapped.number == number)
    }

    fn size(&self, device: DevNo) -> Sectors {
        match self.files.get(&device) {
            Some(path) => Bytes(path.metadata().unwrap().len()).sectors(),
            None => {
                let live = self.by_number(device).and_then(|mapped| mapped.live.as_ref());
                live.map_or(Sectors(0), Table::length)
            }
        }
    }

    /// Where a chunk of a device that is no snapshot stands.
    fn below(&self, device: DevNo, chunk: u64) -> Option<(DevNo, u64)> {
        let live = self.by_number(device)?.live.as_ref()?;
        let sector = chunk * CHUNK_SECTORS;
        let line = live.lines.iter().rev().find(|line| line.start.0 <= sector)?;
        match line.target {
            Target::Linear { device, offset } => {
                Some((device, (sector - line.start.0 + offset.0) / CHUNK_SECTORS))
            }
            _ => None,
        }
    }

    fn read(&self, device: DevNo, chunk: u64) -> Chunk {
        let mut data = [0; CHUNK_BYTES];
        if let Some(path) = self.files.get(&device) {
            let _ = File::open(path).unwrap().read_at(&mut data, chunk * CHUNK_BYTES as u64);
            return data;
        }
        if let Some((device, chunk)) = self.below(device, chunk) {
            return self.read(device, chunk);
        }
        let mapped = self.by_number(device).unwrap_or_else(|| panic!("{device} is gone"));
        let live = mapped.live.as_ref().unwrap();
        let (origin, cow) = live.parts().unwrap();
        let holds = live.holds.as_ref().unwrap_or_else(|| panic!("{device} is Invalid"));
        match holds.iter().find(|exception| exception.old == chunk) {
            Some(exception) => self.read(cow, exception.new),
            None => self.read(origin, chunk),
        }
    }

    fn write(&mut self, device: DevNo, chunk: u64, data: &Chunk) -> std::result::Result<(), Errno> {
        if self.refuses.contains(&device) {
            return Err(Errno::EIO);
        }
        if let Some(path) = self.files.get(&device) {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(data, chunk * CHUNK_BYTES as u64).unwrap();
            return Ok(());
        }
        // What a snapshot of this one shows must not change with it: the kernel would copy it to that one's store first.
        for (name, mapped) in &self.mapped {
            let live = mapped.live.as_ref().filter(|live| live.active && !live.merges());
            let of_it =
                live.filter(|live| live.parts().is_some_and(|(origin, _)| origin == device));
            let lacks = of_it.is_some_and(|live| {
                live.holds.iter().flatten().all(|exception| exception.old != chunk)
            });
            assert!(!lacks, "{name} would take chunk {chunk} of its origin into its store");
        }
        if let Some((device, chunk)) = self.below(device, chunk) {
            return self.write(device, chunk, data);
        }
        let live = self.by_number(device).unwrap().live.clone().unwrap();
        let (origin, cow) = live.parts().unwrap();
        let mut holds = live.holds.unwrap();
        let new = match holds.iter().find(|exception| exception.old == chunk) {
            Some(exception) => exception.new,
            None if live.lines[0].target.kind() != "snapshot" => {
                return self.write(origin, chunk, data);
            }
            None => {
                let behind = holds.iter().map(|exception| exception.new + 1).max().unwrap_or(0);
                let new = (behind..).find(|new| format::is_data_chunk(*new)).unwrap();
                holds.push(Exception { old: chunk, new });
                new
            }
        };
        self.write(cow, new, data)?;
        self.store(cow, &holds)?;
        let mapped = self.mapped.values_mut().find(|mapped| mapped.number == device).unwrap();
        mapped.live.as_mut().unwrap().holds = Some(holds);
        Ok(())
    }

    /// Writes a store's table.
    fn store(&mut self, cow: DevNo, holds: &[Exception]) -> std::result::Result<(), Errno> {
        let mut header = [0; CHUNK_BYTES];
        header[..16].copy_from_slice(&format::header());
        // Whatever else stands in that chunk stays, as it does in the kernel.
        header[16..].copy_from_slice(&self.read(cow, 0)[16..]);
        self.write(cow, 0, &header)?;
        for number in 0..=holds.len() as u64 / PER_AREA {
            let mut area = [0; CHUNK_BYTES];
            let of_area = holds.iter().skip((number * PER_AREA) as usize).take(PER_AREA as usize);
            for (index, exception) in of_area.enumerate() {
                format::put_exception(&mut area, index, *exception);
            }
            self.write(cow, format::area_chunk(number), &area)?;
        }
        Ok(())
    }

    /// Reads a store's table; one that is all zeros is a new one.
    fn stored(&mut self, cow: DevNo) -> std::result::Result<Vec<Exception>, Errno> {
        if self.read(cow, 0)[..4] == [0; 4] {
            self.store(cow, &[])?;
            return Ok(Vec::new());
        }
        format::check_header(&self.read(cow, 0)).map_err(|_| Errno::EINVAL)?;
        let mut all = Vec::new();
        for number in 0.. {
            let before = all.len() as u64;
            all.extend(format::exceptions(&self.read(cow, format::area_chunk(number))));
            if (all.len() as u64) < before + PER_AREA {
                break;
            }
        }
        Ok(all)
    }

    /// The tables with the same origin and store, by device and whether it is the live one.
    fn sharing(&self, parts: (DevNo, DevNo)) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        for (name, mapped) in &self.mapped {
            for (table, is_live) in [(&mapped.live, true), (&mapped.loaded, false)] {
                if table.as_ref().and_then(Table::parts) == Some(parts) {
                    found.push((name.clone(), is_live));
                }
            }
        }
        found
    }

    fn table(&mut self, (name, is_live): &(String, bool)) -> &mut Table {
        let mapped = self.mapped.get_mut(name).unwrap();
        if *is_live { mapped.live.as_mut() } else { mapped.loaded.as_mut() }.unwrap()
    }

    fn load(&mut self, name: &str, lines: Vec<Line>) -> std::result::Result<(), Errno> {
        let mut table = Table { lines, holds: None, active: false, merge_failed: false };
        if let Some(parts) = table.parts() {
            let sharing = self.sharing(parts);
            let waits = sharing.iter().any(|place| !self.table(place).active);
            let merging = sharing.iter().any(|place| self.table(place).merges());
            if sharing.len() > 1 || waits || table.merges() && merging {
                return Err(Errno::EINVAL);
            }
            if sharing.is_empty() {
                table.holds = Some(self.stored(parts.1)?);
            }
        }
        self.mapped.get_mut(name).unwrap().loaded = Some(table);
        Ok(())
    }

    fn resume(&mut self, name: &str) -> std::result::Result<(), Errno> {
        let mapped = self.mapped.get_mut(name).unwrap();
        let mut own = None;
        if let Some(table) = mapped.loaded.take() {
            mapped.suspended = true;
            own = mapped.live.replace(table);
        }
        let live = mapped.live.clone().ok_or(Errno::EINVAL)?;
        if let (None, Some(parts)) = (&live.holds, live.parts())
            && !live.active
        {
            let source = match own {
                Some(own) if own.parts() == Some(parts) && own.active => own.holds,
                _ => {
                    let others = self.sharing(parts);
                    let source = others.iter().find(|place| self.table(place).active);
                    let Some(source) = source.filter(|(name, _)| self.mapped[name].suspended)
                    else {
                        self.mapped.get_mut(name).unwrap().live = own;
                        return Err(Errno::EINVAL);
                    };
                    self.table(source).holds.take()
                }
            };
            self.mapped.get_mut(name).unwrap().live.as_mut().unwrap().holds = source;
        }
        let mapped = self.mapped.get_mut(name).unwrap();
        mapped.live.as_mut().unwrap().active = true;
        mapped.suspended = false;
        Ok(())
    }

    /// The kernel has merged one run more, from the end of the table on.
    fn merge(&mut self, name: &str) {
        let Some(live) = self.mapped[name].live.clone().filter(|live| live.active) else { return };
        let (Some((origin, cow)), true, false) = (live.parts(), live.merges(), live.merge_failed)
        else {
            return;
        };
        let Some(mut holds) = live.holds.clone() else { return };
        let mut next: Option<Exception> = None;
        let mut merged = Ok(());
        while let Some(last) = holds.last().copied() {
            let follows =
                next.is_none_or(|next| last.old + 1 == next.old && last.new + 1 == next.new);
            if !follows {
                break;
            }
            let data = self.read(cow, last.new);
            merged = self.write(origin, last.old, &data);
            if merged.is_err() {
                break;
            }
            next = holds.pop();
        }
        let stored = merged.and_then(|()| self.store(cow, &holds));
        let live = self.mapped.get_mut(name).unwrap().live.as_mut().unwrap();
        live.merge_failed = stored.is_err();
        if stored.is_ok() {
            live.holds = Some(holds);
        }
    }

    fn status(&self, table: &Table) -> String {
        let Some((_, cow)) = table.parts() else { return String::new() };
        let Some(holds) = &table.holds else { return "Invalid".to_owned() };
        if table.merge_failed {
            return "Merge failed".to_owned();
        }
        let metadata = (2 + holds.len() as u64 / PER_AREA) * CHUNK_SECTORS;
        let allocated = metadata + holds.len() as u64 * CHUNK_SECTORS;
        format!("{allocated}/{} {metadata}", self.size(cow))
    }

    fn carry_out(
        &mut self,
        request: Request,
        message: &mut Message,
    ) -> std::result::Result<(), Errno> {
        let name = message.device().to_owned();
        if request == Request::Create {
            if self.mapped.contains_key(&name) {
                return Err(Errno::EBUSY);
            }
            self.made += 1;
            let number = DevNo { major: DM, minor: self.made };
            let mapped = Mapped { number, suspended: false, live: None, loaded: None };
            self.mapped.insert(name.clone(), mapped);
        }
        let number = self.mapped.get(&name).ok_or(Errno::ENXIO)?.number;
        match request {
            Request::Suspend { .. } => self.mapped.get_mut(&name).unwrap().suspended = true,
            Request::Resume { .. } => self.resume(&name)?,
            Request::Load | Request::LoadReadOnly => {
                let lines = message.loads().into_iter().map(|(start, length, kind, params)| Line {
                    start,
                    length,
                    target: Target::parse(&kind, &params),
                });
                self.load(&name, lines.collect())?;
            }
            Request::Clear => self.mapped.get_mut(&name).unwrap().loaded = None,
            Request::Remove => {
                let tables = self.mapped.values().flat_map(|other| [&other.live, &other.loaded]);
                if tables.flatten().any(|table| table.reads(number)) {
                    return Err(Errno::EBUSY);
                }
                self.mapped.remove(&name);
                return Ok(());
            }
            Request::Rename => {
                let mapped = self.mapped.remove(&name).unwrap();
                assert!(self.mapped.insert(message.new_name().to_owned(), mapped).is_none());
                return Ok(());
            }
            Request::TargetStatus => self.merge(&name),
            _ => {}
        }
        let mapped = &self.mapped[&name];
        message.answer(number, mapped.suspended, mapped.live.is_some(), mapped.loaded.is_some());
        if let (Request::TargetStatus | Request::Table, Some(live)) = (request, &mapped.live) {
            let targets = live.lines.iter().map(|line| {
                let text = match request {
                    Request::Table => line.target.params().as_str().to_owned(),
                    _ => self.status(live),
                };
                (line.start, line.length, line.target.kind(), text)
            });
            message.answer_targets(&targets.collect::<Vec<_>>());
        }
        Ok(())
    }
}

impl Kernel for Model {
    fn mapper(&self, request: Request, message: &mut Message) -> std::result::Result<(), Errno> {
        let mut state = self.state.borrow_mut();
        let looks = matches!(request, Request::TargetStatus | Request::Table | Request::Status);
        state.calls += usize::from(!looks);
        let fails = match state.fate {
            Some(Fate::Fails(at, errno)) if at == state.calls && !looks => Some(errno),
            Some(Fate::Killed(at)) if at <= state.calls => Some(Errno::EIO),
            _ => None,
        };
        let about = message.device().trim_start_matches("cowflush-").to_owned();
        let what = match request {
            Request::Load => {
                let targets: Vec<_> =
                    message.loads().into_iter().map(|(.., kind, _)| kind).collect();
                format!("load {about}: {}", targets.join(", "))
            }
            Request::Rename => {
                format!("rename {about}: {}", message.new_name().trim_start_matches("cowflush-"))
            }
            Request::Suspend { .. } => format!("suspend {about}"),
            Request::Resume { .. } => format!("resume {about}"),
            other => format!("{other:?} {about}").to_lowercase(),
        };
        let answer = match fails {
            Some(errno) => Err(errno),
            None => state.carry_out(request, message),
        };
        state.looks += usize::from(looks);
        if !looks {
            state.said.push(match answer {
                Ok(()) => what,
                Err(errno) => format!("{what}: {errno:?}"),
            });
        }
        answer
    }

    fn name(&self, device: DevNo) -> String {
        device.to_string()
    }

    fn path(&self, device: DevNo) -> PathBuf {
        let file = self.state.borrow().files.get(&device).cloned();
        file.unwrap_or_else(|| {
            let size = self.state.borrow().size(device);
            self.state.borrow_mut().made += 1;
            let shown = format!("shown-{}", self.state.borrow().made);
            let (path, file) = self.file(&shown, size.bytes());
            for chunk in 0..size.0.div_ceil(CHUNK_SECTORS) {
                let data = self.read(device, chunk);
                if data != [0; CHUNK_BYTES] {
                    file.write_all_at(&data, chunk * CHUNK_BYTES as u64).unwrap();
                }
            }
            path
        })
    }

    fn size(&self, device: DevNo) -> Result<Sectors> {
        Ok(self.state.borrow().size(device))
    }

    fn start(&self, _: DevNo) -> Option<Sectors> {
        Some(Sectors(0))
    }

    fn flush(&self, device: DevNo) -> Result<()> {
        let mut state = self.state.borrow_mut();
        state.said.push(format!("flush {device}"));
        match state.refuses.contains(&device) {
            true => Err(Error::new("flush the card", "it refuses writes").exit(Exit::Card)),
            false => Ok(()),
        }
    }

    fn write_cache(&self, device: DevNo) -> io::Result<String> {
        let mode = self.state.borrow().caches.get(&device).cloned();
        Ok(mode.unwrap_or_else(|| "write back".to_owned()))
    }

    fn set_write_cache(&self, device: DevNo, mode: &str) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.caches.insert(device, mode.to_owned()).as_deref() != Some(mode) {
            state.said.push(format!("{mode} {device}"));
        }
        Ok(())
    }

    fn open(&self, path: &Path, writable: bool, _: libc::c_int) -> io::Result<Box<dyn Opened>> {
        let file = File::options().read(true).write(writable).open(path)?;
        Ok(Box::new(Open(file)))
    }

    fn file_in_ram(&self, name: &str, size: Bytes) -> Result<Box<dyn Opened>> {
        let made = {
            let mut state = self.state.borrow_mut();
            state.made += 1;
            state.made
        };
        Ok(Box::new(Open(self.file(&format!("{name}-{made}"), size).1)))
    }

    fn attach(&self, file: &dyn Opened, _: &str, _: Bytes) -> Result<(Box<dyn Opened>, DevNo)> {
        let inode = file.file();
        let is_it = |path: &Path| path.metadata().is_ok_and(|meta| meta.ino() == inode);
        let entries = std::fs::read_dir(&self.folder).unwrap().flatten();
        let path = entries.map(|entry| entry.path()).find(|path| is_it(path)).unwrap();
        let mut state = self.state.borrow_mut();
        state.made += 1;
        let number = DevNo { major: LOOP, minor: state.made };
        let file = File::open(&path).unwrap();
        state.files.insert(number, path);
        Ok((Box::new(Open(file)), number))
    }

    fn grow(&self, _: DevNo, _: Bytes) -> Result<()> {
        Ok(())
    }

    fn stores(&self) -> Vec<(u32, bool)> {
        Vec::new()
    }

    fn store_number(&self, _: DevNo) -> Option<u32> {
        None
    }

    fn number_at(&self, path: &Path) -> Option<DevNo> {
        let state = self.state.borrow();
        state.files.iter().find(|(_, file)| *file == path).map(|(number, _)| *number)
    }

    fn disk_of(&self, device: DevNo) -> Option<DevNo> {
        Some(DevNo { minor: 0, ..device })
    }

    fn is_write_protected(&self, _: DevNo) -> bool {
        false
    }

    fn refuse_writes(&self, _: DevNo, _: bool) -> Result<()> {
        unreachable!("no flush asks for it")
    }

    fn disks(&self) -> Vec<Candidate> {
        let state = self.state.borrow();
        let disks = state.files.keys().filter(|number| number.major != LOOP);
        let candidate =
            |number: &DevNo| Candidate::of_model(&number.to_string(), *number, state.size(*number));
        disks.map(candidate).collect()
    }

    fn pause(&self, _: Duration) {}

    fn control(&self) -> Result<Control> {
        Ok(Model::control(self))
    }
}

/// An open device of the model.
struct Open(File);

impl Opened for Open {
    fn size(&self) -> io::Result<Bytes> {
        self.0.metadata().map(|meta| Bytes(meta.len()))
    }

    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }

    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(from, at)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn file(&self) -> u64 {
        self.0.metadata().map_or(0, |meta| meta.ino())
    }
}
