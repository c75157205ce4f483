# What the scripts share that make Debian systems for the tests. Source it after common.sh, and
# call its functions inside a `cached` build, all but debian_key: they use $work.
# shellcheck shell=bash disable=SC2154 # $work
source "$ROOT/cross/lib/apt.sh"
source "$ROOT/cross/lib/releases.sh"

# The last release with a kernel for i386, whatever release this machine is.
release=$(release_of 6.1)

files=$ROOT/tests/systems/files/debian
packages=(
    initramfs-tools zstd e2fsprogs fdisk kmod udev grub-pc
    systemd-sysv rsyslog cron procps
)
# In the guest these would take minutes to unpack, and its machine has none of them.
left_out=(
    drivers/{gpu,media,net,infiniband,staging,iio,isdn,bluetooth,usb,hid,video,target}
    drivers/{mtd,nfc,comedi,accel,edac,hwmon,thunderbolt,mmc,power,platform,firewire}
    net sound fs/{btrfs,xfs,ocfs2,gfs2,nfs,nfsd,ceph,cifs,smb,afs,jfs,reiserfs,ubifs,nilfs2,f2fs}
)

# repack PACKAGE OUT: the package without the drivers that are left out. Its
# maintainer scripts, which are what an upgrade is about, stay as they are.
repack() {
    local name
    name=$(basename "$1" .deb)
    dpkg-deb --raw-extract "$1" "$work/$name"
    for folder in "${left_out[@]}"; do rm -rf "$work/$name"/lib/modules/*/kernel/"$folder"; done
    (cd "$work/$name" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' |
        xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/$name" "$2"
    rm -rf "${work:?}/$name"
}

# guest_files: what the tests put into a system, in $work/root.
guest_files() {
    cp -r "$files/root" "$work/root"
    install -D --target-directory="$work/root/usr/local/sbin" "$ROOT/tests/harness/agent.sh"
}

# make_system ARCH OUT [OPTION...]: a system of $release with $work/root in it and the kernel
# package $work/old.deb, as $work/systemd.tar, and in OUT what tests/systems/files/debian/prepare makes of it then.
make_system() {
    local arch=$1 out=$2 entries
    # The release as it was made, without what changes from day to day.
    entries=$(debian_entries "$release" | awk -v suite="$release" '$2 == suite { print "deb", $1, $2, "main" }')
    # shellcheck disable=SC2016 # the hook's own variable
    mmdebstrap --variant=minbase --architectures="$arch" "${@:3}" \
        --include="$(IFS=, && echo "${packages[*]}")" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='echo grub-pc grub-pc/install_devices_empty boolean true | chroot "$1" debconf-set-selections' \
        --customize-hook="copy-in $work/old.deb /var/tmp" \
        --customize-hook="sync-in $work/root /" \
        --customize-hook="$files/prepare \"\$1\" $work/systemd.tar" \
        "$release" "$out" "$entries"
}

# disk TAR OUT: a disk with GRUB before its first partition, and a root filesystem of TAR.
disk() {
    local tree=$work/tree grub=$work/tree/usr/lib/grub/i386-pc start size
    truncate --size=1G "$2"
    sfdisk --quiet "$2" <"$files/partitions.sfdisk"
    read -r start size < <(sed -n 's/^start=\([0-9]*\), size=\([0-9]*\), type=83.*/\1 \2/p' "$files/partitions.sfdisk")
    mkdir "$tree"
    # shellcheck disable=SC2016 # the inner shell's own variables
    fakeroot -- sh -euc '
        tar -C "$1" --exclude="./dev/*" -xpf "$2"
        mke2fs -q -F -t ext4 -b 4096 -L debian -U c0f1a5b0-5eed-4c0f-8a5b-00000000deb1 \
            -E lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$3" "$4"' \
        - "$tree" "$1" "$work/root.img" "$((size / 2))k"
    dd if="$work/root.img" of="$2" bs=1M seek=$((start / 2048)) conv=notrunc,sparse status=none

    # GRUB's two halves, as grub-install puts them: the first sector, and the gap behind it.
    grub-mkimage --directory "$grub" --format i386-pc --prefix '(hd0,msdos1)/boot/grub' \
        --output "$work/core.img" biosdisk part_msdos ext2
    dd if="$grub/boot.img" of="$2" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core.img" of="$2" bs=512 seek=1 conv=notrunc status=none
    rm -rf "$tree" "$work/root.img"
}

# debian_key SCRIPT [WORD...]: the key of what SCRIPT makes.
debian_key() {
    local sources
    mapfile -t sources < <(find "$files" -type f | sort)
    key_of "$@" "$ROOT"/cross/lib/{debian,apt,releases}.sh "$ROOT/tests/harness/agent.sh" "${sources[@]}" \
        "$(candidate linux-image-amd64)" "$(package_version grub-common mmdebstrap)"
}
