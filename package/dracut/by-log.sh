#!/bin/sh
# A merge that was cut short may have torn what root is known by; its flush log tells then which partition is meant,
# and has what is torn. So while root does not come the stack is built here already, and shows that name.
#
# Without systemd dracut sources this again and again while a device is missing (initqueue/settled): no exit, and names of
# our own. With systemd it is a service of its own, since dracut waits for no root then.

cowflush_stack=/dev/mapper/cowflush-root
# For pre-mount.sh: what root is called by, if the stack is there.
cowflush_sought=/run/cowflush-sought
# In seconds; no less than systemd waits for root
cowflush_patience=120

# A system that was hibernated goes on from its own memory, and must do so before the flush log is looked at.
cowflush_resumes() {
    cowflush_image=$(getarg resume=) && [ -n "$cowflush_image" ] || return 1
    case $cowflush_image in
    *=*) cowflush_image=$(blkid -l -o device -t "$cowflush_image") ;;
    esac
    if [ ! -b "$cowflush_image" ]; then
        # It may come later than the card, but not for ever.
        [ "$1" -lt 10 ]
        return
    fi
    [ "$(blkid -p -s TYPE -o value "$cowflush_image")" = swsuspend ]
}

# cowflush_by_log ROOT SECONDS: a look, after so many seconds. It fails while there is no root.
cowflush_by_log() {
    case $1 in
    LABEL=* | UUID=* | /dev/disk/by-uuid/* | /dev/disk/by-label/*) ;;
    *) return 0 ;;
    esac
    if [ -e "$cowflush_sought" ] || [ -e "$1" ]; then return 0; fi
    if cowflush_resumes "$2"; then return 1; fi
    modprobe -q loop
    modprobe -q dm-snapshot
    # Where no log knows it, nothing is done (3). What it tried without success it has said, and would say each time.
    cowflush_device=$(cowflush attach --by-log "$1")
    if [ $? = 3 ]; then return 1; fi
    # It may be the plain card, which root shows by its name then.
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
