#!/bin/sh
# procd mounts /dev anew, before and after preinit. `early` has the names in /sys, and no folders;
# later the names are the kernel's own, such as /dev/mapper/control.
fresh_dev() {
    ! grep -q ' /dev ' /proc/mounts || umount -l /dev
    mount -t tmpfs -o nosuid,mode=755,size=512K tmpfs /dev
    for class in block:b char:c; do
        for uevent in /sys/dev/"${class%:*}"/*/uevent; do
            MAJOR='' MINOR='' DEVNAME=''
            # shellcheck disable=SC2034 # the eval reads it
            while IFS='=' read -r key value; do
                case $key in MAJOR | MINOR | DEVNAME) eval "$key=\$value" ;; esac
            done <"$uevent"
            [ -n "$DEVNAME" ] || continue
            if [ "${1-}" = early ]; then DEVNAME=$(basename "$(readlink -f "${uevent%/uevent}")"); fi
            case $DEVNAME in */*) mkdir -p "/dev/${DEVNAME%/*}" ;; esac
            mknod "/dev/$DEVNAME" "${class#*:}" "$MAJOR" "$MINOR"
        done
    done
    exec </dev/console >/dev/console 2>&1
}
