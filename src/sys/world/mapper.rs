//! device-mapper's requests: drivers/md/dm-ioctl.c, dm.c and dm-table.c. Places are those of Linux 6.1.

use std::ops::Range;

use nix::errno::Errno;

use super::image::SECTOR;
use super::{Done, EIO, Fail, Handle, World};
use crate::pure::units::DevNo;
use crate::sys::dm::message::Request;

const DM: u32 = 253;

/// A target with its parameters, as a request has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub length: u64,
    /// The target's type.
    pub kind: String,
    /// Its parameters.
    pub params: String,
}

/// What a target was made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Linear {
        device: DevNo,
        offset: u64,
    },
    Snapshot(u64),
    /// `error`: refuses all that is asked of it.
    Error,
}

/// A table that was loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) rows: Vec<(u64, u64, Target)>,
    /// Of which device it is.
    pub(super) owner: DevNo,
}

impl Table {
    pub(super) fn size(&self) -> u64 {
        self.rows.last().map_or(0, |(start, length, _)| start + length)
    }

    /// The parts of a request by rows: which bytes, and which row.
    pub(super) fn pieces(&self, sector: u64, bytes: usize) -> Vec<(Range<usize>, Target)> {
        let end = sector + (bytes / SECTOR) as u64;
        let rows = self.rows.iter().filter_map(|(start, length, target)| {
            let (from, to) = (sector.max(*start), end.min(start + length));
            let bytes = |at: u64| (at - sector) as usize * SECTOR;
            // Where in the target it is, the target finds from the request's own sector.
            (from < to).then(|| (bytes(from)..bytes(to), target.moved(*start)))
        });
        rows.collect()
    }
}

impl Target {
    /// A target that is asked by sectors of the whole device.
    fn moved(self, start: u64) -> Self {
        match self {
            // linear_map_sector; it may wrap, and comes back when the sector is added.
            Self::Linear { device, offset } => {
                Self::Linear { device, offset: offset.wrapping_sub(start) }
            }
            other => other,
        }
    }
}

/// A device.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapped {
    pub(super) number: DevNo,
    pub(super) suspended: bool,
    pub(super) live: Option<u64>,
    loaded: Option<u64>,
    /// It had a table once: from then on others can open it (add_disk in dm_setup_md_queue).
    known: bool,
    /// Who has it open beside tables.
    open: Handle,
}

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its number.
    pub number: DevNo,
    /// It is suspended.
    pub suspended: bool,
    /// It has a live table.
    pub live: bool,
    /// It has a loaded one.
    pub loaded: bool,
    /// Its targets with what they say, where that was asked for.
    pub targets: Vec<Row>,
}

impl World {
    pub(super) fn by_number(&self, number: DevNo) -> Option<&Mapped> {
        self.mapped.values().find(|mapped| mapped.number == number)
    }

    fn device(&mut self, name: &str) -> Done<&mut Mapped> {
        Ok(self.mapped.get_mut(name).ok_or(Errno::ENXIO)?)
    }

    /// All that a table uses.
    pub(super) fn devices(&self, table: &Table) -> Vec<DevNo> {
        let devices = table.rows.iter().flat_map(|(.., target)| match *target {
            Target::Linear { device, .. } => vec![device],
            Target::Snapshot(id) => vec![self.snapshots[&id].origin, self.snapshots[&id].cow],
            Target::Error => Vec::new(),
        });
        devices.collect()
    }

    /// The name of a device.
    pub fn name_of(&self, number: DevNo) -> Option<&str> {
        self.mapped.iter().find(|(_, it)| it.number == number).map(|(name, _)| name.as_str())
    }

    /// The number of a device.
    pub fn number_of(&self, name: &str) -> Option<DevNo> {
        self.mapped.get(name).map(|mapped| mapped.number)
    }

    /// All of device-mapper's devices.
    pub fn devices_by_name(&self) -> Vec<(String, DevNo)> {
        self.mapped.iter().map(|(name, mapped)| (name.clone(), mapped.number)).collect()
    }

