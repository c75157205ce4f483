//! `snapshot` and `snapshot-merge`: drivers/md/dm-snap.c of Linux 6.1; 6.12 differs in nothing that shows.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::image::SECTOR;
use super::store::Store;
use super::{Done, EIO, Fail, World};
use crate::pure::units::DevNo;

/// `struct dm_snapshot`.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) origin: DevNo,
    pub(super) cow: DevNo,
    pub(super) merges: bool,
    /// Sectors of the table.
    length: u64,
    valid: bool,
    overflowed: bool,
    /// It was resumed.
    active: bool,
    merge_failed: bool,
    /// RUNNING_MERGE: until it is suspended, has failed, or is done.
    pub(super) running: bool,
    /// Which chunk of the origin stands where (`complete`).
    holds: BTreeMap<u64, u64>,
    store: Store,
}

/// Which snapshots have a pair of origin and store (__find_snapshots_sharing_cow).
#[derive(Default)]
struct Sharing {
    count: usize,
    source: Option<u64>,
    destination: Option<u64>,
    /// One of the same origin that merges, whatever its store.
    merging: bool,
}

impl Snapshot {
    /// snapshot_status, STATUSTYPE_TABLE.
    pub(super) fn params(&self) -> String {
        let kind = match (self.store.persistent, self.store.overflow) {
            (true, true) => "PO",
            (true, false) => "P",
            (false, _) => "N",
        };
        format!("{} {} {kind} {}", self.origin, self.cow, self.store.shown)
    }

    /// snapshot_status, STATUSTYPE_INFO; `size` of the store in sectors.
    pub(super) fn status(&self, size: u64) -> String {
        match self {
            Self { valid: false, .. } => "Invalid".to_owned(),
            Self { merge_failed: true, .. } => "Merge failed".to_owned(),
            Self { overflowed: true, .. } => "Overflow".to_owned(),
            _ => {
                let (allocated, metadata) = self.store.usage();
                format!("{allocated}/{size} {metadata}")
            }
        }
    }
}

impl World {
    fn snapshot(&mut self, id: u64) -> &mut Snapshot {
        self.snapshots.get_mut(&id).expect("a table's snapshot is there as long as the table")
    }

    fn sharing(&self, (origin, cow): (DevNo, DevNo)) -> Sharing {
        let mut found = Sharing::default();
        for id in &self.registered {
            let it = &self.snapshots[id];
            if it.origin != origin {
                continue;
            }
            found.merging |= it.merges;
            if it.cow == cow {
                found.count += 1;
                *(if it.active { &mut found.source } else { &mut found.destination }) = Some(*id);
            }
        }
        found
    }

    /// snapshot_ctr: `<origin> <store> <P|PO|N> <sectors of a chunk>`.
    pub(super) fn make_snapshot(&mut self, merges: bool, length: u64, params: &str) -> Done<u64> {
        let words: Vec<_> = params.split_ascii_whitespace().collect();
        let [origin, cow, kind, chunk] = words[..] else { return Err(Errno::EINVAL.into()) };
        let device = |word| DevNo::parse(word).ok_or(Fail::Errno(Errno::ENODEV));
        let origin = device(origin)?;
        self.can_open(origin)?;
        let cow = device(cow)?;
        if cow == origin {
            return Err(Errno::EINVAL.into());
        }
        self.can_open(cow)?;
        let mut store = Store::new(kind, chunk)?;
        if merges && !store.persistent {
            return Err(Errno::EINVAL.into());
        }
        // register_snapshot, __validate_exception_handover
        let sharing = self.sharing((origin, cow));
        if sharing.count == 2 || sharing.destination.is_some() {
            return Err(Errno::EINVAL.into());
        }
        let source = sharing.source.map(|source| &self.snapshots[&source]);
        let refused =
            source.is_some_and(|source| merges && (sharing.merging || !source.store.persistent));
        if refused {
            return Err(Errno::EINVAL.into());
        }
        let (mut valid, mut holds) = (true, BTreeMap::new());
        if source.is_some() {
            store.shown = 0;
        } else if store.persistent {
            valid = self.read_metadata(cow, &mut store, &mut holds)?;
        }
        let id = self.next();
        let (overflowed, active, merge_failed, running) = (false, false, false, false);
        let snapshot = Snapshot {
            origin,
            cow,
            merges,
            length,
            valid,
            overflowed,
            active,
            merge_failed,
            running,
            holds,
            store,
        };
        self.snapshots.insert(id, snapshot);
        self.register(id);
        Ok(id)
    }

