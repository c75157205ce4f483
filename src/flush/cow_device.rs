//! Makes and grows COW devices, and takes away what is left of them.

use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Doing, Result};
use crate::output::kmsg;
use crate::pure::cow::store::{self, Store};
use crate::pure::policy::cow_memory;
use crate::pure::units::{Bytes, DevNo};
use crate::sys::dm::Control;
use crate::sys::dm::store::{number_of, stores};
use crate::sys::node::Node;
use crate::sys::time::pause;
use crate::sys::{block, cgroups, loopdev, tmpfs};

const NAME: &str = "cowflush-cow";
/// The file behind a blank device: nothing is ever written to it.
const BLANK: &str = "cowflush-blank";

/// A COW device. Keep it until a table uses it; a drop before that removes it.
pub struct Cow {
    number: DevNo,
    /// Keeps the device until a table uses it. It is dropped before what is below: a device that is
    /// open can't be removed.
    _node: Node,
    /// Removes a store device on drop; a loop device goes by itself.
    _store: Option<Going>,
}

/// A store device that the drop removes, unless a table uses it by then.
struct Going(Control, u32);

impl Drop for Going {
    fn drop(&mut self) {
        // The kernel refuses where a table uses it; `release_strays` removes what is left.
        let _ = self.0.remove_store(self.1);
    }
}

impl Cow {
    /// Its device number.
    pub fn number(&self) -> DevNo {
        self.number
    }
}

/// A fresh, empty COW device for as much as a sealed COW of `sealed` bytes leaves of `limit`, and
/// the slack behind it; see [`grow`].
///
/// Its memory counts against no process's limit, where the kernel allows that; elsewhere it is an
/// ordinary COW.
pub fn create(control: &Control, limit: Bytes, sealed: Bytes, log_capacity: Bytes) -> Result<Cow> {
    let room = store::room(cow_memory::fresh_device(limit, Bytes(0), Bytes::MAX));
    let file = tmpfs::file(NAME, room)?;
    let size = cow_memory::fresh_device(limit, sealed, log_capacity);
    if cgroups::count_loop_pages() {
        match in_nobodys_name(control, &file, room, size) {
            Ok(cow) => return Ok(cow),
            Err(error) => {
                // Only the kernel log: nothing here may wait for a reader.
                let _ = kmsg::say(
                    kmsg::WARNING,
                    &format!(
                        "the COW counts against the memory limits of those who write to root: {error}"
                    ),
                );
            }
        }
    }
    let plain = loopdev::attach(&file, NAME, size)?;
    Ok(Cow { number: plain.number(), _node: plain.into_node(), _store: None })
}

/// Makes a COW device over `file` with a [`Store`] between. If this process is killed,
/// [`release_strays`] finds what it left.
fn in_nobodys_name(control: &Control, file: &Node, room: Bytes, size: Bytes) -> Result<Cow> {
    let data = loopdev::attach(file, NAME, room)?;
    let blank = loopdev::attach(&tmpfs::file(BLANK, room)?, BLANK, room)?;
    let on = Store { blank: blank.number(), data: data.number() };
    on_store(control, &on, size).doing(|| "make a device that copies for the COW")
}

fn on_store(control: &Control, on: &Store, size: Bytes) -> std::result::Result<Cow, Errno> {
    let store = control.create_store()?;
    // From here on any failure takes it away again.
    let going = Going(control.clone(), store);
    let number = control.put_store(store, on, size.sectors())?;
    let node = Node::open(&block::path(number), false, 0);
    let node = node.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(Cow { number, _node: node, _store: Some(going) })
}

/// Lets a COW device in use grow to `limit` and the slack behind it, unless that is more than
/// `log_capacity`, which one flush can put into the flush log.
pub fn grow(control: &Control, cow: DevNo, limit: Bytes, log_capacity: Bytes) -> Result<()> {
    let wanted = cow_memory::fresh_device(limit, Bytes(0), log_capacity);
    let Some(store) = number_of(cow) else { return loopdev::grow(cow, wanted) };
    let now = control.store(store).doing(|| "ask for the size of the COW")?;
    let Some((on, length)) = now else { return Ok(()) };
    // The device below was made for the most that the COW could have then.
    let wanted = cow_memory::device(wanted.min(block::size(on.data)?.bytes())).sectors();
    // Never smaller: a table may point to what lies behind the new end.
    if wanted > length {
        control.put_store(store, &on, wanted).doing(|| "change the size of the COW")?;
    }
    Ok(())
}

/// Whether a COW's memory counts against no process's limit.
pub fn is_nobodys(cow: DevNo) -> bool {
    number_of(cow).is_some()
}

/// How often, and after what pause, a removal is tried again while a program has the device open,
/// as udev has a new one.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Removes the COW devices that no table uses any more, left by this command or by one that was
/// killed, and frees their memory. A store device is unused once the last table over it goes; this
/// function finds it by its name and table, and the loop devices below go with it. So if a command
/// is killed in between, or before a new store's first use, the next command removes it before its
/// first step.
pub fn release_strays(control: &Control) {
    for (store, held) in stores() {
        // The name alone does not show that a device is cowflush's.
        if held || !control.is_store(store) {
            continue;
        }
        for _ in 0..BUSY_TRIES {
            if control.remove_store(store) != Err(Errno::EBUSY) {
                break;
            }
            pause(BUSY_PAUSE);
        }
    }
}
