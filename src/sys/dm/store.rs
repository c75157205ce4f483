//! The store devices on which COWs may stand ([`crate::pure::cow::store`]); they are not part of
//! the stack.

use std::path::Path;

use nix::errno::Errno;

use super::{Control, Message, Request};
use crate::pure::cow::store::{self, Store};
use crate::pure::units::{DevNo, Sectors, decimal};
use crate::sys::block;

impl Control {
    /// Makes a store device without a table. Returns the number that is in its name.
    pub fn create_store(&self) -> Result<u32, Errno> {
        for number in 0..store::MOST {
            match self.send(Request::Create, number) {
                // The name is taken.
                Err(Errno::EBUSY) => continue,
                result => return result.map(|_| number),
            }
        }
        Err(Errno::EBUSY)
    }

    /// Gives the store device a table over `on` with that length. Its users go on using it.
    ///
    /// The kernel hands the exceptions from one table to the next, since both have the same
    /// devices. It waits for I/O under way, and holds back I/O that comes meanwhile.
    ///
    /// A table that a killed command loaded and did not make live is cleared first: otherwise there
    /// would be three tables over one store, which the kernel refuses (EINVAL,
    /// `__validate_exception_handover` in its drivers/md/dm-snap.c).
    pub fn put_store(&self, number: u32, on: &Store, length: Sectors) -> Result<DevNo, Errno> {
        let _ = self.send(Request::Clear, number);
        let mut message =
            Message::load_one(&store::name(number), length, store::KIND, &on.params());
        self.run(Request::Load, &mut message)?;
        let resume = Request::Resume { freeze: false };
        // A second try: a failure after the swap would leave the device suspended, and root with
        // it.
        match self.send(resume, number).or_else(|_| self.send(resume, number)) {
            Ok(message) => Ok(message.number()),
            Err(errno) => {
                let _ = self.send(Request::Clear, number);
                Err(errno)
            }
        }
    }

    /// What it stands on, and its length; `None` for a table that cowflush never makes there.
    pub fn store(&self, number: u32) -> Result<Option<(Store, Sectors)>, Errno> {
        let message = self.send(Request::Table, number)?;
        let line = message.targets().next();
        Ok(line.and_then(|(_, length, kind, params)| Some((Store::parse(kind, params)?, length))))
    }

    /// Whether the device has a table as cowflush makes it, or none yet. With any other table it
    /// belongs to another program that uses the same name.
    pub fn is_store(&self, number: u32) -> bool {
        self.send(Request::Table, number).is_ok_and(|message| {
            message.targets().all(|(_, _, kind, params)| Store::parse(kind, params).is_some())
        })
    }

    /// Removes the device and frees the memory below it. The kernel refuses (EBUSY) while a
    /// program, or a table that reads through it, has it open.
    pub fn remove_store(&self, number: u32) -> Result<(), Errno> {
        self.send(Request::Remove, number).map(drop)
    }

    fn send(&self, request: Request, number: u32) -> Result<Box<Message>, Errno> {
        let mut message = Message::named(&store::name(number));
        self.run(request, &mut message)?;
        Ok(message)
    }
}

/// The devices that have a store's name: the number in it, and whether a table uses the device.
pub fn stores() -> Vec<(u32, bool)> {
    ask!(stores());
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let store = |folder: std::path::PathBuf| Some((number_in(&folder)?, is_held(&folder)));
    folders.filter_map(store).collect()
}

/// The number in a block device's name, if it is a store's.
pub fn number_of(device: DevNo) -> Option<u32> {
    ask!(store_number(device));
    number_in(&block::sysfs(device))
}

/// The number in a store's name; `folder` is the device's own in sysfs.
fn number_in(folder: &Path) -> Option<u32> {
    let name = std::fs::read_to_string(folder.join("dm/name")).ok()?;
    decimal(name.trim().strip_prefix(store::PREFIX)?)
}

/// Whether a table uses the device.
fn is_held(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some())
}
