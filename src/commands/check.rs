//! `cowflush check`: what this kernel, memory and card can do.

use argh::FromArgs;

use crate::commands::asked::{config, options};
use crate::commands::item::{Item, State};
use crate::commands::{advice, log, status as shown};
use crate::error::{Error, Exit, Result};
use crate::flush::flushlog::Log;
use crate::flush::{cowfile, status};
use crate::notes::{self, hold, run_dir};
use crate::output::put;
use crate::pure::config::Config;
use crate::pure::cow::size;
use crate::pure::disk::reference::Reference;
use crate::pure::dm::Target;
use crate::pure::report::json::Object;
use crate::pure::units::DevNo;
use crate::sys::dm::Control;
use crate::sys::swap::table;
use crate::sys::{block, cgroups, devices, loopdev, memory, users};

/// Say what this kernel, memory and card can do, and what to do about what is missing.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Arguments {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Checks everything; exits with `Missing` when cowflush could not work here.
pub fn run(json: bool) -> Result<Exit> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("check this machine", "only root may ask device-mapper")
            .advise("Run this as root."));
    }
    let control = Control::open();
    let mut items = device_mapper(&control);
    items.push(loop_devices());
    items.push(tmpfs());
    let config = config();
    items.push(ram(&config));
    items.push(memory_limits(control.as_ref().ok()));
    items.extend(card(control.as_ref().ok()));
    items.extend(swap(control.as_ref().ok()));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    items.extend(advice::items(&mounts, config.prune));
    items.extend(status::restless().map(|(_, _, found)| {
        Item::note(
            "changes",
            found,
            "If it need not be kept so soon, leave it out, by its path with a ! before it behind the others: \
             urgent=/etc,!/etc/FILE; the same in merge-on.",
        )
    }));
    let (complete, exit) = verdict(&items);
    if json {
        let object =
            Object::new().flag("complete", complete).list("items", items.iter().map(Item::to_json));
        put(std::io::stdout(), &format!("{}\n", object.end()));
    } else {
        put(std::io::stdout(), &to_text(&items, complete));
    }
    Ok(exit)
}

/// Whether cowflush can work here, and what the caller is told.
fn verdict(items: &[Item]) -> (bool, Exit) {
    let complete = items.iter().all(|item| item.state != State::Missing);
    (complete, if complete { Exit::Done } else { Exit::Missing })
}

fn to_text(items: &[Item], complete: bool) -> String {
    let mut text = String::new();
    for Item { name, state, found, advice } in items {
        text.push_str(&format!("{:<8} {name:<16} {found}\n", state.word()));
        if !advice.is_empty() {
            text.push_str(&format!("{:25} -> {advice}\n", ""));
        }
    }
    text.push_str(if complete {
        "cowflush can work here.\n"
    } else {
        "cowflush cannot work here yet.\n"
    });
    text
}

