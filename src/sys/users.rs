//! Finds out which mounts and swap areas use which device. Changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::pure::config::is_in;
use crate::pure::units::{Bytes, DevNo};
use crate::sys::block::{self, Written};
use crate::sys::file;
use crate::sys::swap::{self, Area, Row, table};

/// A mounted filesystem that is on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device.
    pub device: DevNo,
    /// Where it is mounted.
    pub place: String,
    /// It can be written to.
    pub writable: bool,
}

/// All of them, the youngest last.
pub fn mounts() -> Vec<Mount> {
    mounted(table("/proc/mounts"), |source, place| {
        block::number_at(Path::new(source)).or_else(|| {
            // A source without a node, such as /dev/root.
            let number = std::fs::metadata(place).ok()?.dev();
            Some(DevNo { major: libc::major(number), minor: libc::minor(number) })
        })
    })
}

/// Reads the list of mounts; a line has source, place, type, options, and more. It does not touch
/// sources that are not devices: a server may not answer.
fn mounted(list: Vec<Row>, number: impl Fn(&str, &str) -> Option<DevNo>) -> Vec<Mount> {
    let mount = |[source, place, _, options, _]: Row| {
        let device = source.starts_with("/dev/").then(|| number(&source, &place))??;
        Some(Mount { device, place, writable: options.starts_with("rw") })
    };
    list.into_iter().filter_map(mount).collect()
}

/// The mounted device that a path is on. It does not touch the path itself: the file may have no
/// name any more, or be on a suspended filesystem.
pub fn device_of(path: &str, mounts: &[Mount]) -> Option<DevNo> {
    let above = mounts.iter().filter(|mount| is_in(path, &mount.place));
    // Of several mounts at one place, the last.
    above.max_by_key(|mount| mount.place.len()).map(|mount| mount.device)
}

/// The file that a swap area lies in: the area itself, the file behind a loop device, or the file
/// that zram writes to.
pub fn file_of(path: &str, mut is_file: bool) -> Option<String> {
    let mut path = path.to_owned();
    // zram may write to a loop device.
    for _ in 0..3 {
        if is_file {
            return Some(path);
        }
        let folder = block::sysfs(block::number_at(Path::new(&path))?);
        let backed = file::read(&folder.join("loop/backing_file"));
        is_file = backed.is_ok();
        let behind = backed.or_else(|_| file::read(&folder.join("backing_dev"))).ok()?;
        path = behind.trim_end().to_owned();
    }
    None
}

/// Swap that ends on root. The kernel asks once where the blocks of a swap file are, and writes to
/// them on root's device. While that device is the stack, they go to RAM: what the kernel swaps out
/// to free memory takes as much memory again in root's COW, and the COW's limit shrinks with the
/// memory, until writes fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnRoot {
    /// Its name in the kernel's list.
    pub path: String,
    /// How much is in use, and its size. `None`: the daemon has switched it off.
    pub room: Option<(Bytes, Bytes)>,
}

/// Swap areas that end on root, whose device is `root`.
pub fn swap_on(root: DevNo) -> Vec<OnRoot> {
    let areas = swap::areas();
    if areas.is_empty() {
        return Vec::new();
    }
    let mounts = mounts();
    let on_root = |area: &Area| {
        device_of(&file_of(&area.path, area.is_file)?, &mounts).filter(|on| *on == root)
    };
    let found = areas.into_iter().filter(|area| on_root(area).is_some());
    found.map(|Area { path, used, size, .. }| OnRoot { path, room: Some((used, size)) }).collect()
}

/// Swap files on root that are listed in /etc/fstab.
pub fn swap_in(fstab: Vec<Row>, mounts: &[Mount], root: DevNo) -> impl Iterator<Item = String> {
    let file = move |[path, _, kind, ..]: Row| {
        let on_root = !path.starts_with("/dev/") && device_of(&path, mounts) == Some(root);
        (on_root && kind == "swap").then_some(path)
    };
    fstab.into_iter().filter_map(file)
}

/// A partition of the card's disk that is neither root nor the flush log: cowflush does not hold
/// back writes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The kernel's name.
    pub name: String,
    /// Where it is mounted writable, or `swap`; empty if it is not in use now.
    pub uses: String,
    /// What was written to it since boot.
    pub written: Written,
}

/// All of them that are in use, or were written to since boot.
pub fn beside(card: DevNo, log: Option<DevNo>) -> Vec<Beside> {
    let (Some(disk), mounts) = (block::disk_of(card), mounts()) else { return Vec::new() };
    let swaps: Vec<_> =
        swap::areas().iter().filter_map(|area| block::number_at(Path::new(&area.path))).collect();
    let mut all = Vec::new();
    for entry in std::fs::read_dir(block::sysfs(disk)).into_iter().flatten().flatten() {
        let number = std::fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        let Some(device) = DevNo::parse(number.trim()) else { continue };
        let written = block::written(device).unwrap_or_default();
        let uses = uses(device, &mounts, &swaps);
        if device != card && Some(device) != log && (written.sectors > 0 || !uses.is_empty()) {
            all.push(Beside { name: block::name(device), uses, written });
        }
    }
    all
}

