//! Making and growing COW devices, and taking away what is left of them.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Doing, Result};
use crate::output::kmsg;
use crate::pure::cow::size;
use crate::pure::cow::store::{self, Store};
use crate::pure::units::{Bytes, DevNo, decimal};
use crate::sys::dm::Control;
use crate::sys::{block, cgroups, loopdev, tmpfs};

const NAME: &str = "cowflush-cow";
/// The file behind a blank device: nothing is ever written to it.
const BLANK: &str = "cowflush-blank";

/// A COW device. Keep it until a table uses it; dropped earlier, it is gone.
pub struct Cow {
    number: DevNo,
    /// Keeps it meanwhile. It goes before what is below: whoever has a device open keeps it.
    _node: File,
    /// What takes a store away; a loop device goes by itself.
    _store: Option<Going>,
}

/// A store that goes with this, unless a table has it by then.
struct Going(Control, u32);

impl Drop for Going {
    fn drop(&mut self) {
        // The kernel refuses where a table has it; the rest is `release_strays`'s.
        let _ = self.0.remove_store(self.1);
    }
}

impl Cow {
    /// Its device number.
    pub fn number(&self) -> DevNo {
        self.number
    }
}

/// A fresh, empty COW device for as much as a sealed COW of `sealed` bytes leaves of `limit`, and the slack
/// behind it; see [`grow`].
///
/// Its memory counts against nobody's limit, if the kernel lets that be. If not, it is still a COW.
pub fn create(control: &Control, limit: Bytes, sealed: Bytes, log_capacity: Bytes) -> Result<Cow> {
    let room = store::room(size::fresh_device(limit, Bytes(0), Bytes::MAX));
    let file = tmpfs::file(NAME, room)?;
    let size = size::fresh_device(limit, sealed, log_capacity);
    if cgroups::count_loop_pages() {
        match in_nobodys_name(control, &file, room, size) {
            Ok(cow) => return Ok(cow),
            Err(error) => {
                // Nothing else may be waited for here.
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

/// Over `file`, with [`Store`] between. Killed at any moment it leaves what [`release_strays`] finds.
fn in_nobodys_name(control: &Control, file: &File, room: Bytes, size: Bytes) -> Result<Cow> {
    let data = loopdev::attach(file, NAME, room)?;
    let blank = loopdev::attach(&tmpfs::file(BLANK, room)?, BLANK, room)?;
    let on = Store { blank: blank.number(), data: data.number() };
    on_store(control, &on, size).doing(|| "make a device that copies for the COW")
}

fn on_store(control: &Control, on: &Store, size: Bytes) -> std::result::Result<Cow, Errno> {
    let store = control.create_store()?;
    // From here on whatever fails takes it away again.
    let going = Going(control.clone(), store);
    let number = control.put_store(store, on, size.sectors())?;
    let node = File::open(block::path(number));
    let node = node.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(Cow { number, _node: node, _store: Some(going) })
}

/// Lets a COW device in use grow to `limit` and the slack behind it, unless that is more than `log_capacity`, which
/// one flush can put into the flush log.
pub fn grow(control: &Control, cow: DevNo, limit: Bytes, log_capacity: Bytes) -> Result<()> {
    let wanted = size::fresh_device(limit, Bytes(0), log_capacity);
    let Some(store) = store_number(&block::sysfs(cow)) else {
        let path = block::path(cow);
        let node = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .doing(|| format!("open {}", path.display()))?;
        return loopdev::grow(&node, wanted);
    };
    let now = control.store(store).doing(|| "ask for the size of the COW")?;
    let Some((on, length)) = now else { return Ok(()) };
    // What is below was made for all that the COW could have then.
    let wanted = size::device(wanted.min(block::size(on.data)?.bytes())).sectors();
    // Never smaller: a table may point to what lies behind the new end.
    if wanted > length {
        control.put_store(store, &on, wanted).doing(|| "change the size of the COW")?;
    }
    Ok(())
}

/// Whether a COW's memory counts against nobody's limit.
pub fn is_nobodys(cow: DevNo) -> bool {
    store_number(&block::sysfs(cow)).is_some()
}

/// How long somebody who looks at a new device, as udev does, may keep it.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Takes away the COW devices that no table uses any more, whether this command gave them up or one that was killed,
/// and with them their memory. A store is nobody's from the moment when its last table goes; it has a name and a table by
/// which this finds it until it is gone, and the loop devices below go with it. So whoever dies in between, or before a
/// new one's first table, leaves nothing that the next command does not take away before its first step.
pub fn release_strays(control: &Control) {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let Some(store) = store_number(&folder) else { continue };
        // A name alone makes no device ours.
        if is_held(&folder) || !control.is_store(store) {
            continue;
        }
        for _ in 0..BUSY_TRIES {
            if control.remove_store(store) != Err(Errno::EBUSY) {
                break;
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }
}

/// The number in the name of a block device, if it is one of [`store`]'s; `folder` is its own in sysfs.
fn store_number(folder: &Path) -> Option<u32> {
    let name = std::fs::read_to_string(folder.join("dm/name")).ok()?;
    decimal(name.trim().strip_prefix(store::PREFIX)?)
}

/// A table uses it.
fn is_held(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some())
}
