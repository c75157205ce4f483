#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need and this machine lacks, and those
# named besides: a group of them below, or packages. Says what it installs, and nothing when all
# are there.
#
#   cross/deps.sh [GROUP|PACKAGE...]         e.g. lint, or python3-matplotlib
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

# What the machine must be is said at once, and not after half an hour by a compiler.
# shellcheck source=/dev/null
release=$(. "${OS_RELEASE:-/etc/os-release}" 2>/dev/null && echo "${PRETTY_NAME-}, ${VERSION_CODENAME-}") || release="an unknown system, "
case "$(uname -m) ${release##*, }" in
"x86_64 bookworm" | "x86_64 trixie") ;;
*)
    die "the build is made for Debian 12 or 13 on x86-64, and this is ${release%,*} on $(uname -m). \
It installs Debian's packages (Rust as rustc-web, gcc with -m32, qemu-system-x86, e2fsprogs, python3-pytest and more, \
see $0) and takes musl, busybox and the kernels from Debian's archive. A chroot or container with Debian 12 will do."
    ;;
esac

packages=(
    # compilers: C for the kernels, busybox and sqlite, Rust with the source of its std
    build-essential bc bison flex cpio xz-utils zstd
    # sqlite's sources are made with it
    tcl
    rustc-web cargo-web rust-web-src ca-certificates
    # machines to boot, cards to put into them, tests
    qemu-system-x86 e2fsprogs fdisk gdisk
    python3 python3-pytest python3-pytest-xdist
    # images of cards
    grub-common grub-pc-bin mtools fakeroot
    # boot loaders and root filesystems that tests make images of
    syslinux squashfs-tools
)
# checks of the sources
lint=(rustfmt-web rust-web-clippy shellcheck python3-pip git)
# Debian's package, and Debian systems to install it in; who isn't root gets a range of users for those
debian=(mmdebstrap apt-utils lintian)
if [ "$(id -u)" != 0 ]; then debian+=(uidmap); fi

for word in "$@"; do
    case $word in
    lint) packages+=("${lint[@]}") ;;
    debian) packages+=("${debian[@]}") ;;
    *) packages+=("$word") ;;
    esac
done

# The systems are made as a user by way of a range of users of its own: that it has none is said now, and not by
# mmdebstrap after all else was built.
if [ "$(id -u)" != 0 ] && [[ " $* " = *" debian "* ]]; then
    for file in /etc/subuid /etc/subgid; do
        grep -q "^\($(id -un)\|$(id -u)\):" "${COWFLUSH_SUBIDS:-$file}" 2>/dev/null ||
            die "the user $(id -un) has no range in $file, and the Debian systems for the tests need one: run \
\"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)\", or all as root"
    done
    [ "$(cat "${COWFLUSH_USERNS:-/proc/sys/kernel/unprivileged_userns_clone}" 2>/dev/null || echo 1)" != 0 ] ||
        die "this machine lets no user make user namespaces, and the Debian systems for the tests need them: run \
\"sudo sysctl kernel.unprivileged_userns_clone=1\", or all as root"
fi

# Not one dpkg-query for all: it fails as a whole when it doesn't know one.
missing=()
for package in "${packages[@]}"; do
    # shellcheck disable=SC2016 # dpkg-query's own variable
    status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || status=unknown
    if [ "$status" != installed ]; then missing+=("$package"); fi
done
[ ${#missing[@]} != 0 ] || exit 0

say "installing ${missing[*]}"
mkdir -p "$CACHE"
log=$CACHE/deps.log
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
if ! {
    as_root "${apt[@]}" update &&
        as_root "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"
} >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" | sed 's/^/    /' >&2
    die "installing failed: the end of apt's messages is above, all of them in $log"
fi
