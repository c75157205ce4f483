//! The stack as the kernel's tables show it.

use crate::pure::dm::status::Usage;
use crate::pure::dm::{Line, SnapshotStatus, Target};
use crate::pure::units::{Bytes, DevNo, Sectors};

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

    /// Whether its live table is one that cowflush never makes: the device may be another program's
    /// that has the name by chance.
    pub fn is_foreign(&self) -> bool {
        matches!(self.live, Some(Live::Foreign | Live::Single { target: Target::Other, .. }))
    }

    /// The devices that its live table reads.
    fn below(&self) -> [Option<DevNo>; 2] {
        let of = |target: Target| match target {
            Target::Linear { device, .. } => [Some(device), None],
            Target::Snapshot { origin, cow, .. } | Target::SnapshotMerge { origin, cow, .. } => {
                [Some(origin), Some(cow)]
            }
            Target::Other => [None; 2],
        };
        match self.live {
            Some(Live::Single { target, .. }) => of(target),
            Some(Live::Joined(first, second)) => [of(first.target)[0], of(second.target)[0]],
            Some(Live::Foreign) | None => [None; 2],
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

impl Mode {
    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Deferring => "deferring",
            Mode::WriteThrough => "write-through",
        }
    }
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
    pub fn roots_origin(&self) -> Option<DevNo> {
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
        let (_, cow) = store(device.target()?)?;
        let is = |name: Name| self.device(name).is_some_and(|device| device.number == cow);
        Some(if is(Name::View) {
            Store::View
        } else if is(Name::LogView) {
            Store::LogView
        } else {
            Store::Ram
        })
    }

    /// Whether root reads through the device of that name, by the tables that serve I/O.
    pub fn is_under_root(&self, name: Name) -> bool {
        let wanted = self.device(name).map(|device| device.number);
        // The search ends even in a circle, which the kernel does not allow.
        let deepest = Name::ALL.len();
        wanted.zip(self.root).is_some_and(|(wanted, root)| self.reads(&root, wanted, deepest))
    }

    fn reads(&self, device: &Device, wanted: DevNo, deepest: usize) -> bool {
        let Some(deepest) = deepest.checked_sub(1) else { return false };
        device.below().into_iter().flatten().any(|number| {
            let further = self.numbered(number);
            number == wanted || further.is_some_and(|below| self.reads(below, wanted, deepest))
        })
    }

    /// All devices that there are.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        Name::ALL.into_iter().filter_map(|name| self.device(name))
    }

    fn numbered(&self, number: DevNo) -> Option<&Device> {
        self.devices().find(|device| device.number == number)
    }

    /// Whether root's table and the sealed device's have the same COW.
    pub fn shares_cow(&self) -> bool {
        let store = |device: Option<Device>| store(device?.target()?);
        store(self.root).is_some_and(|(_, cow)| {
            store(self.sealed).is_some_and(|(_, sealed_cow)| sealed_cow == cow)
        })
    }

    /// Whether the kernel has moved what root's COW holds from root's table to the sealed device's,
    /// while root has not yet got the table that reads through that one. Root's own table is void
    /// then: reads through it fail. Only the sealed device's table knows where each chunk is in the
    /// COW.
    ///
    /// A resume moves it (`__handover_exceptions` in drivers/md/dm-snap.c), so until then the
    /// sealed device is suspended; after that root's table is Invalid, whatever another tool does
    /// to the sealed device.
    pub fn has_handed_over(&self) -> bool {
        let void = self.root.is_some_and(|root| root.status() == SnapshotStatus::Invalid);
        self.shares_cow() && (void || self.sealed.is_some_and(|sealed| !sealed.suspended))
    }

    /// Whether a layer stands on the card itself, and not on another layer whose data the card does
    /// not have.
    pub fn is_on_card(&self, layer: Name) -> bool {
        let target = self.device(layer).and_then(Device::target);
        let Some((origin, _)) = target.and_then(store) else { return false };
        self.numbered(origin)
            .is_none_or(|below| matches!(below.target(), Some(Target::Linear { .. })))
    }

    /// The sealed device while its data are in RAM; `None` once they are in the flush log.
    pub fn sealed_in_ram(&self) -> Option<Device> {
        let sealed = self.sealed?;
        let logged = matches!(sealed.target()?, Target::Snapshot { .. })
            && self.store(&sealed) != Some(Store::Ram);
        (!logged).then_some(sealed)
    }

    /// RAM that a sealed COW holds, metadata included. `None`: the kernel does not count one that
    /// overflowed, or whose merge failed.
    pub fn sealed_bytes(&self) -> Option<Bytes> {
        match self.sealed_in_ram() {
            Some(sealed) if sealed.target().and_then(store).is_some() => {
                sealed.usage().map(|usage| usage.allocated.bytes())
            }
            _ => Some(Bytes(0)),
        }
    }

    /// Sectors of data waiting in RAM: root's COW and what is left of a sealed one. `None`: the
    /// kernel does not count a COW that overflowed, was lost, or whose merge failed.
    pub fn pending(&self) -> Option<Sectors> {
        let mut sum = 0_u64;
        for device in [self.root, self.sealed_in_ram()].into_iter().flatten() {
            match device.target() {
                None | Some(Target::Linear { .. }) => {}
                _ => sum = sum.saturating_add(device.usage()?.data().0),
            }
        }
        Some(Sectors(sum))
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

/// Origin and COW of a snapshot, whether it is merged or not.
fn store(target: Target) -> Option<(DevNo, DevNo)> {
    match target {
        Target::Snapshot { origin, cow, .. } | Target::SnapshotMerge { origin, cow, .. } => {
            Some((origin, cow))
        }
        _ => None,
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

    const CARD: DevNo = DevNo { major: 8, minor: 1 };
    const LOG_PARTITION: DevNo = DevNo { major: 8, minor: 2 };
    const COW: DevNo = DevNo { major: 7, minor: 0 };

    /// The number of the device of that name: each has its own.
    fn number(name: Name) -> DevNo {
        DevNo {
            major: 253,
            minor: Name::ALL.iter().position(|other| *other == name).unwrap() as u32,
        }
    }

    fn device(name: Name, target: Target, data: u64) -> Option<Device> {
        let usage =
            Usage { allocated: Sectors(16 + data), total: Sectors(1 << 15), metadata: Sectors(16) };
        let status = match target {
            Target::Linear { .. } | Target::Other => SnapshotStatus::Unknown,
            _ => SnapshotStatus::Used(usage),
        };
        let live = Some(Live::Single { length: Sectors(1 << 18), target, status });
        Some(Device { number: number(name), suspended: false, live, inactive: false })
    }

    fn linear_to(device: DevNo) -> Target {
        Target::Linear { device, offset: Sectors(63) }
    }

    fn over(origin: Name, cow: DevNo) -> Target {
        Target::Snapshot { origin: number(origin), cow, chunk: 8 }
    }

    fn merging(origin: Name, cow: DevNo) -> Target {
        Target::SnapshotMerge { origin: number(origin), cow, chunk: 8 }
    }

    /// Root over a COW of 100 sectors, over a sealed one of 10, over the log.
    fn whole() -> Stack {
        let line = Line::whole(Sectors(8), linear_to(COW));
        let view = |name| {
            let live =
                Some(Live::Joined(line, Line::whole(Sectors(8), linear_to(number(Name::Log)))));
            Some(Device { number: number(name), suspended: false, live, inactive: false })
        };
        Stack {
            root: device(Name::Root, over(Name::Sealed, COW), 100),
            sealed: device(Name::Sealed, over(Name::Logged, COW), 10),
            logged: device(Name::Logged, over(Name::Origin, number(Name::LogView)), 1),
            origin: device(Name::Origin, linear_to(CARD), 0),
            log_view: view(Name::LogView),
            view: view(Name::View),
            log: device(Name::Log, linear_to(LOG_PARTITION), 0),
        }
    }

    #[test]
    fn each_name_has_its_own_place_and_text() {
        let mut stack = whole();
        for name in Name::ALL {
            assert_eq!(stack.device(name).unwrap().number, number(name));
            assert_eq!(stack.slot(name).unwrap().number, number(name));
            assert!(name.text().starts_with("cowflush-"));
            let same = Name::ALL.iter().filter(|other| other.text() == name.text());
            assert_eq!(same.count(), 1);
        }
    }

    #[test]
    fn where_writes_go_and_what_is_under_root_is_in_its_table() {
        let stack = whole();
        assert_eq!(
            (stack.mode(), stack.roots_origin()),
            (Some(Mode::Deferring), Some(number(Name::Sealed)))
        );
        let through =
            Stack { root: device(Name::Root, linear_to(number(Name::Origin)), 0), ..stack };
        assert_eq!(
            (through.mode(), through.roots_origin()),
            (Some(Mode::WriteThrough), Some(number(Name::Origin)))
        );
        for target in [merging(Name::Origin, COW), Target::Other] {
            let foreign = Stack { root: device(Name::Root, target, 0), ..stack };
            assert_eq!((foreign.mode(), foreign.roots_origin()), (None, None));
        }
        assert_eq!((Stack::default().mode(), Stack::default().roots_origin()), (None, None));
    }

    #[test]
    fn the_card_is_under_the_lowest_device_that_is_there() {
        let card = Some((CARD, Sectors(63)));
        assert_eq!(whole().card(), card);
        let merged = device(Name::Logged, linear_to(CARD), 0);
        assert_eq!(Stack { origin: None, logged: merged, ..whole() }.card(), card);
        let sealed = device(Name::Sealed, linear_to(CARD), 0);
        assert_eq!(Stack { origin: None, logged: None, sealed, ..whole() }.card(), card);
        assert_eq!(Stack { origin: None, ..whole() }.card(), None);
        assert_eq!(whole().log_partition(), Some(LOG_PARTITION));
        assert_eq!(Stack::default().log_partition(), None);
    }

    #[test]
    fn what_is_in_ram_is_not_what_is_in_the_log() {
        let sectors = |stack: &Stack| (stack.pending().unwrap().0, stack.held_in_ram().0);
        assert_eq!(sectors(&whole()), (110, 142 * 512));
        assert_eq!(sectors(&Stack { sealed: None, ..whole() }), (100, 116 * 512));
        // A sealed COW that was appended reads the log; its memory is free.
        for (name, store) in [(Name::View, Store::View), (Name::LogView, Store::LogView)] {
            let sealed = device(Name::Sealed, over(Name::Origin, number(name)), 10);
            let stack = Stack { sealed, ..whole() };
            assert_eq!(stack.store(&sealed.unwrap()), Some(store));
            assert_eq!((sectors(&stack), stack.sealed_in_ram()), ((100, 116 * 512), None));
        }
        // One that is merged from a view is in RAM until that is done.
        let sealed = device(Name::Sealed, merging(Name::Origin, number(Name::View)), 10);
        let stack = Stack { sealed, ..whole() };
        assert_eq!((sectors(&stack), stack.sealed_in_ram()), ((110, 142 * 512), sealed));
        assert_eq!(whole().store(&whole().sealed.unwrap()), Some(Store::Ram));
        assert_eq!(whole().store(&whole().origin.unwrap()), None);
        assert_eq!(sectors(&Stack::default()), (0, 0));
    }

    #[test]
    fn what_the_kernel_does_not_count_is_not_nothing() {
        for status in [
            SnapshotStatus::Invalid,
            SnapshotStatus::Overflow,
            SnapshotStatus::MergeFailed,
            SnapshotStatus::Unknown,
        ] {
            let mut root = whole();
            let Some(Live::Single { status: of_root, .. }) = &mut root.root.as_mut().unwrap().live
            else {
                panic!()
            };
            *of_root = status;
            assert_eq!(root.pending(), None, "{status:?}");
            let mut sealed = whole();
            let Some(Live::Single { status: of_sealed, .. }) =
                &mut sealed.sealed.as_mut().unwrap().live
            else {
                panic!()
            };
            *of_sealed = status;
            assert_eq!(sealed.pending(), None, "{status:?}");
        }
        let through = device(Name::Root, linear_to(number(Name::Origin)), 0);
        assert_eq!(Stack { root: through, ..Stack::default() }.pending(), Some(Sectors(0)));
    }

    #[test]
    fn what_root_reads_through_is_followed_to_the_card_and_to_the_log() {
        let under = |stack: &Stack| {
            Name::ALL.into_iter().filter(|name| stack.is_under_root(*name)).collect::<Vec<_>>()
        };
        assert_eq!(
            under(&whole()),
            [Name::Sealed, Name::Logged, Name::LogView, Name::Origin, Name::Log]
        );
        let unused = Stack { root: device(Name::Root, over(Name::Origin, COW), 1), ..whole() };
        assert_eq!(under(&unused), [Name::Origin]);
        let asleep =
            Stack { root: whole().root.map(|root| Device { live: None, ..root }), ..whole() };
        assert!(under(&asleep).is_empty());
        assert!(under(&Stack::default()).is_empty());
        // A table of another tool ends the search; a circle does, too.
        let foreign = device(Name::Sealed, Target::Other, 0);
        assert_eq!(under(&Stack { sealed: foreign, ..whole() }), [Name::Sealed]);
        let circle = device(Name::Origin, linear_to(number(Name::Sealed)), 0);
        let found = under(&Stack { origin: circle, ..whole() });
        assert!(found.contains(&Name::Origin) && !found.contains(&Name::View));
        assert_eq!(
            (whole().root.unwrap().length(), whole().view.unwrap().length()),
            (Some(Sectors(1 << 18)), None)
        );
    }

    #[test]
    fn only_a_layer_with_no_other_under_it_stands_on_the_card() {
        let stack = whole();
        assert!(!stack.is_on_card(Name::Sealed) && stack.is_on_card(Name::Logged));
        let merged = Stack { logged: device(Name::Logged, linear_to(CARD), 0), ..stack };
        assert!(merged.is_on_card(Name::Sealed));
        let at_work =
            Stack { logged: device(Name::Logged, merging(Name::Origin, COW), 0), ..stack };
        assert!(!at_work.is_on_card(Name::Sealed), "not before the end of its merge");
        assert!(!stack.is_on_card(Name::Origin) && !stack.is_on_card(Name::View));
        let none = Stack { origin: None, ..stack };
        assert!(none.is_on_card(Name::Logged), "it stands on what is none of ours");
    }

    #[test]
    fn a_table_that_cowflush_never_makes_is_foreign() {
        let own = device(Name::Origin, linear_to(CARD), 0).unwrap();
        let other = device(Name::Origin, Target::Other, 0).unwrap();
        let foreign = Device { live: Some(Live::Foreign), ..own };
        let without = Device { live: None, ..own };
        assert_eq!(
            [own, other, foreign, without].map(|it| it.is_foreign()),
            [false, true, true, false]
        );
    }
}
