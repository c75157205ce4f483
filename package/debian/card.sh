# shellcheck shell=sh
# The card under root on the stack. A flush changes the layers above cowflush-origin, but neither
# that nor what is below it.

# Prints the folder in /sys of the partition; fails where there is no stack.
cowflush_card_in_sys() {
    for cowflush_layer in /sys/block/dm-*; do
        if grep -qsx cowflush-origin "$cowflush_layer/dm/name"; then
            for cowflush_below in "$cowflush_layer"/slaves/*; do
                if [ -e "$cowflush_below" ]; then
                    printf '%s\n' "$cowflush_below"
                    return 0
                fi
            done
        fi
    done
    return 1
}

# Prints its node by the kernel's name: the folder of /dev/cciss/c0d0p1 is called cciss!c0d0p1.
cowflush_card() {
    cowflush_below=$(cowflush_card_in_sys) || return 1
    cowflush_name=$(sed -n 's/^DEVNAME=//p' "$cowflush_below/uevent") || return 1
    [ -n "$cowflush_name" ] && printf '/dev/%s\n' "$cowflush_name"
}