    /// The largest chunks first (__insert_snapshot). All origins are in one list here.
    fn register(&mut self, id: u64) {
        self.registered.retain(|other| *other != id);
        let chunk = self.snapshots[&id].store.chunk;
        let smaller = |other: &u64| self.snapshots[other].store.chunk < chunk;
        let at = self.registered.iter().position(smaller).unwrap_or(self.registered.len());
        self.registered.insert(at, id);
    }

    /// persistent_read_metadata. Returns whether the store calls itself valid.
    fn read_metadata(
        &mut self,
        cow: DevNo,
        store: &mut Store,
        holds: &mut BTreeMap<u64, u64>,
    ) -> Done<bool> {
        let mut chunk = vec![0; store.chunk as usize * SECTOR];
        self.read(cow, 0, &mut chunk)?;
        let Some(valid) = store.read_header(&chunk)? else {
            self.write(cow, 0, &store.header(), false)?;
            self.write(cow, store.place(0), &store.area, false)?;
            return Ok(true);
        };
        store.valid = valid;
        if !valid {
            return Ok(false);
        }
        // read_exceptions
        loop {
            self.read(cow, store.place(store.area_number), &mut chunk)?;
            store.committed = 0;
            for (old, new) in Store::exceptions(&chunk) {
                store.next_free = store.next_free.max(new + 1);
                holds.insert(old, new);
                store.committed += 1;
            }
            if store.committed < store.per_area() {
                break;
            }
            store.area_number += 1;
        }
        store.area = chunk;
        store.skip_metadata();
        Ok(true)
    }

    /// snapshot_dtr.
    pub(super) fn end_snapshot(&mut self, id: u64) {
        let it = &self.snapshots[&id];
        let sharing = self.sharing((it.origin, it.cow));
        if let (true, Some(destination)) = (sharing.source == Some(id), sharing.destination) {
            // "Cancelling snapshot handover."
            self.snapshot(destination).valid = false;
        }
        self.registered.retain(|other| *other != id);
        self.snapshots.remove(&id);
    }

    /// snapshot_preresume.
    pub(super) fn may_resume(&self, id: u64) -> Done {
        let it = &self.snapshots[&id];
        let sharing = self.sharing((it.origin, it.cow));
        match (sharing.source, sharing.destination) {
            (Some(source), Some(_)) if source == id || !self.is_suspended(source) => {
                Err(Errno::EINVAL.into())
            }
            _ => Ok(()),
        }
    }

    /// snapshot_resume, snapshot_merge_resume.
    pub(super) fn resume_snapshot(&mut self, id: u64) {
        let it = &self.snapshots[&id];
        let sharing = self.sharing((it.origin, it.cow));
        if let (Some(source), Some(destination)) = (sharing.source, sharing.destination) {
            self.hand_over(source, destination);
        }
        self.register(id);
        let it = self.snapshot(id);
        it.active = true;
        it.running |= it.merges;
    }

    /// __handover_exceptions.
    fn hand_over(&mut self, source: u64, destination: u64) {
        let mut from = self.snapshots[&source].clone();
        let to = self.snapshot(destination);
        std::mem::swap(&mut from.holds, &mut to.holds);
        let overflow = to.store.overflow;
        std::mem::swap(&mut from.store, &mut to.store);
        to.store.overflow = overflow;
        to.valid = from.valid;
        to.overflowed = from.overflowed;
        from.valid = false;
        self.snapshots.insert(source, from);
    }

    /// The parts of a request by chunks: chunk, which sector in it, and which of the bytes.
    fn chunks(
        &self,
        id: u64,
        sector: u64,
        bytes: usize,
    ) -> Vec<(u64, u64, std::ops::Range<usize>)> {
        let size = self.snapshots[&id].store.chunk;
        let (mut parts, mut done, mut sector) = (Vec::new(), 0, sector);
        while done < bytes {
            let inside = sector % size;
            let length = ((size - inside) as usize * SECTOR).min(bytes - done);
            parts.push((sector / size, inside, done..done + length));
            (done, sector) = (done + length, sector + (length / SECTOR) as u64);
        }
        parts
    }

