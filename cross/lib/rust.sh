# Sets up Debian's Rust for a target: what to pass to cargo is in `rust`.
# Source it after common.sh and targets.sh, call `target NAME`, then `rust_for NAME`.
# shellcheck shell=bash disable=SC2154,SC2034 # the variables pass between these files

# One library under the names that std may ask for
build_unwind() {
    gcc "${cc_flags[@]}" -Os -fno-pie -fno-asynchronous-unwind-tables -c -o "$work/unwind.o" "$ROOT/cross/unwind.c"
    ar rcsD "$1/libunwind.a" "$work/unwind.o"
    cp "$1/libunwind.a" "$1/libgcc_eh.a"
}

rust_for() {
    local musl unwind key linker flags
    musl=$("$ROOT/cross/musl" "$1")
    key=$(key_of "$ROOT"/cross/{lib/rust.sh,unwind.c,lib/targets.sh} "$(host_tools)")
    unwind=$(cached "unwind-$1" "$key" "compiling two unwinder stubs" build_unwind)

    # std is compiled too, for exactly this processor: RUSTC_BOOTSTRAP lets Debian's stable compiler
    # do so. RUSTC is named, since rustup's may come first on PATH and would not match Debian's
    # source of std.
    export CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    rust=(
        --target "$rust_target"
        --target-dir "$ROOT/build/cargo"
        "-Zbuild-std=std,panic_abort"
        -Zbuild-std-features=optimize_for_size
        --locked
        --jobs "$JOBS"
    )

    # libc_unstable_time64: 64-bit times in libc and nix; otherwise dates end in 2038.
    flags=(
        --cfg=libc_unstable_time64
        # Small: no outside input can make it panic, and of a defect the signal tells as much as a
        # message without a place would. Panic messages and their code would add 25 KB.
        -Zunstable-options
        -Cpanic=immediate-abort
        -Zlocation-detail=none
        -Zfmt-debug=none
        -Crelocation-model=static
        -Cforce-unwind-tables=no
        -Clink-self-contained=no
        -Zpre-link-args="$musl/lib/crt1.o"
        -Lnative="$musl/lib"
        -Lnative="$unwind"
        -Clink-arg=-nostdlib
        "-Clink-arg=-Wl,-z,noseparate-code"
        "-Clink-arg=-Wl,--build-id=none"
        --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}/registry/src=crates"
    )
    CARGO_ENCODED_RUSTFLAGS=$(
        IFS=$'\x1f'
        printf '%s' "${flags[*]}"
    )
    export CARGO_ENCODED_RUSTFLAGS
    linker=CARGO_TARGET_${rust_target^^}_LINKER
    export "${linker//-/_}=gcc"

    # Not in the cache: cargo would take another clone's results there for this one's, and a clone
    # would wait for the other's build.
}
