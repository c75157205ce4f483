#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need and this
# machine lacks, and those named besides. Says what it installs, and nothing
# when all are there.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

packages=(
    # compilers: C for the kernels, busybox and sqlite, Rust with the source of its std
    build-essential bc bison flex cpio libelf-dev xz-utils
    # sqlite's sources are made with it
    tcl
    rustc-web cargo-web rust-web-src ca-certificates
    # checks of the sources
    rustfmt-web rust-web-clippy shellcheck
    # what is built
    linux-source-6.1 linux-source-6.12
    # machines to boot, cards to put into them, tests
    qemu-system-x86 e2fsprogs fdisk gdisk
    python3 python3-pytest python3-pytest-xdist
    # images of cards
    grub-common grub-pc-bin mtools fakeroot
    # boot loaders and root filesystems that tests make images of
    syslinux squashfs-tools
    # Debian's package, and Debian systems to install it in
    mmdebstrap apt-utils lintian
)
packages+=("$@")

[ -f /etc/debian_version ] || die "this is not Debian, and the build needs Debian 12's packages"

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