    /// snapshot_map and snapshot_merge_map, for reads.
    pub(super) fn read_snapshot(&mut self, id: u64, sector: u64, into: &mut [u8]) -> Done {
        let mut done = Ok(());
        for (chunk, inside, bytes) in self.chunks(id, sector, into.len()) {
            let it = &self.snapshots[&id];
            let (origin, cow, size) = (it.origin, it.cow, it.store.chunk);
            let read = match it.holds.get(&chunk).copied() {
                _ if !it.valid && !it.merges => Err(EIO),
                Some(new) if it.valid => self.read(cow, new * size + inside, &mut into[bytes]),
                _ => self.read(origin, chunk * size + inside, &mut into[bytes]),
            };
            done = done.and(read);
        }
        done
    }

    /// The same for writes.
    pub(super) fn write_snapshot(&mut self, id: u64, sector: u64, from: &[u8]) -> Done {
        let mut done = Ok(());
        for (chunk, inside, bytes) in self.chunks(id, sector, from.len()) {
            done = done.and(self.write_chunk(id, chunk, inside, &from[bytes]));
        }
        done
    }

    fn write_chunk(&mut self, id: u64, chunk: u64, inside: u64, from: &[u8]) -> Done {
        let it = &self.snapshots[&id];
        let (origin, cow, size) = (it.origin, it.cow, it.store.chunk);
        let (valid, held) = (it.valid, it.holds.get(&chunk).copied());
        if it.merges {
            return match held {
                // What is being merged is waited for: a run is one step here.
                Some(new) if valid => self.write(cow, new * size + inside, from, false),
                _ => {
                    let sector = chunk * size + inside;
                    self.origin_write(origin, sector, (from.len() / SECTOR) as u64)?;
                    self.write(origin, sector, from, false)
                }
            };
        }
        if !valid || it.overflowed {
            return Err(EIO);
        }
        if let Some(new) = held {
            return self.write(cow, new * size + inside, from, false);
        }
        let room = self.size(cow);
        let Some(new) = self.snapshot(id).store.prepare(room) else {
            match self.snapshots[&id].store.overflow {
                true => self.snapshot(id).overflowed = true,
                false => self.invalidate(id),
            }
            return Err(EIO);
        };
        let whole = from.len() as u64 == size * SECTOR as u64;
        let written = match whole {
            // start_full_bio
            true => self.write(cow, new * size, from, false),
            false => self.copy_out(id, chunk, new),
        };
        self.commit(id, (chunk, new), written)?;
        if whole { Ok(()) } else { self.write(cow, new * size + inside, from, false) }
    }

    /// start_copy: what the origin holds goes to the store.
    fn copy_out(&mut self, id: u64, chunk: u64, new: u64) -> Done {
        let it = &self.snapshots[&id];
        let (origin, cow, size) = (it.origin, it.cow, it.store.chunk);
        let left = self.size(origin).saturating_sub(chunk * size);
        let mut data = vec![0; left.min(size) as usize * SECTOR];
        self.read(origin, chunk * size, &mut data)?;
        self.write(cow, new * size, &data, false)
    }

    /// persistent_commit_exception and pending_complete: the exception is in the table, or the snapshot is gone.
    fn commit(&mut self, id: u64, exception: (u64, u64), written: Done) -> Done {
        if let Err(waits @ Fail::Waits(_)) = written {
            return Err(waits);
        }
        let cow = self.snapshots[&id].cow;
        let mut store = self.snapshots[&id].store.clone();
        let mut good = written.is_ok();
        if store.persistent {
            store.valid &= good;
            store.put(store.committed, exception);
            store.committed += 1;
            let full = store.committed == store.per_area();
            if full {
                // The next area is made empty before this one says that there is one.
                let empty = vec![0; store.area.len()];
                store.valid &=
                    self.write(cow, store.place(store.area_number + 1), &empty, false).is_ok();
            }
            if store.valid {
                store.valid = self.write_area(cow, &store).is_ok();
            }
            if full {
                store.committed = 0;
                store.area_number += 1;
                store.area.fill(0);
            }
            good = store.valid;
        }
        self.snapshot(id).store = store;
        if !good {
            self.invalidate(id);
            return Err(EIO);
        }
        self.snapshot(id).holds.insert(exception.0, exception.1);
        Ok(())
    }

    /// area_io with PREFLUSH and FUA.
    fn write_area(&mut self, cow: DevNo, store: &Store) -> Done {
        self.flush(cow)?;
        self.write(cow, store.place(store.area_number), &store.area, true)
    }