fn device_mapper(control: &Result<Control>) -> Vec<Item> {
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

fn loop_devices() -> Item {
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

fn tmpfs() -> Item {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_ascii_whitespace().last() == Some("tmpfs")) {
        Item::found("tmpfs", "for the COW")
    } else {
        Item::missing("tmpfs", "the kernel has no tmpfs", "Build the kernel with CONFIG_TMPFS.")
    }
}

fn ram(config: &Config) -> Item {
    let memory = match memory::info() {
        Ok(memory) => memory,
        Err(error) => return Item::missing("memory", error.to_string(), "Mount /proc."),
    };
    let limit = config.size.limit(memory.total, &memory.room(config.spill.is_some()));
    let found =
        format!("{} of RAM, {} available; a COW of {limit}", memory.total, memory.available);
    if limit <= size::SMALLEST {
        Item::note("memory", found, "That fills up fast. Free memory, or flush often.")
    } else {
        Item::found("memory", found)
    }
}

/// Those of cgroups: containers, services.
fn memory_limits(control: Option<&Control>) -> Item {
    const NAME: &str = "memory limits";
    let root = control.and_then(|control| control.stack().ok()).and_then(|stack| stack.root);
    let cow = match root.and_then(|root| root.target()) {
        Some(Target::Snapshot { cow, .. }) => Some(cow),
        _ => None,
    };
    if cgroups::count_loop_pages() && cow.is_some_and(|cow| !cowfile::is_nobodys(cow)) {
        Item::note(
            NAME,
            "the COW counts against those of whoever writes to root",
            "A flush makes a COW that does not; if this stays, the kernel log (dmesg) has the reason, and \
             cgroup_disable=memory on the kernel command line switches all of them off.",
        )
    } else {
        Item::found(NAME, "the COW counts against nobody's")
    }
}

fn card(control: Option<&Control>) -> Vec<Item> {
    let stack = control.and_then(|control| control.stack().ok()).unwrap_or_default();
    let number = match (stack.card(), options().root) {
        (Some((card, _)), _) => Some(card),
        (None, Some(reference)) => devices::find(&reference).first().map(|card| card.number),
        (None, None) => None,
    };
    let Some(number) = number else {
        return vec![Item::missing(
            "card",
            "root= on the kernel command line leads to no block device",
            "Give root= as a device, UUID=, LABEL=, PARTUUID= or PARTLABEL=.",
        )];
    };
    let mut items = vec![filesystem(number), write_cache(number)];
    let log = stack.log_partition();
    if log.into_iter().chain([number]).any(block::is_write_protected) {
        items.push(Item::note(
            "card",
            shown::write_protected(&block::name(number)),
            "A card has a switch for that, an adapter too; or somebody has told the kernel so (`blockdev --setrw` ends that).",
        ));
    }
    items.extend(users::beside(number, log).iter().map(|partition| {
        let found = shown::beside(partition);
        if partition.written.sectors > 0 {
            Item::note(
                "beside root",
                found,
                "What is written there wears the card as ever. Only root is on the stack.",
            )
        } else {
            Item::found("beside root", found)
        }
    }));
    let note = run_dir::read(run_dir::BOOT).unwrap_or_default();
    let (kept, named) = (notes::value(&note, "log_kept"), notes::value(&note, "log_named"));
    items.push(match (stack.log_partition(), stack.root) {
        (Some(log), _) if log::is_far(&stack, log) && named.is_empty() => Item::note(
            "flush log",
            format!("{}, in use, on another disk than root; no boot waits for it", block::name(log)),
            "Put what `cowflush log --word` prints on the kernel command line, or make the initramfs anew.",
        ),
        (Some(log), _) => match Log::header_at(&block::path(log)) {
            Ok(_) => Item::found("flush log", format!("{}, in use", block::name(log))),
            Err(error) => Item::note("flush log", error.to_string(), "Nothing is flushed until it can be used."),
        },
        (None, Some(_)) if !kept.is_empty() => Item::note(
            "flush log",
            kept.to_owned(),
            if hold::is_for_log() { "Nothing is flushed until you decide." } else { "" },
        ),
        (None, Some(_)) => Item::note(
            "flush log",
            "none: a power cut during a flush can tear the filesystem",
            "`cowflush log --help` tells how to add one.",
        ),
        (None, None) => Item::note(
            "stack",
            "root is not on one now",
            "Boot with the cowflush initramfs and without cowflush=off.",
        ),
    });
    items
}

/// Swap that ends on root, now or when the system begins.
fn swap(control: Option<&Control>) -> Vec<Item> {
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

fn filesystem(card: DevNo) -> Item {
    let name = block::name(card);
    let device = devices::find(&Reference::Number(card)).pop();
    if let Some(why) = device.as_ref().and_then(devices::beyond_the_stack) {
        return Item::missing(
            "card",
            format!("{name}: {why}"),
            "Root must be all on one partition of a card, or on one disk: an ext4 journal of its own (tune2fs -O \
             ^has_journal, then -j), no md, LVM or LUKS. A boot uses the plain card.",
        );
    }
    let Some(found) = device.and_then(|device| device.filesystem) else {
        return Item::note(
            "card",
            format!("{name} with a filesystem that cowflush does not know"),
            "It will be tried with every type the kernel has; rootfstype= says which.",
        );
    };
    let size = block::size(card).unwrap_or_default().bytes();
    let text = format!("{name}, {} of {size}", found.kind);
    if found.size.is_some_and(|claimed| claimed > size) {
        Item::missing(
            "card",
            format!("{text}, but the filesystem is larger than the partition"),
            "Write the image to the card again, to a partition that is large enough.",
        )
    } else if !found.journal {
        Item::note(
            "card",
            format!("{text} without a journal"),
            "A flush freezes the filesystem, but ext2 with open deleted files is not clean then; \
             tune2fs -j adds a journal.",
        )
    } else {
        Item::found("card", text)
    }
}

/// A card with a write cache gets a FLUSH where something must be durable.
fn write_cache(card: DevNo) -> Item {
    let disk = block::sysfs(card).join("../queue/write_cache");
    let own = block::sysfs(card).join("queue/write_cache");
    let text = std::fs::read_to_string(own).or_else(|_| std::fs::read_to_string(disk));
    match text.as_deref().map(str::trim) {
        Ok("write back") => Item::found("write cache", "the card has one; it is flushed"),
        Ok(_) => Item::found("write cache", "the card reports none"),
        Err(_) => Item::note("write cache", "this kernel does not tell", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_that_is_missing_is_enough_and_notes_are_none() {
        let items = |states: &[State]| -> Vec<Item> {
            let item = |state: &State| Item { state: *state, ..Item::found("x", "y") };
            states.iter().map(item).collect()
        };
        for states in [&[][..], &[State::Found], &[State::Found, State::Note, State::Note]] {
            assert_eq!(verdict(&items(states)), (true, Exit::Done));
        }
        for place in 0..3 {
            let mut states = [State::Found, State::Note, State::Found];
            states[place] = State::Missing;
            let items = items(&states);
            assert_eq!(verdict(&items), (false, Exit::Missing));
            assert!(
                to_text(&items, false).contains("missing")
                    && to_text(&items, false).contains("cannot work")
            );
        }
    }

    #[test]
    fn a_kernel_without_device_mapper_is_not_enough() {
        let error = || Error::new("open /dev/mapper/control", "No such file or directory");
        assert_eq!(verdict(&device_mapper(&Err(error()))), (false, Exit::Missing));
    }
}
