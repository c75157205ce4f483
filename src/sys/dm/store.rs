//! Devices beside the stack's own: those that COWs may stand on ([`crate::pure::cow::store`]).

use nix::errno::Errno;

use super::{Control, Message, Request};
use crate::pure::cow::store::{self, Store};
use crate::pure::units::{DevNo, Sectors};

impl Control {
    /// Makes such a device, without a table. Returns its number, by which it is called.
    pub fn create_store(&self) -> Result<u32, Errno> {
        for number in 0..store::MOST {
            match self.send(Request::Create, number) {
                // One of that name is there.
                Err(Errno::EBUSY) => continue,
                result => return result.map(|_| number),
            }
        }
        Err(Errno::EBUSY)
    }

    /// Lets it stand on `on`, with that length from now on; whoever uses it goes on using it.
    ///
    /// The kernel hands the exceptions from one table to the next, since both have the same devices. It waits
    /// for what is on its way, and lets what comes meanwhile wait.
    ///
    /// One that a killed command has loaded and not put in place goes first: there would be three tables over one store,
    /// which the kernel refuses (EINVAL, `__validate_exception_handover` in its drivers/md/dm-snap.c).
    pub fn put_store(&self, number: u32, on: &Store, length: Sectors) -> Result<DevNo, Errno> {
        let _ = self.send(Request::Clear, number);
        let mut message =
            Message::load_one(&store::name(number), length, store::KIND, &on.params());
        self.run(Request::Load, &mut message)?;
        let resume = Request::Resume { freeze: false };
        // Once more: a failure behind the swap would leave it suspended, and root with it.
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

    /// It stands on what cowflush puts below it, or on nothing yet. Another one of that name is somebody else's.
    pub fn is_store(&self, number: u32) -> bool {
        self.send(Request::Table, number).is_ok_and(|message| {
            message.targets().all(|(_, _, kind, params)| Store::parse(kind, params).is_some())
        })
    }

    /// Removes it, and with it the memory below; refused (EBUSY) while anybody has it open, as a table that reads
    /// through it has.
    pub fn remove_store(&self, number: u32) -> Result<(), Errno> {
        self.send(Request::Remove, number).map(drop)
    }

    fn send(&self, request: Request, number: u32) -> Result<Box<Message>, Errno> {
        let mut message = Message::named(&store::name(number));
        self.run(request, &mut message)?;
        Ok(message)
    }
}
