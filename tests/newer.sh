#!/usr/bin/env bash
# Builds the program that the tests of formats take for a newer one, and its initramfs, into build/newer: a copy of the
# sources in which the number of the flush log's format is larger. So nothing of it can get into the product.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$top/build/newer
copy=$out/source
mkdir -p "$copy/tests"
rm -rf "$copy/src" "$copy/cross" "$copy/tests/guest"
# With their times, so that cargo builds only what has changed.
cp -a "$top"/{Cargo.toml,Cargo.lock,src,cross} "$copy/"
cp -a "$top/tests/guest" "$copy/tests/"
format=src/pure/flushlog/format.rs
sed -i 's/^pub const FORMAT: u32 = 1;$/pub const FORMAT: u32 = 2;/' "$copy/$format"
if cmp --silent "$top/$format" "$copy/$format"; then
    echo "tests/newer.sh: $format has no number of the format where it was" >&2
    exit 1
fi
touch -r "$top/$format" "$copy/$format"
"$copy/cross/build" i586 cowflush
cp "$copy/build/i586/cowflush" "$out/cowflush"
"$top/initramfs/build" "$out/initramfs.cpio.gz" "$out/cowflush"
