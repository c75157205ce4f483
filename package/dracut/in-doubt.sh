#!/bin/sh
# in-doubt.sh DEVICE CODE: in an initramfs whose cowflush exited with CODE and without an answer.
# Any write to root then makes the flushes useless that may be in a flush log. So if there may be
# one this makes the kernel refuse writes to DEVICE, reports it, and exits with 0: root must be
# mounted read-only.

# The flush log's name; the kernel command line wins.
named=
set -f
# shellcheck disable=SC2013 # words are meant
for word in $(cat /etc/cowflush.words /proc/cmdline 2>/dev/null); do
    case $word in cowflush.log=*) named=${word#cowflush.log=} ;; esac
done
set +f

# Whether there may be a flush log. Its first and its last chunk begin with its magic.
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
        # By the kernel's name: the folder of /dev/cciss/c0d0p1 is called cciss!c0d0p1.
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

# cowflush can't put this root on the stack, and it has no flush log.
if [ "$2" = 3 ] || ! may_be; then exit 1; fi
blockdev --setro "$1"
# shellcheck disable=SC2116 # one line of the kernel's log, at once
said=$(echo "cowflush: ended with $2 and did not say what is in the flush log, so root is read-only, and writes to $1 are refused. To go on without the log's flushes: reboot with cowflush.log=none.")
echo "<3>$said" >/dev/kmsg
exit 0
