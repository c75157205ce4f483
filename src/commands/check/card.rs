//! What `cowflush check` says of the card, of what else is on it and of the flush log.

use super::item::Item;
use crate::commands::asked::options;
use crate::commands::log::word::is_far;
use crate::commands::status::text as shown;
use crate::flush::flushlog::FlushLog;
use crate::notes::{self, hold, run_dir};
use crate::pure::disk::reference::Reference;
use crate::pure::units::DevNo;
use crate::sys::dm::Control;
use crate::sys::{block, devices, users};

pub fn items(control: Option<&Control>) -> Vec<Item> {
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
            "A card has a switch for that, an adapter too; or a program has told the kernel so (`blockdev --setrw` ends that).",
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
        (Some(log), _) if is_far(&stack, log) && named.is_empty() => Item::note(
            "flush log",
            format!("{}, in use, on another disk than root; no boot waits for it", block::name(log)),
            "Put what `cowflush log --word` prints on the kernel command line, or make the initramfs anew.",
        ),
        (Some(log), _) => match FlushLog::header_at(&block::path(log)) {
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
