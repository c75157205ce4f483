# Shared by the scripts in this folder: messages, and the cache of built things.
# Source it; it runs nothing by itself.
#
# Every built thing is a folder NAME-KEY in the cache. KEY hashes all that went
# into it, so a stale one is never used and two clones share what they can.
# shellcheck shell=bash disable=SC2034 # ROOT and work are for the sourcing script

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
umask 022

# A build that goes on beside others has its own jobs: it isn't a part of the make that called it.
unset MAKEFLAGS MFLAGS MAKELEVEL

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${COWFLUSH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cowflush}
SELF=$(basename "$0")
JOBS=${JOBS:-$(nproc)}

say() { printf '%s: %s\n' "$SELF" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# as_root COMMAND...: runs it as root, through sudo where need be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$*\" needs root, and this machine has no sudo: run it as root, then try again"
    fi
}

# key_of WORD_OR_FILE...: sixteen hex digits over all its arguments. An argument
# that names a file counts with its content, any other as the word it is.
key_of() {
    local arg
    for arg in "$@"; do
        if [ -f "$arg" ]; then
            printf 'file %s\n' "$(sha256sum <"$arg")"
        else
            printf 'word %s\n' "$arg"
        fi
    done | sha256sum | cut -c1-16
}

# cached NAME KEY WHAT FUNCTION: prints the path of NAME-KEY in the cache, built
# before by FUNCTION if it was not there. FUNCTION gets the folder to fill, and
# $work, a folder to work in that is thrown away. The finished folder is
# renamed into place, so an interrupted build leaves nothing that looks built.
#
# Don't call it in an `if` or before `||`: bash then ignores `set -e` inside.
cached() {
    local name=$1 key=$2 what=$3 function=$4
    local place=$CACHE/$name-$key
    if [ ! -d "$place" ]; then
        build_into_cache "$name" "$key" "$what" "$function"
    fi
    printf '%s\n' "$place"
}

build_into_cache() {
    local name=$1 key=$2 what=$3 function=$4
    local place=$CACHE/$name-$key log=$CACHE/$name-$key.log
    mkdir -p "$CACHE"

    # One build of a name at a time, across clones. The lock goes when we end,
    # however we end; what we start must not inherit it.
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
            die "$name: failed ($what); the end of its log is above, all of it in $log"
        fi
        mv -T "$scratch/out" "$place"
        rm -rf "$scratch"
        say "$name: done in $((SECONDS - started)) s"
    fi
    exec {lock}>&-
}

# package_version PACKAGE...: the installed versions of Debian packages, one a line.
package_version() {
    # shellcheck disable=SC2016 # dpkg-query's own variables
    dpkg-query --show --showformat '${Package} ${Version}\n' "$@" ||
        die "needs the packages $*: run cross/deps.sh"
}

# host_tools: what the host compiler and linker are, for a key.
host_tools() { gcc --version | head -n 1 && ld --version | head -n 1; }
