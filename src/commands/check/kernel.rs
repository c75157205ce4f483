//! What `cowflush check` says of the kernel.

use super::item::Item;
use crate::error::Result;
use crate::sys::dm::Control;
use crate::sys::loopdev;

pub fn device_mapper(control: &Result<Control>) -> Vec<Item> {
    const ADVICE: &str = "Build the kernel with CONFIG_BLK_DEV_DM and CONFIG_DM_SNAPSHOT, or load \
                          the modules dm-mod and dm-snapshot.";
    let control = match control {
        Ok(control) => control,
        Err(error) => return vec![Item::missing("device-mapper", error.to_string(), ADVICE)],
    };
    let version = |[major, minor, patch]: [u32; 3]| format!("version {major}.{minor}.{patch}");
    let mut items = vec![match control.version() {
        Ok(found) => Item::found("device-mapper", version(found)),
        Err(error) => Item::missing("device-mapper", error.to_string(), ADVICE),
    }];
    for target in ["linear", "snapshot", "snapshot-merge"] {
        items.push(match control.target_version(target) {
            Ok(Some(found)) => Item::found(target, version(found)),
            Ok(None) => Item::missing(target, "the kernel has no such target now", ADVICE),
            Err(error) => Item::missing(target, error.to_string(), ADVICE),
        });
    }
    items
}

pub fn loop_devices() -> Item {
    match loopdev::has_configure() {
        Ok(true) => Item::found("loop devices", "with LOOP_CONFIGURE"),
        Ok(false) => {
            Item::found("loop devices", "without LOOP_CONFIGURE; two older requests do the same")
        }
        Err(error) => Item::missing(
            "loop devices",
            error.to_string(),
            "Build the kernel with CONFIG_BLK_DEV_LOOP, or load the module loop.",
        ),
    }
}

pub fn tmpfs() -> Item {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_ascii_whitespace().last() == Some("tmpfs")) {
        Item::found("tmpfs", "for the COW")
    } else {
        Item::missing("tmpfs", "the kernel has no tmpfs", "Build the kernel with CONFIG_TMPFS.")
    }
}
