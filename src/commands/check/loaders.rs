//! What `cowflush check` says of other boot loaders' tools than GRUB's, as their sources have it: which would write the stack's
//! name, where the boot loader needs the card's, or write to RAM what that reads from the card.

use super::item::Item;
use crate::pure::stack::Name;
use crate::sys::swap::rows;

const NAME: &str = "boot loader";

/// `read` gives a file's text if the file is there, `has` whether it is.
pub fn items(read: &dyn Fn(&str) -> Option<String>, has: &dyn Fn(&str) -> bool) -> Vec<Item> {
    let mut items = Vec::new();
    if has("/etc/kernel/postinst.d/z50-raspi-firmware")
        && !sets(&read("/etc/default/raspi-firmware").unwrap_or_default(), "ROOTPART=")
    {
        items.push(Item::note(
            NAME,
            "raspi-firmware names what / is mounted from, which is the stack",
            "Set ROOTPART, such as LABEL=RASPIROOT, in /etc/default/raspi-firmware.",
        ));
    }
    if names_the_stack(&read("/etc/fstab").unwrap_or_default()) {
        for tool in ["flash-kernel", "u-boot-update"] {
            if has(&format!("/usr/sbin/{tool}")) {
                items.push(Item::note(
                    NAME,
                    format!("{tool} takes root from /etc/fstab, which names the stack"),
                    "Name root there by its UUID= or LABEL=.",
                ));
            }
        }
    }
    if has("/usr/bin/extlinux") {
        items.push(in_ram("extlinux", "root"));
    }
    let config = read("/etc/fw_env.config").unwrap_or_default();
    if let Some(file) = on_root(&config).filter(|_| has("/usr/bin/fw_setenv")) {
        items.push(in_ram("fw_setenv", file));
    }
    items
}

/// Of a tool that writes what a boot loader reads: that reads the plain card, and no flush log.
fn in_ram(tool: &str, file: &str) -> Item {
    Item::note(
        NAME,
        format!("{tool} writes to {file}, which is in RAM"),
        "After each use of it the power must stay on until `cowflush merge` is done.",
    )
}

/// Whether a file of shell variables sets this one, which ends with `=`.
fn sets(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.trim_start().strip_prefix(name).is_some_and(|value| {
            !value.trim_matches(|c: char| c == '"' || c == '\'' || c.is_whitespace()).is_empty()
        })
    })
}

fn names_the_stack(fstab: &str) -> bool {
    let stack = format!("/dev/mapper/{}", Name::Root.text());
    rows(fstab.as_bytes()).iter().any(|[device, place, ..]| *device == stack && place == "/")
}

/// Where U-Boot's environment is, if that is a file and no device: a line names it, or UBI's volume, before its place.
fn on_root(config: &str) -> Option<&str> {
    let mut names = config.lines().filter_map(|line| line.split_ascii_whitespace().next());
    names.find(|name| name.starts_with('/') && !name.starts_with("/dev/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &str| {
            files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        };
        items(&read, &|path| read(path).is_some()).into_iter().map(|item| item.found).collect()
    }

    const RASPI: (&str, &str) = ("/etc/kernel/postinst.d/z50-raspi-firmware", "#!/bin/sh\n");

    #[test]
    fn a_machine_with_grub_alone_is_told_nothing() {
        assert!(found(&[]).is_empty());
        assert!(found(&[("/etc/fstab", "/dev/mapper/cowflush-root / ext4 rw 0 1\n")]).is_empty());
    }

    #[test]
    fn raspi_firmware_is_named_until_root_is_set_for_it() {
        let wanted = ["raspi-firmware names what / is mounted from, which is the stack"];
        let default = |text| found(&[RASPI, ("/etc/default/raspi-firmware", text)]);
        assert_eq!(found(&[RASPI]), wanted);
        for text in ["", "#ROOTPART=LABEL=x\n", "ROOTPART=\n", "ROOTPART=\"\"\n", "NOROOTPART=a\n"]
        {
            assert_eq!(default(text), wanted, "{text:?}");
        }
        for text in ["CMA=64M\nROOTPART=LABEL=RASPIROOT\n", "ROOTPART=\"/dev/mmcblk0p2\""] {
            assert!(default(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn what_takes_root_from_fstab_is_named_where_that_names_the_stack() {
        let tools = [("/usr/sbin/flash-kernel", ""), ("/usr/sbin/u-boot-update", "")];
        let with = |fstab| found(&[tools[0], tools[1], ("/etc/fstab", fstab)]);
        assert!(
            with("UUID=1 / ext4 rw 0 1\n/dev/mapper/cowflush-root /mnt ext4 rw 0 0\n").is_empty()
        );
        assert!(with("# /dev/mapper/cowflush-root / ext4\nLABEL=x / ext4\n").is_empty());
        assert_eq!(
            with("\n/dev/mapper/cowflush-root\t/ ext4 rw 0 1\n"),
            [
                "flash-kernel takes root from /etc/fstab, which names the stack",
                "u-boot-update takes root from /etc/fstab, which names the stack"
            ]
        );
    }

    #[test]
    fn what_writes_to_root_what_a_boot_loader_reads_is_named() {
        let setenv = |config| found(&[("/usr/bin/fw_setenv", ""), ("/etc/fw_env.config", config)]);
        assert!(setenv("# /boot/x 0 1\n/dev/mmcblk0 0x88000 0x20000\n0 1\n").is_empty());
        assert!(found(&[("/etc/fw_env.config", "/boot/uboot.env 0 0x4000\n")]).is_empty());
        assert_eq!(
            setenv("# a file\n/boot/uboot.env 0x0 0x4000\n"),
            ["fw_setenv writes to /boot/uboot.env, which is in RAM"]
        );
        assert_eq!(
            found(&[("/usr/bin/extlinux", "")]),
            ["extlinux writes to root, which is in RAM"]
        );
    }
}
