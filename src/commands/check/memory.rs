//! What `cowflush check` says of memory, its limits and swap.

use super::item::Item;
use crate::commands::status::text as shown;
use crate::flush::cow_device;
use crate::notes;
use crate::pure::config::Config;
use crate::pure::dm::Target;
use crate::pure::policy::cow_memory;
use crate::sys::dm::Control;
use crate::sys::swap::table;
use crate::sys::{cgroups, memory, users};

pub fn ram(config: &Config) -> Item {
    let memory = match memory::info() {
        Ok(memory) => memory,
        Err(error) => return Item::missing("memory", error.to_string(), "Mount /proc."),
    };
    let limit = config.size.limit(memory.total, &memory.room(config.spill.is_some()));
    let found =
        format!("{} of RAM, {} available; a COW of {limit}", memory.total, memory.available);
    if limit <= cow_memory::SMALLEST {
        Item::note("memory", found, "That fills up fast. Free memory, or flush often.")
    } else {
        Item::found("memory", found)
    }
}

/// Memory limits of cgroups: containers, services.
pub fn limits(control: Option<&Control>) -> Item {
    const NAME: &str = "memory limits";
    let root = control.and_then(|control| control.stack().ok()).and_then(|stack| stack.root);
    let cow = match root.and_then(|root| root.target()) {
        Some(Target::Snapshot { cow, .. }) => Some(cow),
        _ => None,
    };
    if cgroups::count_loop_pages() && cow.is_some_and(|cow| !cow_device::is_nobodys(cow)) {
        Item::note(
            NAME,
            "the COW counts against those of the processes that write to root",
            "A flush makes a COW that does not; if this stays, the kernel log (dmesg) has the reason, and \
             cgroup_disable=memory on the kernel command line switches all of them off.",
        )
    } else {
        Item::found(NAME, "the COW counts against no process's")
    }
}

/// Swap that ends on root, now or from the next boot on.
pub fn swap(control: Option<&Control>) -> Vec<Item> {
    const ADVICE: &str = "While writes stay in RAM the daemon gives it up. Take it out of /etc/fstab, or switch off the \
                          program that makes it; zram and a partition are fine.";
    let stack = control.and_then(|control| control.stack().ok()).unwrap_or_default();
    let mounts = users::mounts();
    let root = stack.root.map(|root| root.number);
    let Some(root) = root.or_else(|| users::device_of("/", &mounts)) else {
        return Vec::new();
    };
    let in_use = notes::swaps::all_swap_on(root);
    let fstab = users::swap_in(table("/etc/fstab"), &mounts, root);
    let idle = fstab.filter(|path| in_use.iter().all(|area| area.path != *path));
    let idle = idle.map(|path| format!("{path} of /etc/fstab is on root"));
    let items = in_use.iter().map(shown::swap).chain(idle);
    items.map(|found| Item::note("swap", found, ADVICE)).collect()
}
