//! The stack as the kernel's tables show it.

use core::fmt::Write;

use crate::dm::status::Usage;
use crate::dm::{Line, SnapshotStatus, Target};
use crate::units::{Bytes, DevNo, Sectors};

/// The device-mapper devices that cowflush makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Mounted as `/`.
    Root,
    /// The card's partition.
    Origin,
    /// What root stands on while a flush is under way: what is under it, and a sealed COW over it.
    Sealed,
    /// A table of our own over a sealed COW or over the flush log.
    View,
    /// The flush log's partition.
    Log,
    /// The card's partition with the flush log's segments over it.
    Logged,
    /// The table that [`Name::Logged`] reads the log by.
    LogView,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Name::Root,
        Name::Sealed,
        Name::Logged,
        Name::View,
        Name::LogView,
        Name::Origin,
        Name::Log,
    ];
}

impl Name {
    /// The name in device-mapper and under /dev/mapper.
    pub const fn text(self) -> &'static str {
        match self {
            Name::Root => "cowflush-root",
            Name::Origin => "cowflush-origin",
            Name::Sealed => "cowflush-sealed",
            Name::View => "cowflush-view",
            Name::Log => "cowflush-log",
            Name::Logged => "cowflush-logged",
            Name::LogView => "cowflush-log-view",
        }
    }
}

/// A note that the kernel keeps with a device, as its uuid: the disk whose write cache cowflush
/// told the kernel to forget, and that must be told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The whole disk.
    pub quieted: DevNo,
}

const MARK: &str = "cowflush-quieted-";

impl Mark {
    /// The uuid's text.
    pub fn text(&self) -> heapless::String<48> {
        let mut text = heapless::String::new();
        // Two numbers of ten digits fit.
        let _ = write!(text, "{MARK}{}", self.quieted);
        text
    }

    /// Reads a uuid; `None` for one that is no mark.
    pub fn parse(uuid: &str) -> Option<Self> {
        Some(Self { quieted: DevNo::parse(uuid.strip_prefix(MARK)?)? })
    }
}

/// A device's live table, as far as cowflush's own tables go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// One target over the whole device.
    Single {
        /// Size of the device.
        length: Sectors,
        /// Its target.
        target: Target,
        /// What a snapshot target says of itself; `Unknown` for others.
        status: SnapshotStatus,
    },
    /// Two targets, as the view has them.
    Joined(Line, Line),
    /// A table that cowflush never makes.
    Foreign,
}

/// One device-mapper device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub number: DevNo,
    /// I/O is held back.
    pub suspended: bool,
    /// The table that serves I/O; `None` before the first resume.
    pub live: Option<Live>,
    /// A table is loaded that the next resume would swap in.
    pub inactive: bool,
    /// The note kept with it.
    pub mark: Option<Mark>,
}

impl Device {
    /// The target, where the live table is a single one.
    pub fn target(&self) -> Option<Target> {
        match self.live {
            Some(Live::Single { target, .. }) => Some(target),
            _ => None,
        }
    }

    /// What the target, if it is a snapshot, says of itself.
    pub fn status(&self) -> SnapshotStatus {
        match self.live {
            Some(Live::Single { status, .. }) => status,
            _ => SnapshotStatus::Unknown,
        }
    }

    /// The exception store's usage, where it is known.
    pub fn usage(&self) -> Option<Usage> {
        match self.status() {
            SnapshotStatus::Used(usage) => Some(usage),
            _ => None,
        }
    }

    /// The size of the device.
    pub fn length(&self) -> Option<Sectors> {
        match self.live {
            Some(Live::Single { length, .. }) => Some(length),
            _ => None,
        }
    }
}

/// Where root's writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into the COW, in RAM.
    Deferring,
    /// To the card at once.
    WriteThrough,
}

/// All of cowflush's devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// [`Name::Root`].
    pub root: Option<Device>,
    /// [`Name::Origin`].
    pub origin: Option<Device>,
    /// [`Name::Sealed`].
    pub sealed: Option<Device>,
    /// [`Name::View`].
    pub view: Option<Device>,
    /// [`Name::Log`].
    pub log: Option<Device>,
    /// [`Name::Logged`].
    pub logged: Option<Device>,
    /// [`Name::LogView`].
    pub log_view: Option<Device>,
}