/// What a hold does not cover, by name and place: the other partitions of the card that are in use,
/// and a separate /boot on any disk, even while it is mounted read-only.
pub fn not_held(beside: &[Beside]) -> String {
    outside(beside, &mounts(), &block::name)
}

fn outside(beside: &[Beside], mounts: &[Mount], name: &dyn Fn(DevNo) -> String) -> String {
    let mut all = String::new();
    let mut add = |name: &str, uses: &str| {
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&format!("{name} ({uses})"));
    };
    let used = || beside.iter().filter(|partition| !partition.uses.is_empty());
    used().for_each(|partition| add(&partition.name, &partition.uses));
    let root = device_of("/", mounts);
    for Mount { device, place, .. } in mounts {
        if is_in(place, "/boot") && Some(*device) != root {
            let name = name(*device);
            if !used().any(|partition| partition.name == name) {
                add(&name, place);
            }
        }
    }
    all
}

fn uses(device: DevNo, mounts: &[Mount], swaps: &[DevNo]) -> String {
    let mounts = mounts.iter().filter(|mount| mount.device == device && mount.writable);
    let mut uses: Vec<_> = mounts.map(|mount| mount.place.as_str()).collect();
    uses.extend(swaps.contains(&device).then_some("swap"));
    uses.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: DevNo = DevNo { major: 254, minor: 1 };
    const DISK: DevNo = DevNo { major: 8, minor: 1 };

    fn listed(list: &str) -> Vec<Mount> {
        mounted(swap::rows(list.as_bytes()), |source, place| match source {
            "/dev/mapper/cowflush-root" => Some(ROOT),
            "/dev/root" => (place == "/").then_some(ROOT),
            "/dev/sda1" => Some(DISK),
            other => panic!("nobody asks for {other}"),
        })
    }

    #[test]
    fn a_file_is_where_the_last_mount_above_it_is() {
        let mounts = listed(
            "server:/export /srv nfs rw 0 0\n\
             /dev/sda1 / ext4 ro 0 0\n\
             /dev/mapper/cowflush-root / btrfs rw 0 0\n\
             tmpfs /run tmpfs rw 0 0\n\
             /dev/sda1 /my\\040data ext4 rw 0 0\n\
             nonsense\n",
        );
        assert_eq!(
            uses(DISK, &mounts, &[ROOT]),
            "/my data",
            "what is mounted read-only wears nothing"
        );
        assert_eq!(uses(ROOT, &mounts, &[ROOT, DISK]), "/, swap");
        assert_eq!(uses(DevNo { major: 8, minor: 9 }, &mounts, &[ROOT]), "");
        let on = |path: &str| device_of(path, &mounts);
        assert_eq!(mounts.len(), 3);
        for path in ["/swapfile", "/var/swap (deleted)", "/my", "/my datas/x"] {
            assert_eq!(on(path), Some(ROOT), "{path}");
        }
        assert_eq!(on("/my data/swapfile"), Some(DISK));
        assert_eq!(on("none"), None);
        let fstab = "UUID=ab / ext4 defaults 0 1\n/swapfile none swap sw 0 0\n#/old none swap sw 0 0\n\
                     /my\\040data/swap none swap x\n/dev/sda3 none swap sw\n/var/cache/\\040x\tswap\t  swap sw\n\n/x\n/bind /b none bind";
        let found: Vec<_> = swap_in(swap::rows(fstab.as_bytes()), &mounts, ROOT).collect();
        assert_eq!(found, ["/swapfile", "/var/cache/ x"]);
        let outside = |beside: &[Beside], mounts: &str| {
            super::outside(beside, &listed(mounts), &|device| format!("sd{}", device.minor))
        };
        let beside = |uses: &str| Beside {
            name: "sd1".into(),
            uses: uses.into(),
            written: Written::default(),
        };
        let root = "/dev/mapper/cowflush-root / ext4 rw 0 0\n";
        let own = format!("{root}/dev/sda1 /boot/efi vfat ro 0 0\n");
        assert_eq!(outside(&[beside("")], root), "", "nobody uses it");
        assert_eq!(outside(&[beside("/home, swap")], root), "sd1 (/home, swap)");
        assert_eq!(outside(&[beside("")], &own), "sd1 (/boot/efi)", "it is mounted read-only");
        assert_eq!(outside(&[], &own), "sd1 (/boot/efi)", "it is on another disk");
        assert_eq!(outside(&[beside("/boot/efi")], &own), "sd1 (/boot/efi)");
        let other = Beside { name: "sd2".into(), ..beside("swap") };
        assert_eq!(outside(&[other], &own), "sd2 (swap), sd1 (/boot/efi)");
        let bound = format!("{root}/dev/mapper/cowflush-root /boot/grub ext4 rw 0 0\n");
        assert_eq!(outside(&[], &bound), "", "it is root's own");
        let early = listed("/dev/root / ext4 rw 0 0\n");
        assert_eq!(device_of("/swapfile", &early), Some(ROOT));
    }
}
