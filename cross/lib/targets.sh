# The processors this project is built for; what differs between them stands
# here only. Source it after common.sh, then call `target NAME`.
# shellcheck shell=bash disable=SC2034 # the variables are for the sourcing script

# target NAME: sets rust_target, debian_arch, musl_arch, cc_flags, check and uapi_arch.
target() {
    case $1 in
    i586)
        rust_target=i586-unknown-linux-musl
        debian_arch=i386
        musl_arch=i386-linux-musl
        # Debian's gcc would emit endbr32 by itself
        cc_flags=(-m32 -march=i586 -fcf-protection=none)
        check=("$ROOT/cross/check-i586")
        ;;
    x86_64)
        rust_target=x86_64-unknown-linux-musl
        debian_arch=amd64
        musl_arch=x86_64-linux-musl
        cc_flags=(-m64)
        check=(true)
        ;;
    *) die "no target \"$1\": i586 and x86_64 are described in cross/lib/targets.sh" ;;
    esac
}

# target_of DEBIAN_ARCH: the same by Debian's name, and sets target to ours.
target_of() {
    for target in i586 x86_64; do
        target "$target"
        [ "$debian_arch" != "$1" ] || return 0
    done
    die "no target for Debian's architecture \"$1\": i386 and amd64 are described in cross/lib/targets.sh"
}
