# Shared by the scripts of cross/ and its folders: messages, and the cache of built things. Source
# it; it runs nothing by itself.
#
# Every built thing is a folder NAME-KEY in the cache. KEY hashes everything that went into it, so a
# stale one is never used and two clones share what they can.
# shellcheck shell=bash disable=SC2034 # ROOT and work are for the sourcing script

set -euo pipefail
shopt -s inherit_errexit
umask 022

# What a build takes from its caller: places, the user, the network, and our own variables. Anything
# else would take effect unnoticed: a foreign makefile takes its compiler, its options, even its
# output folder from CC, V, KCFLAGS, LLVM, KBUILD_OUTPUT or MAKEFLAGS, and the cache would keep the
# result under a key that ignores them.
clean_environment() {
    local name
    while read -r name; do
        case $name in
        PATH | HOME | USER | LOGNAME | SHELL | TERM | TMPDIR | PWD | OLDPWD | SHLVL | _ | SUDO_* | CI) ;;
        http_proxy | https_proxy | ftp_proxy | all_proxy | no_proxy) ;;
        HTTP_PROXY | HTTPS_PROXY | FTP_PROXY | ALL_PROXY | NO_PROXY) ;;
        SSL_CERT_FILE | SSL_CERT_DIR | CURL_CA_BUNDLE | REQUESTS_CA_BUNDLE | APT_CONFIG | PIP_* | XDG_CACHE_HOME) ;;
        CARGO | CARGO_HOME | CARGO_NET_* | CARGO_HTTP_* | CARGO_REGISTRIES_* | CARGO_REGISTRY_* | CARGO_SOURCE_*) ;;
        RUSTC | RUSTDOC | RUSTFMT | CARGO_TARGET_DIR) ;; # the Makefile sets them
        COWFLUSH_* | JOBS | OS_RELEASE | SOURCE_DATE_EPOCH | SECONDS) ;;
        BASHOPTS | SHELLOPTS) ;; # can't be unset, and no makefile reads them
        *) unset "$name" ;;
        esac
    done < <(compgen -e)
    # bash takes functions from the environment, too, before any program of the same name.
    while read -r _ _ name; do unset -f "$name"; done < <(declare -Fx)
}
clean_environment
export LC_ALL=C

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${COWFLUSH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cowflush}
SELF=$(basename "$0")
JOBS=${JOBS:-$(nproc)}

say() { printf '%s: %s\n' "$SELF" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# as_root COMMAND...: runs it as root, through sudo if necessary.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$*\" needs root, and this machine has no sudo: run it as root, then try again"
    fi
}

# key_of WORD_OR_FILE...: sixteen hex digits over all its arguments. An argument that names a file
# counts with its content, any other as a word. A path to a missing file is a mistake: as a word it
# would ignore the file's content, and differ in each clone.
key_of() {
    local arg
    for arg in "$@"; do
        if [ -f "$arg" ]; then
            printf 'file %s\n' "$(sha256sum <"$arg")"
        elif [ "${arg:0:1}" = / ]; then
            die "$arg goes into a key, and is not there"
        else
            printf 'word %s\n' "$arg"
        fi
    done | sha256sum | cut -c1-16
}

# cached NAME KEY WHAT FUNCTION: prints the path of NAME-KEY in the cache; builds it by FUNCTION if
# it is missing. FUNCTION gets the folder to fill, and $work, a folder to work in that is deleted
# afterwards. The finished folder is renamed into place, so an interrupted build leaves nothing that
# looks built.
#
# Don't call it in an `if` or before `||`: bash then ignores `set -e` inside.
cached() {
    local name=$1 key=$2 what=$3 function=$4
    local place=$CACHE/$name-$key
    if [ ! -d "$place" ]; then
        build_into_cache "$name" "$key" "$what" "$function"
    fi
    if [ ! -d "$place" ]; then
        place=$(older "$name")
        say "$name: going on with the one of $(date -u -r "$place" +%Y-%m-%d)"
    else
        touch -c "$place" 2>/dev/null || true # marks it as in use: see prune
    fi
    printf '%s\n' "$place"
}

# looked_for_anew NAME: true for what is only downloaded, and looked for anew each month. Without a
# network the last one will do.
looked_for_anew() {
    case $1 in
    linux-source-* | debian-kernel-*) ;;
    *) return 1 ;;
    esac
}

# of_name NAME: all folders of NAME in the cache, the last used first.
of_name() {
    find "$CACHE" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended -name "$1-*" \
        -regex '.*-[0-9a-f]{16}' -printf '%T@ %f\n' | sort -rn | while read -r _ folder; do
        # For kernel-6.1 this must not match kernel-6.1-alix2.
        [ "${folder%-*}" != "$1" ] || printf '%s\n' "$CACHE/$folder"
    done
}

# older NAME: the cache's last NAME, or nothing.
older() { of_name "$1" | sed -n 1p; }

# prune NAME: removes what was not used in 60 days, except the last used.
prune() {
    local folder
    of_name "$1" | sed 1d | while read -r folder; do
        if [ -n "$(find "$folder" -maxdepth 0 -mtime +60)" ]; then
            rm -rf "$folder" "$folder.log"
        fi
    done
}

build_into_cache() {
    local name=$1 key=$2 what=$3 function=$4
    local place=$CACHE/$name-$key log=$CACHE/$name-$key.log
    mkdir -p "$CACHE"

    # One build of a name at a time, across clones. The lock goes when this script ends, however it
    # ends; its children must not inherit it.
    local lock
    exec {lock}>"$CACHE/$name.lock"
    if ! flock -n "$lock"; then
        say "$name: another build of it is running, waiting for that"
        flock "$lock"
    fi
    if [ ! -d "$place" ]; then
        rm -rf "$CACHE/.$name".*
        local scratch status started=$SECONDS
        scratch=$(mktemp -d "$CACHE/.$name.XXXXXX")
        work=$scratch/work
        mkdir "$scratch/out" "$work"
        say "$name: $what"
        set +e
        (
            exec {lock}>&-
            set -e
            "$function" "$scratch/out"
        ) >"$log" 2>&1 </dev/null
        status=$?
        set -e
        if [ $status != 0 ]; then
            rm -rf "$scratch"
            tail -n 15 "$log" | sed 's/^/    /' >&2
            if looked_for_anew "$name" && [ -n "$(older "$name")" ]; then
                say "$name: failed ($what), as the end of its log above tells; all of it is in $log"
                exec {lock}>&-
                return 0
            fi
            die "$name: failed ($what); the end of its log is above, all of it in $log"
        fi
        # Its bytes first: after a power cut its name must not lead to empty files.
        find "$scratch/out" -type f -exec sync {} +
        mv -T "$scratch/out" "$place"
        sync "$CACHE"
        rm -rf "$scratch"
        prune "$name"
        say "$name: done in $((SECONDS - started)) s"
    fi
    exec {lock}>&-
}

# package_version PACKAGE...: the installed versions of Debian packages, one per line.
package_version() {
    # shellcheck disable=SC2016 # dpkg-query's own variables
    dpkg-query --show --showformat '${Package} ${Version}\n' "$@" ||
        die "needs the packages $*: run cross/deps"
}

# host_tools: the versions of the host's compiler and linker, for a key.
host_tools() { gcc --version | head -n 1 && ld --version | head -n 1; }
