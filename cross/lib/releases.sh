# Which release of Debian has which kernel: the oldest that the tests boot, a later one, and the newest.
# Each is fetched from there whatever release this machine is. Source it after common.sh.
# shellcheck shell=bash

# release_of KERNEL: the release that has the kernel 6.1, 6.12 or newest.
release_of() {
    case $1 in
    6.1) echo bookworm ;;
    6.12) echo trixie ;;
    newest) echo sid ;;
    *) die "no kernel \"$1\": 6.1, 6.12 and newest are described in cross/lib/releases.sh" ;;
    esac
}
