#!/bin/bash
# dracut's part that makes the initramfs: puts cowflush and what it needs into it.
# shellcheck disable=SC2154 # dracut's own variables

# Also where the kernel has no device mapper: what is in the flush log must get to the card.
check() {
    require_binaries cowflush || return 1
    return 0
}

depends() {
    echo base
}

installkernel() {
    # All three, whatever this machine has loaded just now
    hostonly='' instmods loop dm_mod dm_snapshot
}

install() {
    inst_multiple blkid cat cowflush modprobe mount umount mkdir rmdir rm readlink sleep udevadm
    # The links in /dev/disk lead to the stack from the start.
    inst_rules 56-cowflush.rules
    inst_hook pre-mount 90 "$moddir/pre-mount.sh"
    if dracut_module_included systemd; then
        inst_multiple systemctl systemd-escape
        inst_simple "$moddir/pre-mount.conf" "$systemdsystemunitdir/dracut-pre-mount.service.d/cowflush.conf"
        # systemd waits for root, and dracut's own loop does not run for that alone.
        inst_script "$moddir/by-log.sh" /usr/bin/cowflush-by-log
        inst_simple "$moddir/by-log.service" "$systemdsystemunitdir/cowflush-by-log.service"
        mkdir -p "$initdir$systemdsystemunitdir/sysinit.target.wants"
        ln -sf ../cowflush-by-log.service "$initdir$systemdsystemunitdir/sysinit.target.wants/"
    else
        inst_hook initqueue/settled 90 "$moddir/by-log.sh"
    fi
    # A boot must know of a flush log on another disk: that may come later than root.
    mkdir -p "$initdir/etc"
    cowflush log --word >"$initdir/etc/cowflush.words" 2>/dev/null
    name_the_card
}

# An image that is made for this machine alone may hold its own root=. While root is on the
# stack that is the stack's name, and the boot would wait for it before there is one.
name_the_card() {
    local conf uuid stack=/dev/mapper/cowflush-root
    uuid=$(blkid -s UUID -o value "$stack") || return 0
    for conf in "$initdir"/etc/cmdline.d/*.conf; do
        [[ -f $conf ]] && sed -i "s|root=$stack\b|root=UUID=$uuid|" "$conf"
    done
    return 0
}