/// What a snapshot's exception store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A COW in RAM.
    Ram,
    /// [`Name::View`].
    View,
    /// [`Name::LogView`].
    LogView,
}

impl Stack {
    /// The device of that name.
    pub fn device(&self, name: Name) -> Option<&Device> {
        match name {
            Name::Root => self.root.as_ref(),
            Name::Origin => self.origin.as_ref(),
            Name::Sealed => self.sealed.as_ref(),
            Name::View => self.view.as_ref(),
            Name::Log => self.log.as_ref(),
            Name::Logged => self.logged.as_ref(),
            Name::LogView => self.log_view.as_ref(),
        }
    }

    /// Where to put the device of that name.
    pub fn slot(&mut self, name: Name) -> &mut Option<Device> {
        match name {
            Name::Root => &mut self.root,
            Name::Origin => &mut self.origin,
            Name::Sealed => &mut self.sealed,
            Name::View => &mut self.view,
            Name::Log => &mut self.log,
            Name::Logged => &mut self.logged,
            Name::LogView => &mut self.log_view,
        }
    }

    /// Where root's writes go; `None` when there is no stack or not one of ours.
    pub fn mode(&self) -> Option<Mode> {
        match self.root?.target()? {
            Target::Snapshot { .. } => Some(Mode::Deferring),
            Target::Linear { .. } => Some(Mode::WriteThrough),
            _ => None,
        }
    }

    /// The device under root: origin or sealed.
    pub fn seat(&self) -> Option<DevNo> {
        match self.root?.target()? {
            Target::Snapshot { origin, .. } => Some(origin),
            Target::Linear { device, .. } => Some(device),
            _ => None,
        }
    }

    /// The card's partition and the first sector used of it.
    pub fn card(&self) -> Option<(DevNo, Sectors)> {
        let lowest = |device: Option<Device>| linear(device?.target()?);
        lowest(self.origin).or_else(|| lowest(self.logged)).or_else(|| lowest(self.sealed))
    }

    /// The flush log's partition.
    pub fn log_partition(&self) -> Option<DevNo> {
        linear(self.log?.target()?).map(|(device, _)| device)
    }

    /// What the store of a snapshot is; `None` for another target.
    pub fn store(&self, device: &Device) -> Option<Store> {
        let cow = match device.target()? {
            Target::Snapshot { cow, .. } | Target::SnapshotMerge { cow, .. } => cow,
            _ => return None,
        };
        let is = |name: Name| self.device(name).is_some_and(|device| device.number == cow);
        Some(if is(Name::View) {
            Store::View
        } else if is(Name::LogView) {
            Store::LogView
        } else {
            Store::Ram
        })
    }

    /// What is in RAM of a sealed device: nothing once it stands in the flush log.
    pub fn sealed_in_ram(&self) -> Option<Device> {
        let sealed = self.sealed?;
        let logged = matches!(sealed.target()?, Target::Snapshot { .. })
            && self.store(&sealed) != Some(Store::Ram);
        (!logged).then_some(sealed)
    }

    /// Sectors of data waiting in RAM: root's COW and what is left of a sealed one.
    pub fn pending(&self) -> Sectors {
        let data = |device: Option<Device>| {
            device.and_then(|d| d.usage()).map_or(0, |usage| usage.data().0)
        };
        Sectors(data(self.root).saturating_add(data(self.sealed_in_ram())))
    }

    /// RAM that the COWs hold, metadata included. A sealed COW that is being merged is counted
    /// by what is left of it, though its memory comes back only at the end.
    pub fn held_in_ram(&self) -> Bytes {
        let allocated = |device: Option<Device>| {
            device.and_then(|d| d.usage()).map_or(0, |usage| usage.allocated.bytes().0)
        };
        Bytes(allocated(self.root).saturating_add(allocated(self.sealed_in_ram())))
    }
}

fn linear(target: Target) -> Option<(DevNo, Sectors)> {
    match target {
        Target::Linear { device, offset } => Some((device, offset)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back() {
        let mark = Mark { quieted: DevNo { major: u32::MAX, minor: u32::MAX } };
        assert_eq!(Mark::parse(&mark.text()), Some(mark));
        for other in ["", "LVM-abc", "cowflush-quieted-", "cowflush-quieted-8"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }
}