    /// The merges of a device that are at work ([`World::merge`]).
    pub fn merging_in(&self, name: &str) -> Vec<u64> {
        let live = self.mapped.get(name).and_then(|mapped| mapped.live);
        let merging = live.map(|live| self.snapshots_of(live)).unwrap_or_default().into_iter();
        merging.filter(|id| self.snapshots[id].running).collect()
    }

    /// A table reads through it.
    pub fn is_used(&self, number: DevNo) -> bool {
        self.tables.values().any(|table| self.devices(table).contains(&number))
    }

    /// Opens a device; it is open until what is returned is dropped.
    pub fn open(&self, number: DevNo) -> Done<Handle> {
        if let Some(it) = self.loops.get(&number) {
            return Ok(it.open.clone());
        }
        match self.by_number(number) {
            Some(mapped) if mapped.known => Ok(mapped.open.clone()),
            None if self.parts.contains_key(&number) => Ok(Default::default()),
            _ => Err(Errno::ENXIO.into()),
        }
    }

    /// Carries out a request. `rows` is a table to load, `new` a name to give.
    pub fn request(
        &mut self,
        request: Request,
        name: &str,
        rows: &[Row],
        new: &str,
    ) -> Done<Answer> {
        if let Request::Create = request {
            self.create(name)?;
        }
        self.device(name)?;
        match request {
            Request::Suspend { .. } => self.suspend(name)?,
            Request::Resume { .. } => self.resume(name)?,
            Request::Load | Request::LoadReadOnly => self.load(name, rows)?,
            // table_clear
            Request::Clear => {
                let old = self.device(name)?.loaded.take();
                self.destroy(old);
            }
            Request::Remove => {
                self.remove(name)?;
                return Ok(Answer::default());
            }
            Request::Rename => {
                // dm_hash_rename
                if self.mapped.contains_key(new) {
                    return Err(Errno::EBUSY.into());
                }
                let mapped = self.mapped.remove(name).ok_or(Errno::ENXIO)?;
                self.mapped.insert(new.to_owned(), mapped);
                return Ok(self.answer(new, request));
            }
            _ => {}
        }
        Ok(self.answer(name, request))
    }

    fn answer(&self, name: &str, request: Request) -> Answer {
        let mapped = &self.mapped[name];
        let says = matches!(request, Request::TargetStatus | Request::Table);
        let live = mapped.live.filter(|_| says).map(|live| &self.tables[&live].rows);
        let targets = live.into_iter().flatten().map(|(start, length, target)| {
            let (kind, params) = match *target {
                Target::Linear { device, offset } => {
                    let text = format!("{device} {offset}");
                    ("linear", if request == Request::Table { text } else { String::new() })
                }
                Target::Error => ("error", String::new()),
                Target::Snapshot(id) => {
                    let it = &self.snapshots[&id];
                    let kind = if it.merges { "snapshot-merge" } else { "snapshot" };
                    let text = match request {
                        Request::Table => it.params(),
                        _ => it.status(self.size(it.cow)),
                    };
                    (kind, text)
                }
            };
            Row { start: *start, length: *length, kind: kind.to_owned(), params }
        });
        Answer {
            number: mapped.number,
            suspended: mapped.suspended,
            live: mapped.live.is_some(),
            loaded: mapped.loaded.is_some(),
            targets: targets.collect(),
        }
    }

    fn create(&mut self, name: &str) -> Done {
        // dm_hash_insert
        if self.mapped.contains_key(name) {
            return Err(Errno::EBUSY.into());
        }
        // The lowest that is free (next_free_minor).
        let taken = |minor| self.by_number(DevNo { major: DM, minor }).is_some();
        let minor = (0..).find(|minor| !taken(*minor)).unwrap_or_default();
        let mapped = Mapped { number: DevNo { major: DM, minor }, ..Mapped::default() };
        self.mapped.insert(name.to_owned(), mapped);
        Ok(())
    }

