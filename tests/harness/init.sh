#!/bin/busybox sh
# shellcheck shell=dash
# PID 1 of the test root. It runs after cowflush's init, which moves its mounts over, and also when
# the kernel starts it directly; so it mounts only what is missing. It never exits, and the shell
# reaps the processes that it inherits.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux

[ -c /dev/ttyS1 ] || mount -t devtmpfs dev /dev
[ -e /proc/mounts ] || mount -t proc proc /proc
[ -d /sys/kernel ] || mount -t sysfs sys /sys
grep -q ' /run ' /proc/mounts || mount -t tmpfs -o mode=755 run /run

exec </dev/console >/dev/console 2>&1
echo "vm: boot complete"
# Once more with the kernel's time, to show how long the boot took; not on the console.
echo "<7>vm: boot complete" >/dev/kmsg

# In the foreground: a program that a shell starts with `&` ignores Ctrl-C for ever.
while :; do
    if grep -qw vm.shell /proc/cmdline; then
        setsid -c sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
    else
        /sbin/vm-agent
        echo "vm: the agent ended with $?, starting it again"
        sleep 1
    fi
done
