#!/bin/sh
# An interrupted merge may have torn root's UUID; its flush log then tells which partition is meant,
# and holds what is torn. So while root does not appear this builds the stack already, which shows
# that name.
#
# Without systemd dracut sources this again and again while a device is missing (initqueue/settled):
# so no exit, and only names of our own. With systemd it is a service of its own, since dracut then
# does not wait for root.

cowflush_stack=/dev/mapper/cowflush-root
# For pre-mount.sh: root's name, if the stack is there
cowflush_sought=/run/cowflush-sought
# In seconds; no less than systemd waits for root
cowflush_patience=120

# A hibernated system resumes from its own memory, and must do so before cowflush reads the flush
# log.
cowflush_resumes() {
    cowflush_image=$(getarg resume=) && [ -n "$cowflush_image" ] || return 1
    case $cowflush_image in
    *=*) cowflush_image=$(blkid -l -o device -t "$cowflush_image") ;;
    esac
    if [ ! -b "$cowflush_image" ]; then
        # It may appear after the card, but not for ever.
        [ "$1" -lt 10 ]
        return
    fi
    [ "$(blkid -p -s TYPE -o value "$cowflush_image")" = swsuspend ]
}

# cowflush_by_log ROOT SECONDS: one try, after so many seconds. It fails while there is no root.
cowflush_by_log() {
    case $1 in
    LABEL=* | UUID=* | /dev/disk/by-uuid/* | /dev/disk/by-label/*) ;;
    *) return 0 ;;
    esac
    if [ -e "$cowflush_sought" ] || [ -e "$1" ]; then return 0; fi
    if cowflush_resumes "$2"; then return 1; fi
    modprobe -q loop
    modprobe -q dm-snapshot
    # If no log knows it, nothing happens (3). A failed try was reported, and would be each time.
    cowflush_device=$(cowflush attach --by-log "$1")
    if [ $? = 3 ]; then return 1; fi
    # It may be the plain card, which then shows root's name.
    if [ "$cowflush_device" = "$cowflush_stack" ]; then echo "$1" >"$cowflush_sought"; fi
    udevadm settle --timeout=10
    return 0
}

if [ "${1-}" = service ]; then
    # shellcheck disable=SC1091 # dracut's own, for getarg
    . /lib/dracut-lib.sh
    cowflush_root=$(systemctl show --property=What --value sysroot.mount)
    cowflush_waited=0
    until cowflush_by_log "$cowflush_root" $cowflush_waited || [ $cowflush_waited -ge $cowflush_patience ]; do
        sleep 1
        cowflush_waited=$((cowflush_waited + 1))
    done
else
    # shellcheck disable=SC2154 # dracut's own variables: two rounds of its loop are a second
    cowflush_by_log "${root#block:}" $((main_loop / 2)) || :
fi