    /// dev_remove, __dm_destroy.
    fn remove(&mut self, name: &str) -> Done {
        let mapped = &self.mapped[name];
        let opened = std::rc::Rc::strong_count(&mapped.open) > 1;
        if opened || self.is_used(mapped.number) {
            return Err(Errno::EBUSY.into());
        }
        if let (Some(live), false) = (mapped.live, mapped.suspended) {
            self.may_stop(live)?;
        }
        let (live, loaded) = (mapped.live, mapped.loaded);
        self.set_write_cache(self.mapped[name].number, "write back");
        self.mapped.remove(name);
        // The loaded one goes first, so a handover that waits is called off by nobody.
        self.destroy(loaded);
        self.destroy(live);
        Ok(())
    }

    /// dm_table_destroy.
    fn destroy(&mut self, table: Option<u64>) {
        let Some(table) = table.and_then(|table| self.tables.remove(&table)) else { return };
        for (.., target) in table.rows {
            if let Target::Snapshot(id) = target {
                self.end_snapshot(id);
            }
        }
        self.release();
    }

    /// table_load, populate_table.
    fn load(&mut self, name: &str, rows: &[Row]) -> Done {
        let (number, known, old) = {
            let mapped = &self.mapped[name];
            (mapped.number, mapped.known, mapped.loaded)
        };
        let id = self.next();
        self.tables.insert(id, Table { rows: Vec::new(), owner: number });
        let mut made = Ok(());
        for row in rows {
            // dm_table_add_target: no gap, and a target that is known.
            let gap = row.start != self.tables[&id].size() || row.length == 0;
            let target = if gap { Err(Errno::EINVAL.into()) } else { self.target(row) };
            match target {
                Ok(target) => {
                    let table = self.tables.get_mut(&id);
                    let rows = table.map(|table| &mut table.rows);
                    rows.into_iter().for_each(|rows| rows.push((row.start, row.length, target)));
                }
                Err(fail) => {
                    made = Err(fail);
                    break;
                }
            }
        }
        // The first table of a device has its devices' sizes looked at at once (dm_setup_md_queue), any other when it is
        // put in place (dm_swap_table).
        if made.is_ok() && !known {
            made = self.fits(id);
        }
        if made.is_err() {
            self.destroy(Some(id));
            return made;
        }
        let mapped = self.device(name)?;
        mapped.known = true;
        mapped.loaded = Some(id);
        // The one that was loaded before goes behind the new one's coming.
        self.destroy(old);
        Ok(())
    }

