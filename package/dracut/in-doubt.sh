#!/bin/sh
# in-doubt.sh DEVICE CODE: in an initramfs whose cowflush ended with CODE, without an answer. Whatever is written to root
# then makes the flushes useless that may be in a flush log. So if there may be one the kernel is told to refuse writes to
# DEVICE, which is said, and the exit code is 0: root must be mounted read-only.

# How the flush log is named; the kernel command line wins.
named=
set -f
# shellcheck disable=SC2013 # words are meant
for word in $(cat /etc/cowflush.words /proc/cmdline 2>/dev/null); do
    case $word in cowflush.log=*) named=${word#cowflush.log=} ;; esac
done
set +f

# Whether a flush log may be there. It begins with its name, in the first of its chunks and in the last.
may_be() {
    case $named in
    none) return 1 ;;
    "" | auto) ;;
    *) return 0 ;;
    esac
    for node in /sys/class/block/*; do
        case ${node##*/} in
        dm-* | fd* | loop* | ram* | sr* | zram*) continue ;;
        esac
        device=/dev/${node##*/}
        # As the kernel names it: the folder of /dev/cciss/c0d0p1 is called cciss!c0d0p1.
        while IFS='=' read -r key value; do
            if [ "$key" = DEVNAME ]; then device=/dev/$value; fi
        done <"$node/uevent"
        for chunk in 0 $(($(cat "$node/size") / 8 - 1)); do
            found=$(dd if="$device" bs=4096 skip="$chunk" count=1 2>/dev/null | dd bs=8 count=1 2>/dev/null)
            if [ "$found" = cowflLOG ]; then return 0; fi
        done
    done
    return 1
}

# Root is nothing that it could put on the stack, and has no flush log.
if [ "$2" = 3 ] || ! may_be; then exit 1; fi
blockdev --setro "$1"
# shellcheck disable=SC2116 # one line of the kernel's log, at once
said=$(echo "cowflush: ended with $2 and did not say what is in the flush log, so root is read-only, and writes to $1 are refused. To go on without the log's flushes: reboot with cowflush.log=none.")
echo "<3>$said" >/dev/kmsg
exit 0