    /// __invalidate_snapshot, persistent_drop_snapshot.
    fn invalidate(&mut self, id: u64) {
        let it = self.snapshot(id);
        if !it.valid {
            return;
        }
        it.valid = false;
        it.store.valid = false;
        let (cow, persistent, header) = (it.cow, it.store.persistent, it.store.header());
        if persistent {
            // Where that fails, too, the kernel says so in its log, and no more.
            let _ = self.write(cow, 0, &header, false);
        }
    }

    /// __origin_write: the other snapshots of an origin keep what it held.
    fn origin_write(&mut self, origin: DevNo, sector: u64, sectors: u64) -> Done {
        let others: Vec<_> = self
            .registered
            .iter()
            .copied()
            .filter(|id| self.snapshots[id].origin == origin)
            .collect();
        for id in others {
            let it = &self.snapshots[&id];
            let size = it.store.chunk;
            if it.merges || sector >= it.length {
                continue;
            }
            for chunk in sector / size..(sector + sectors).div_ceil(size) {
                let it = &self.snapshots[&id];
                if !it.valid || !it.active || it.holds.contains_key(&chunk) {
                    continue;
                }
                let room = self.size(it.cow);
                match self.snapshot(id).store.prepare(room) {
                    // Also with room for an overflow: it would show what it must not.
                    None => self.invalidate(id),
                    Some(new) => {
                        let copied = self.copy_out(id, chunk, new);
                        match self.commit(id, (chunk, new), copied) {
                            Err(waits @ Fail::Waits(_)) => return Err(waits),
                            // That one is gone; the origin goes on.
                            _ => continue,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The device that a merge waits for, for as long as that is suspended.
    pub(super) fn stalls(&self, id: u64) -> Option<DevNo> {
        let it = &self.snapshots[&id];
        let below = if it.running && it.valid { vec![it.origin, it.cow] } else { Vec::new() };
        below.into_iter().find_map(|device| self.waits(device))
    }

    /// The suspended device that a request to this one may get to.
    pub fn waits(&self, device: DevNo) -> Option<DevNo> {
        let mapped = self.by_number(device)?;
        if mapped.suspended {
            return Some(device);
        }
        let below = self.devices(&self.tables[&mapped.live?]);
        below.into_iter().find_map(|device| self.waits(device))
    }

    /// All merges that are at work.
    pub fn merging(&self) -> Vec<u64> {
        let at_work = self.snapshots.iter().filter(|(_, it)| it.running);
        at_work.map(|(id, _)| *id).collect()
    }

    /// One run of a merge (snapshot_merge_next_chunks, merge_callback). Returns whether there may be another one.
    pub fn merge(&mut self, id: u64) -> bool {
        if !self.snapshots.get(&id).is_some_and(|it| it.running) || self.stalls(id).is_some() {
            return false;
        }
        let it = self.snapshot(id);
        let run = if it.valid { self.merge_run(id) } else { Ok(false) };
        let it = self.snapshot(id);
        it.merge_failed |= run.is_err();
        it.running = run == Ok(true);
        it.running
    }

    fn merge_run(&mut self, id: u64) -> Done<bool> {
        let (origin, cow) = (self.snapshots[&id].origin, self.snapshots[&id].cow);
        let mut store = self.snapshots[&id].store.clone();
        // persistent_prepare_merge
        if store.committed == 0 {
            if store.area_number == 0 {
                return Ok(false);
            }
            store.area_number -= 1;
            self.snapshot(id).store.area_number -= 1;
            self.read(cow, store.place(store.area_number), &mut store.area)?;
            store.committed = store.per_area();
            self.snapshot(id).store = store.clone();
        }
        let (count, (last_old, last_new)) = store.run();
        let (old, new, size) = (last_old + 1 - count, last_new + 1 - count, store.chunk);
        let left = self.size(origin).saturating_sub(old * size);
        self.origin_write(origin, old * size, count * size)?;
        // dm_kcopyd_copy: all is read before anything is written, in one job of at most 512 KiB.
        let mut data = vec![0; left.min(count * size) as usize * SECTOR];
        self.read(cow, new * size, &mut data)?;
        self.write(origin, old * size, &data, false)?;
        self.flush(origin)?;
        // persistent_commit_merge
        for index in store.committed - count..store.committed {
            store.put(index, (0, 0));
        }
        self.snapshot(id).store.area.clone_from(&store.area);
        self.write_area(cow, &store)?;
        store.committed -= count;
        store.next_free = store.place(store.area_number) / size + store.committed + 1;
        let it = self.snapshot(id);
        it.store = store;
        (old..old + count).for_each(|chunk| _ = it.holds.remove(&chunk));
        Ok(true)
    }
}