    fn target(&mut self, row: &Row) -> Done<Target> {
        let words: Vec<_> = row.params.split_ascii_whitespace().collect();
        match row.kind.as_str() {
            "linear" => {
                // linear_ctr: the number of words first, then the offset, then the device
                let [device, offset] = words[..] else { return Err(Errno::EINVAL.into()) };
                let offset = offset.parse().map_err(|_| Errno::EINVAL)?;
                let device = DevNo::parse(device).ok_or(Errno::ENODEV)?;
                self.can_open(device)?;
                Ok(Target::Linear { device, offset })
            }
            "error" => Ok(Target::Error),
            "snapshot" | "snapshot-merge" => {
                let merges = row.kind != "snapshot";
                self.make_snapshot(merges, row.length, &row.params).map(Target::Snapshot)
            }
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// open_table_device.
    pub(super) fn can_open(&self, device: DevNo) -> Done {
        self.open(device).map(drop)
    }

    /// device_area_is_invalid in dm-table.c: a device without a size is let pass.
    fn fits(&self, table: u64) -> Done {
        let fits = |device, start: u64, length: u64| {
            let size = self.size(device);
            size == 0 || start < size && start.saturating_add(length) <= size
        };
        let good = self.tables[&table].rows.iter().all(|(_, length, target)| match *target {
            Target::Linear { device, offset } => fits(device, offset, *length),
            Target::Snapshot(id) => fits(self.snapshots[&id].origin, 0, *length),
            Target::Error => true,
        });
        if good { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    /// dm_suspend: a merge stops first (presuspend), and its last run is waited for. There is nothing else on its way:
    /// a request that is made has been carried out, or waits for good.
    fn suspend(&mut self, name: &str) -> Done {
        let mapped = &self.mapped[name];
        if let (Some(live), false) = (mapped.live, mapped.suspended) {
            self.may_stop(live)?;
            self.stop_merges(live);
        }
        self.device(name)?.suspended = true;
        Ok(())
    }

    fn snapshots_of(&self, table: u64) -> Vec<u64> {
        let rows = self.tables[&table].rows.iter();
        let snapshots = rows.filter_map(|(.., target)| match *target {
            Target::Snapshot(id) => Some(id),
            _ => None,
        });
        snapshots.collect()
    }

    /// stop_merge waits for the run that is under way, for good where that waits for a suspended device.
    fn may_stop(&self, table: u64) -> Done {
        self.snapshots_of(table).into_iter().try_for_each(|id| match self.stalls(id) {
            Some(device) => Err(Fail::Waits(device)),
            None => Ok(()),
        })
    }

    fn stop_merges(&mut self, table: u64) {
        for id in self.snapshots_of(table) {
            self.snapshots.get_mut(&id).into_iter().for_each(|it| it.running = false);
        }
    }

    /// do_resume.
    fn resume(&mut self, name: &str) -> Done {
        let mut old = None;
        if let Some(new) = self.device(name)?.loaded.take() {
            if let waits @ Err(_) = self.suspend(name) {
                self.device(name)?.loaded = Some(new);
                return waits;
            }
            // dm_swap_table: a table that does not fit is gone, and the device stays suspended.
            if let refused @ Err(_) = self.fits(new) {
                self.destroy(Some(new));
                return refused;
            }
            let mapped = self.device(name)?;
            old = mapped.live.replace(new);
            // A table sets its queue anew (dm_table_set_restrictions).
            let number = mapped.number;
            self.set_write_cache(number, "write back");
        }
        let mapped = &self.mapped[name];
        let mut done = Ok(());
        if mapped.suspended {
            done = match mapped.live {
                Some(live) => self.resume_targets(live),
                None => Err(Errno::EINVAL.into()),
            };
            if done.is_ok() {
                self.device(name)?.suspended = false;
            }
        }
        // Whether that went well or not (behind dm_resume in do_resume): the old table is gone, and with it a handover that
        // had not come to pass.
        self.destroy(old);
        done
    }

    /// dm_table_resume_targets.
    fn resume_targets(&mut self, table: u64) -> Done {
        let snapshots = self.snapshots_of(table);
        snapshots.iter().try_for_each(|id| self.may_resume(*id))?;
        snapshots.iter().for_each(|id| self.resume_snapshot(*id));
        Ok(())
    }

    /// Whether the device of a snapshot's table is suspended.
    pub(super) fn is_suspended(&self, snapshot: u64) -> bool {
        let of = |table: &&Table| {
            table
                .rows
                .iter()
                .any(|(.., target)| matches!(target, Target::Snapshot(id) if *id == snapshot))
        };
        let owner = self.tables.values().find(of).map(|table| table.owner);
        owner.and_then(|owner| self.by_number(owner)).is_some_and(|mapped| mapped.suspended)
    }

    pub(super) fn read_row(&mut self, row: Target, sector: u64, into: &mut [u8]) -> Done {
        match row {
            Target::Linear { device, offset } => {
                self.read(device, offset.wrapping_add(sector), into)
            }
            Target::Snapshot(id) => self.read_snapshot(id, sector, into),
            Target::Error => Err(EIO),
        }
    }

    pub(super) fn write_row(&mut self, row: Target, sector: u64, from: &[u8], fua: bool) -> Done {
        match row {
            Target::Linear { device, offset } => {
                self.write(device, offset.wrapping_add(sector), from, fua)
            }
            Target::Snapshot(id) => self.write_snapshot(id, sector, from),
            Target::Error => Err(EIO),
        }
    }

    /// __send_empty_flush: each target gets as many as it asks for (num_flush_bios).
    pub(super) fn flush_row(&mut self, (table, row): (u64, usize)) -> Done {
        match self.tables[&table].rows[row].2 {
            Target::Linear { device, .. } => self.flush(device),
            Target::Error => Ok(()),
            Target::Snapshot(id) => {
                let (origin, cow, merges) = {
                    let it = &self.snapshots[&id];
                    (it.origin, it.cow, it.merges)
                };
                let first = if merges { self.flush(origin) } else { Ok(()) };
                first.and(self.flush(cow))
            }
        }
    }
}
