# A C compiler for a target, against Debian's musl. Source it after common.sh and
# targets.sh, set $musl to what cross/musl printed, and call write_compiler
# inside a `cached` build: it uses $work.
# shellcheck shell=bash disable=SC2154 # $work, $musl, and what `target` sets

# write_compiler FILE: a gcc for the target. Without any of the host's own
# headers, start files or support library, which are not for this processor.
write_compiler() {
    local headers=$work/kernel-headers cc=(gcc "${cc_flags[@]}" -fno-pie -no-pie)
    mkdir "$headers"
    ln -s /usr/include/{linux,asm-generic,mtd} /usr/include/x86_64-linux-gnu/asm "$headers/"
    "${cc[@]}" -Os -ffreestanding -c -o "$work/divide.o" "$ROOT/cross/divide.c"

    cat >"$1" <<END
#!/bin/sh
for argument; do
    case \$argument in -c | -S | -E | -M* | -r) linking=no ;; esac
done
if [ "\${linking-yes}" = yes ]; then # crt1.o comes first: its _start pulls main out of a library
    set -- -nostdlib -static $musl/lib/crt1.o "\$@" -L$musl/lib -Wl,--start-group -lc $work/divide.o -Wl,--end-group
fi
exec ${cc[@]} -nostdinc -isystem $musl/include -isystem $(gcc -print-file-name=include) -isystem $headers "\$@"
END
    chmod +x "$1"
}
