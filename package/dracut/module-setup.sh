#!/bin/bash
# dracut's part that makes the initramfs: puts cowflush and what it needs into it.
# shellcheck disable=SC2154 # dracut's own variables

# Even if the kernel has no device mapper: the flush log's content must get to the card.
check() {
    return 0
}

depends() {
    echo base
}

installkernel() {
    # All three, whatever this machine has loaded now
    hostonly='' instmods loop dm_mod dm_snapshot
}

# A boot that has the script but not the program can't tell what is in the flush log. dracut goes on
# when a module fails; so this ends all of dracut, and the old initramfs stays.
install() {
    put_in && return
    dfatal "cowflush can't be put into the initramfs, so none is made."
    exit 1
}

put_in() {
    inst_multiple blkid cowflush modprobe mount umount mkdir rmdir rm readlink sleep udevadm blockdev cat dd || return
    # The links in /dev/disk lead to the stack from the start. inst_rules does not fail if a rule is
    # missing.
    inst_rules 56-cowflush.rules
    [[ -e $initdir$udevdir/rules.d/56-cowflush.rules || -e $initdir/etc/udev/rules.d/56-cowflush.rules ]] || return
    inst_hook pre-mount 90 "$moddir/pre-mount.sh" || return
    inst_simple "$moddir/in-doubt.sh" /usr/lib/cowflush/in-doubt.sh || return
    if dracut_module_included systemd; then
        inst_multiple systemctl systemd-escape || return
        inst_simple "$moddir/pre-mount.conf" "$systemdsystemunitdir/dracut-pre-mount.service.d/cowflush.conf" || return
        # systemd waits for root, and dracut's own loop does not run only for that.
        inst_script "$moddir/by-log.sh" /usr/bin/cowflush-by-log || return
        inst_simple "$moddir/by-log.service" "$systemdsystemunitdir/cowflush-by-log.service" || return
        mkdir -p "$initdir$systemdsystemunitdir/sysinit.target.wants" || return
        ln -sf ../cowflush-by-log.service "$initdir$systemdsystemunitdir/sysinit.target.wants/" || return
    else
        inst_hook initqueue/settled 90 "$moddir/by-log.sh" || return
    fi
    mkdir -p "$initdir/etc" && note_the_log && name_the_card
}

# A boot must know of a flush log on another disk, which may appear after root. But an image must
# not name the log of the machine that builds it. Where there is no stack, as before the first boot
# with cowflush, the log may be unknown.
note_the_log() {
    local word
    ischroot 2>/dev/null && return
    if ! word=$(cowflush log --word 2>&1); then
        if [[ -e /dev/mapper/cowflush-root ]]; then
            derror "$word"
            return 1
        fi
        word=
    fi
    printf '%s\n' "$word" >"$initdir/etc/cowflush.words"
}

# An initramfs made only for this machine may contain root=. While root is on the stack that would
# be the stack's name, and the boot would wait for it before it exists.
name_the_card() {
    local conf uuid stack=/dev/mapper/cowflush-root
    uuid=$(blkid -s UUID -o value "$stack") || return 0
    for conf in "$initdir"/etc/cmdline.d/*.conf; do
        [[ -f $conf ]] && sed -i "s|root=$stack\b|root=UUID=$uuid|" "$conf"
    done
    return 0
}
