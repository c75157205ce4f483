#!/usr/bin/env bash
# Builds a board's kernel from Debian's linux-source package and prints the
# folder it is in: bzImage, the config it was built with, and System.map.
#
#   cross/kernel.sh VERSION BOARD                 e.g. 6.1 qemu-i586; newest qemu-i586
#   cross/kernel.sh --config-only VERSION BOARD   only checks that the fragments resolve
#
# The configuration is allnoconfig plus board/kernel.config (what cowflush and
# any userland need) plus board/BOARD/kernel.config (what the machine has). It is
# a 32-bit kernel; those with 64 bits come ready from Debian (cross/debian-kernel).
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

config_only=no
if [ "${1-}" = --config-only ]; then
    config_only=yes
    shift
fi
[ $# = 2 ] || die "usage: cross/kernel.sh [--config-only] VERSION BOARD (e.g. 6.1 qemu-i586)"
name=$1 board=$2

# $version is a number, also of the newest one: options come and go with it.
source=$("$ROOT/cross/linux-source" "$name")
version=$(cat "$source/series")
tarball=$source/linux-source.tar.xz
source_version=$(cat "$source/version")
fragments=("$ROOT/board/kernel.config" "$ROOT/board/$board/kernel.config")
[ -f "${fragments[1]}" ] || die "no board \"$board\": ${fragments[1]} does not exist"

# The same source, fragments and tools give the same bytes.
export ARCH=x86 KBUILD_BUILD_USER=cowflush KBUILD_BUILD_HOST=cowflush
export KBUILD_BUILD_TIMESTAMP="1970-01-01 00:00:00 UTC" KBUILD_BUILD_VERSION=1

# wanted: the fragments' options for this kernel. A line may end in "# since 6.8"
# or "# before 6.10" for an option that not every kernel has.
wanted() {
    local line
    while IFS= read -r line; do
        case $line in
        CONFIG_*" # since "*)
            if at_least "${line##* }"; then printf '%s\n' "${line%% *}"; fi
            ;;
        CONFIG_*" # before "*)
            if ! at_least "${line##* }"; then printf '%s\n' "${line%% *}"; fi
            ;;
        CONFIG_* | "# CONFIG_"*" is not set") printf '%s\n' "$line" ;;
        "#"* | "") ;;
        *) die "a line of the fragments of $board is neither an option nor a comment: $line" ;;
        esac
    done < <(cat "${fragments[@]}")
}

# at_least WANTED: true when the kernel's version is WANTED or later.
at_least() { printf '%s\n' "$1" "$version" | sort --check=quiet --version-sort; }

# check_config: fails unless the resolved configuration has every option of the
# fragments. Kconfig drops without a word what has an unmet dependency or is gone.
check_config() {
    local line option missing=()
    while IFS= read -r line; do
        case $line in
        CONFIG_*)
            grep -qxF -- "$line" "$work/.config" || missing+=("$line")
            ;;
        *)
            option=${line#\# }
            if grep -q "^${option%% *}=" "$work/.config"; then missing+=("$line"); fi
            ;;
        esac
    done <"$work/.fragment"
    if [ ${#missing[@]} != 0 ]; then
        printf 'not in the resolved configuration: %s\n' "${missing[@]}"
        die "the kernel's configuration lost ${#missing[@]} options of $board's fragments on $version (listed above): name their dependencies too, or drop them"
    fi
}

# What no board's kernel is made of: two thirds of the source, which take longer to unpack than all else.
# Kconfig and make read their own files there, so those stay.
unneeded=('*/Documentation/*/*' '*/tools/perf/*' '*/tools/testing/*' '*/arch/[!x]*/*.dts*'
    '*/'{'arch/[!x]*',sound,drivers/{gpu,media,staging,infiniband}}'/*.[chS]')

configure() {
    tar -C "$work" --strip-components=1 --wildcards "${unneeded[@]/#/--exclude=}" -xf "$tarball"
    wanted >"$work/.fragment"
    make -C "$work" KCONFIG_ALLCONFIG="$work/.fragment" allnoconfig
    check_config
}

build_config() {
    configure
    cp "$work/.config" "$1/config"
}

build_kernel() {
    configure
    make -C "$work" -j"$JOBS" bzImage
    check_config # a build may run Kconfig again
    cp "$work/arch/x86/boot/bzImage" "$work/System.map" "$1/"
    cp "$work/.config" "$1/config"
}

key=$(key_of "$0" "${fragments[@]}" "$source_version" "$(host_tools)")
if [ $config_only = yes ]; then
    cached "kernel-config-$name-$board" "$key" "resolving the configuration (about a minute)" build_config
else
    cached "kernel-$name-$board" "$key" "building (about 5 minutes on two cores)" build_kernel
fi
