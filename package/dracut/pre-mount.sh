#!/bin/sh
# Puts root on cowflush's stack, in a dracut initramfs with systemd or without it. Whatever goes
# wrong, root stays unchanged, and the plain card is mounted. /run/cowflush/boot and the kernel's
# log say what was done. dracut sources this: so no exit, and only names of our own.

cowflush_stack=/dev/mapper/cowflush-root
cowflush_place=/run/cowflush-try
cowflush_sought=/run/cowflush-sought
# In the initramfs, so that the real system keeps nothing of it
cowflush_units=/etc/systemd/system

# cowflush_attach ROOT TYPE OPTIONS REDIRECT: builds the stack over ROOT, and calls REDIRECT if the
# stack can be mounted in its place. It fails if ROOT itself is to be mounted.
cowflush_attach() {
    modprobe -q loop
    modprobe -q dm-snapshot
    udevadm settle --timeout=10
    if [ -e "$cowflush_sought" ]; then
        # by-log.sh has built it already: the stack shows root's name, and the card has the name
        # that its log knows.
        cowflush_card=$(cat "$cowflush_sought")
        cowflush_device=$cowflush_stack
    else
        cowflush_card=$(readlink -f "$1")
        cowflush_device=$(cowflush attach "$cowflush_card") || cowflush_device=
    fi
    if [ -n "$cowflush_device" ]; then
        # It may be the plain card; then cowflush has said why.
        [ "$cowflush_device" = "$cowflush_stack" ] || return 1
        if cowflush_mountable "$2" "$3" && "$4"; then return 0; fi
    fi
    # No device may hold the card when it is mounted, and the flush log's content must get there.
    cowflush attach --plain "$cowflush_card" >/dev/null || /usr/lib/cowflush/in-doubt.sh "$cowflush_card" $?
    # ROOT may be a link that led to the stack.
    udevadm settle --timeout=10
    return 1
}

cowflush_mountable() {
    mkdir -p "$cowflush_place"
    mount -t "${1:-auto}" -o "${2:+$2,}ro" "$cowflush_stack" "$cowflush_place" &&
        umount "$cowflush_place" && rmdir "$cowflush_place"
}

# --- With systemd: it mounts root by sysroot.mount, after another unit's check. ---

cowflush_show() { systemctl show --property="$1" --value sysroot.mount; }

# The units that check root; their names depend on what made sysroot.mount.
cowflush_checks() {
    for cowflush_unit in $(cowflush_show Requires); do
        case $cowflush_unit in
        systemd-fsck*) printf '%s\n' "$cowflush_unit" ;;
        esac
    done
}

# cowflush_change UNIT LINE...
cowflush_change() {
    mkdir -p "$cowflush_units/$1.d"
    cowflush_unit=$1
    shift
    printf '%s\n' "$@" >"$cowflush_units/$cowflush_unit.d/cowflush.conf"
}

# The jobs for both wait for us already. A job keeps its unit, so the units stay, and this changes
# what they mount and check.
cowflush_redirect_units() {
    # systemd refuses to mount a device that it does not know yet.
    cowflush_known || return 1
    cowflush_checker=/usr/lib/systemd/systemd-fsck
    [ -x $cowflush_checker ] || cowflush_checker=/lib/systemd/systemd-fsck
    for cowflush_check in $(cowflush_checks); do
        cowflush_change "$cowflush_check" "[Service]" "ExecStart=" "ExecStart=$cowflush_checker $cowflush_stack"
    done
    cowflush_change sysroot.mount "[Mount]" "What=$cowflush_stack"
    systemctl daemon-reload
    if [ "$(cowflush_show What)" = "$cowflush_stack" ]; then return 0; fi
    rm -f "$cowflush_units"/*.d/cowflush.conf
    systemctl daemon-reload
    return 1
}

cowflush_known() {
    cowflush_unit=$(systemd-escape --path --suffix=device "$cowflush_stack")
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if systemctl --quiet is-active "$cowflush_unit"; then return 0; fi
        sleep 0.5
    done
    return 1
}

cowflush_with_systemd() {
    cowflush_root=$(cowflush_show What)
    case $cowflush_root in
    /dev/*) ;;
    *) return 0 ;;
    esac
    # For as long as the mount itself would wait
    systemctl start "$(systemd-escape --path --suffix=device "$cowflush_root")" || return 0
    cowflush_attach "$cowflush_root" "$(cowflush_show Type)" "$(cowflush_show Options)" cowflush_redirect_units
}

# --- Without systemd: dracut mounts $root, and has waited for it. ---

# shellcheck disable=SC2154 # dracut's own variables
cowflush_without_systemd() {
    case $root in
    block:/dev/*) ;;
    *) return 0 ;;
    esac
    if cowflush_attach "${root#block:}" "$fstype" "$rflags" true; then root=block:$cowflush_stack; fi
}

if [ -n "${DRACUT_SYSTEMD-}" ]; then cowflush_with_systemd; else cowflush_without_systemd; fi
