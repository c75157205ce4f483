"""An initramfs with a kernel's modules: what initramfs/build packs, and what init does with it."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness import artefacts
from harness.boot import machine
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from product.logged import said
from systems import debian

BUILD = artefacts.TOP / "initramfs" / "build"
LIST = "lib/modules/list"
# The Makefile's list: the card's driver, and the modules that cowflush needs.
WANTED = ("ata_piix", "sd_mod", "ext4", "loop", "dm_snapshot")
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: (
        subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout
    ),
}


def elf(info: Sequence[str], wide: bool = True) -> bytes:
    """A file in the form of a module: an ELF object whose section .modinfo has these words."""
    words = b"".join(f"{word}\0".encode() for word in info)
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64 if wide else 52
    table = start + len(words) + len(names)
    header, layout = ("<16sHHIQQQIHHHHHH", "<IIQQQQIIQQ") if wide else ("<16sHHIIIIIHHHHHH", "<IIIIIIIIII")  # fmt: skip
    size = struct.calcsize(layout)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    head = struct.pack(header, ident, 1, 62, 1, 0, 0, table, 0, start, 0, 0, size, 3, 2)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 0, 0, start, len(words), 0, 0, 1, 0),
        (10, 3, 0, 0, start + len(words), len(names), 0, 0, 1, 0),
    ]
    return head + words + names + b"".join(struct.pack(layout, *section) for section in sections)


class Made:
    """A lib/modules/VERSION made by a test."""

    def __init__(self, tmp_path: Path, wide: bool = True) -> None:
        self.top = tmp_path
        self.folder = tmp_path / "6.1-made"
        self.wide = wide
        (self.folder / "kernel").mkdir(parents=True)

    def module(self, path: str, depends: str = "", *info: str) -> bytes:
        """Adds a module, packed as the end of its path says. Returns what the archive must hold."""
        name = Path(path).name.split(".")[0].replace("-", "_")
        content = elf(["license=GPL", *info, f"depends={depends}", f"name={name}"], self.wide)
        file = self.folder / "kernel" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PACK.get(file.suffix, bytes)(content))
        return content

    def text(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def build(self, wanted: str, out: str = "out.gz") -> Path:
        binary = self.top / "binary"
        binary.write_bytes(b"the program")
        command: list[str | Path] = [
            BUILD,
            self.top / out,
            binary,
            "--modules",
            self.folder,
            "--with",
            wanted,
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return self.top / out

    def order(self, wanted: str) -> list[str]:
        """The paths in the list, below the tree's kernel/."""
        begin = "/lib/modules/6.1-made/kernel/"
        lines = content(self.build(wanted), LIST).decode().splitlines()
        assert all(line.startswith(begin) for line in lines)
        return [line.removeprefix(begin) for line in lines]

    def refusal(self, wanted: str) -> str:
        """Why build refused to make an initramfs."""
        out = self.top / "refused.gz"
        command: list[str | Path] = [BUILD, out, BUILD, "--modules", self.folder, "--with", wanted]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 1 and not out.exists() and "Traceback" not in run.stderr
        return run.stderr


def cpio(archive: Path, *arguments: str) -> bytes:
    run = subprocess.run(
        ["cpio", "--quiet", *arguments],
        input=gzip.decompress(archive.read_bytes()),
        capture_output=True,
        check=True,
    )
    return run.stdout


def names(archive: Path) -> list[str]:
    return cpio(archive, "-t").decode().splitlines()


def content(archive: Path, name: str) -> bytes:
    return cpio(archive, "-i", "--to-stdout", name)


def modules_of(kernel: str) -> Path:
    """A packaged kernel's lib/modules/VERSION."""
    (tree,) = (artefacts.kernel(kernel).parent / "modules").iterdir()
    return tree


# --- which modules, in what order -------------------------------------------------------


@pytest.mark.parametrize("wide", [True, False], ids=["64-bit", "32-bit"])
def test_what_a_module_needs_comes_before_it(tmp_path: Path, wide: bool) -> None:
    """Build reads dependencies from the modules themselves, as in a merely unpacked package."""
    tree = Made(tmp_path, wide)
    wanted = tree.module("drivers/ata/ata_piix.ko", "libata,scsi-mod")
    tree.module("drivers/ata/libata.ko", "scsi_mod")
    tree.module("drivers/scsi/scsi-mod.ko")
    tree.module("drivers/unwanted.ko", "libata")
    order = ["drivers/scsi/scsi-mod.ko", "drivers/ata/libata.ko", "drivers/ata/ata_piix.ko"]
    assert tree.order("ata_piix") == order
    # A module named twice, or with dashes, is there once.
    assert tree.order("ata-piix,scsi_mod,ata_piix") == order
    out = tree.build("ata_piix")
    assert content(out, "lib/modules/6.1-made/kernel/drivers/ata/ata_piix.ko") == wanted
    assert content(out, "init") == b"the program"
    # Each folder stands before its files, else the kernel unpacks nothing there.
    listed = names(out)
    assert all(
        listed.index(str(Path(name).parent)) < listed.index(name) for name in listed if "/" in name
    )


def test_modules_dep_counts_where_depmod_has_run(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    for name in ("a", "b", "c", "d"):
        tree.module(f"{name}.ko", "nothing")
    tree.text(
        "modules.dep",
        "kernel/a.ko: kernel/b.ko kernel/c.ko",
        "kernel/b.ko: kernel/c.ko",
        "kernel/c.ko:",
        "kernel/d.ko:",
    )
    assert tree.order("a") == ["c.ko", "b.ko", "a.ko"]
    # For a module added after depmod ran, its own words count.
    tree.module("e.ko", "d")
    assert tree.order("e") == ["d.ko", "e.ko"]


def test_what_is_built_in_is_no_failure(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko", "built_in", "softdep=pre: by-another-name")
    tree.text("modules.builtin", "kernel/lib/built-in.ko")
    (tree.folder / "modules.builtin.modinfo").write_bytes(
        b"built_in.license=GPL\0built_in.alias=by-another-name\0"
    )
    assert tree.order("a,built_in,built-in,by-another-name") == ["a.ko"]
    assert tree.order("built_in") == []


def test_a_soft_dependency_comes_before_if_it_is_there(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("ext4.ko", "jbd2", "softdep=pre: crc32c nowhere post: later", "softdep=pre: second")
    tree.module("jbd2.ko")
    tree.module("later.ko")
    tree.module("second.ko")
    # Two modules can provide one name, as crypto's do: both are loaded.
    tree.module("crc32c_generic.ko", "", "alias=crypto-crc32c", "alias=crc32c")
    tree.module("crc32c-intel.ko", "crypto_simd", "alias=crc32c")
    tree.module("crypto_simd.ko")
    order = ["crc32c_generic.ko", "crypto_simd.ko", "crc32c-intel.ko", "second.ko"]
    assert tree.order("ext4") == [*order, "jbd2.ko", "ext4.ko"]
    # Once depmod has written down which module provides which name, only that counts.
    tree.text("modules.alias", "# comment", "alias crc32c crc32c_generic")
    assert tree.order("ext4") == ["crc32c_generic.ko", "second.ko", "jbd2.ko", "ext4.ko"]


def test_soft_dependencies_in_a_circle_are_no_failure(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko", "", "softdep=pre: b")
    tree.module("b.ko", "c", "softdep=pre: a")
    tree.module("c.ko", "", "softdep=pre: a")
    tree.module("needs_a.ko", "a")
    tree.module("wants_needs_a.ko", "", "softdep=pre: needs_a")
    assert tree.order("a") == ["c.ko", "b.ko", "a.ko"]
    # b can't come before a here, as it needs a: so build leaves it out.
    tree.module("b.ko", "a")
    assert tree.order("a") == ["a.ko"]
    # The same with one more step: a -> wants_needs_a -> needs_a, which needs a.
    tree.module("a.ko", "", "softdep=pre: wants_needs_a")
    assert tree.order("a") == ["wants_needs_a.ko", "a.ko"]


def test_what_was_added_in_updates_wins(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko")
    tree.module("../updates/a.ko")
    lines = content(tree.build("a"), LIST).decode().splitlines()
    assert lines == ["/lib/modules/6.1-made/updates/a.ko"]


@pytest.mark.parametrize("packed", PACK)
def test_a_packed_module_is_unpacked(tmp_path: Path, packed: str) -> None:
    """finit_module accepts a packed module only since 5.17, and only on some kernels."""
    tree = Made(tmp_path)
    wanted = tree.module(f"drivers/a.ko{packed}", "b")
    tree.module(f"b.ko{packed}")
    assert tree.order("a") == ["b.ko", "drivers/a.ko"]
    out = tree.build("a")
    assert content(out, "lib/modules/6.1-made/kernel/drivers/a.ko") == wanted
    assert not [name for name in names(out) if name.endswith(packed)]


# --- what can't be made -----------------------------------------------------------------


def test_a_name_that_is_no_module_is_an_error_that_names_it(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko")
    assert "6.1-made has no module nowhere, nor is it built in" in tree.refusal("a,nowhere")


def test_a_missing_dependency_is_an_error_that_names_both(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko", "b")
    assert "a needs b, which" in tree.refusal("a")
    tree.text("modules.dep", "kernel/a.ko: kernel/b.ko", "kernel/b.ko:")
    assert "kernel/b.ko is in modules.dep, but not in" in tree.refusal("a")


def test_modules_that_need_each_other_are_an_error_that_names_them(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    tree.module("a.ko", "b")
    tree.module("b.ko", "c")
    tree.module("c.ko", "b")
    assert "b needs c needs b: none of them can be loaded first" in tree.refusal("a")


def test_a_damaged_module_is_an_error_that_names_it(tmp_path: Path) -> None:
    tree = Made(tmp_path)
    whole = tree.module("a.ko")
    file = tree.folder / "kernel" / "a.ko"
    for cut in (b"", b"\x7fELF", whole[:40], whole[:-1], whole[:100], b"no ELF file" * 20):
        file.write_bytes(cut)
        assert "kernel/a.ko is damaged, or no module" in tree.refusal("a"), cut
    # The words' section claims to be longer than the file; its header is the second of three.
    longer = bytearray(whole)
    struct.pack_into("<Q", longer, len(whole) - 2 * 64 + 32, len(whole))
    file.write_bytes(longer)
    assert "kernel/a.ko is damaged, or no module" in tree.refusal("a")
    file.unlink()
    for packed in PACK:
        tree.module(f"a.ko{packed}")
        file = tree.folder / "kernel" / f"a.ko{packed}"
        file.write_bytes(file.read_bytes()[:-4])
        assert f"kernel/a.ko{packed} is damaged: " in tree.refusal("a"), packed
        file.unlink()


def test_a_folder_without_modules_is_an_error(tmp_path: Path) -> None:
    assert "holds no modules: name a kernel package's" in Made(tmp_path).refusal("a")


def test_the_same_tree_gives_the_same_bytes_and_then_writes_nothing(tmp_path: Path) -> None:
    modules = ("a.ko", "b.ko.xz", "sub/c.ko")
    archives = []
    for turn in (modules, modules[::-1]):
        tree = Made(tmp_path / turn[0].replace(".", "_"))
        for path in turn:
            tree.module(path, "", "alias=x")
        archives.append(tree.build("x").read_bytes())
    assert archives[0] == archives[1]
    out = tree.build("x")
    before = out.stat()
    assert tree.build("x").stat() == before
    tree.module("a.ko", "", "alias=x", "license=other")
    tree.build("x")
    assert out.read_bytes() != archives[0]


@pytest.mark.kernels(*(name for name in artefacts.ELSEWHERE if artefacts.target(name) == "x86_64"))
def test_the_tests_own_initramfs_is_of_this_program_and_of_its_kernel(kernel: str) -> None:
    """`make guest-x86_64` alone leaves an old initramfs behind, which the tests would then use."""
    initramfs = artefacts.initramfs(kernel)
    assert content(initramfs, "init") == artefacts.cowflush("x86_64").read_bytes()
    version = modules_of(kernel).name.encode()
    lines = content(initramfs, LIST).decode().splitlines()
    assert {Path(line).stem.replace("-", "_") for line in lines} >= {*WANTED}
    for line in lines:
        assert b"vermagic=" + version + b" " in content(initramfs, line.removeprefix("/"))


# --- what init does with them ------------------------------------------------------------


def overlaid(lab: Lab, base: Path, files: dict[str, bytes], *, executable: bool = False) -> Path:
    """An initramfs with `files` added to `base`, or in place of files there."""
    tree = lab.directory / "files"
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
        (tree / name).chmod(0o755 if executable else 0o644)
    paths = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        cwd=tree,
        input="".join(f"{path}\n" for path in paths).encode(),
        capture_output=True,
        check=True,
    )
    out = lab.directory / "overlaid.cpio.gz"
    out.write_bytes(base.read_bytes() + gzip.compress(packed.stdout))
    return out


def mode(vm: VM) -> str:
    return str(json.loads(vm.run("cowflush status --json").ok().output)["mode"])


def loaded(vm: VM) -> set[str]:
    return {line.split()[0] for line in vm.run("cat /proc/modules").ok().text.splitlines()}


def listed(initramfs: Path) -> list[str]:
    return content(initramfs, LIST).decode().splitlines()


# Before cowflush's own, in the place of a kernel without devtmpfs: /dev is there, and empty but for what the tests'
# own agent needs.
NO_DEVTMPFS = b"""#!/bin/busybox sh
/bin/busybox mount -t tmpfs dev /dev
/bin/busybox mknod /dev/console c 5 1
/bin/busybox mknod /dev/ttyS0 c 4 64
/bin/busybox mknod /dev/ttyS1 c 4 65
exec /real/init
"""


def test_what_a_kernel_without_devtmpfs_has_not_made_init_makes(boot: Lab) -> None:
    """As OpenWrt's kernels are."""
    files = {
        "init": NO_DEVTMPFS,
        "real/init": artefacts.cowflush().read_bytes(),
        "bin/busybox": artefacts.busybox().read_bytes(),
    }
    card = boot.card()
    initramfs = overlaid(boot, artefacts.initramfs(), files, executable=True)
    vm = boot(card, initramfs=initramfs, append=f"root=PARTUUID={card.disk_id}-01")
    vm.run("! grep devtmpfs /proc/mounts && [ -c /dev/null ] && [ -c /dev/kmsg ]").ok()
    assert mode(vm) == "deferring"
    vm.run("echo kept >/root/kept && cowflush flush").ok()
    vm.run("cowflush stop && cowflush start").ok()
    assert mode(vm) == "deferring"
    vm.kill()
    root = vm.card.fs(replay=True)
    assert root.read("/root/kept") == b"kept\n"


def test_a_kernel_that_loads_no_modules_says_so_once_and_boots(boot: Lab) -> None:
    """Before that, init names a file that is missing."""
    files = {LIST: b"# comment\n\n/lib/modules/gone.ko\n/init\n/init\n"}
    vm = boot(initramfs=overlaid(boot, artefacts.initramfs(), files))
    text = said(vm)
    assert (
        "cannot open the module gone: No such file or directory. The initramfs is incomplete: build it anew."
        in text
    )
    assert text.count("cannot load the module init: this kernel can load no modules.") == 1
    assert mode(vm) == "deferring"
    assert "this kernel can load no modules" in vm.run("cat /run/cowflush/boot").ok().text


def unsigned(module: bytes) -> bytes:
    """A module without the signature at its end: the signature, its length, then this mark."""
    mark = b"~Module signature appended~\n"
    assert module.endswith(mark)
    end = len(module) - len(mark)
    (length,) = struct.unpack_from(">I", module, end - 4)
    return module[: end - 12 - length]


@pytest.mark.kernels("6.1-x86_64")
def test_modules_that_cannot_be_loaded_are_named_and_the_boot_goes_on(boot: Lab) -> None:
    initramfs = artefacts.initramfs(boot.kernel)
    paths = listed(initramfs)
    tree = modules_of(boot.kernel)
    flakey = (tree / "kernel/drivers/md/dm-flakey.ko").read_bytes()
    other = modules_of("6.12-x86_64") / "kernel/drivers/md/dm-flakey.ko.xz"
    # One letter of a text in it is changed.
    changed = flakey.replace(b"license=GPL", b"license=GPX")
    assert changed != flakey
    bad = {
        # Nothing of the device mapper is loaded when this module's turn comes.
        "orphan": (flakey, "another module that it needs is not loaded, or is of another kernel"),
        "other": (
            lzma.decompress(other.read_bytes()),
            "it is damaged, or was made for another kernel",
        ),
        "cut": (unsigned(flakey)[:-5000], "it is damaged, or was made for another kernel"),
        "changed": (changed, "its signature is none that this kernel takes"),
    }
    order = ["orphan", *paths, *paths[:1], "gone", "other", "cut", "changed"]
    lines = [line if "/" in line else f"/lib/modules/{line}.ko" for line in order]
    files = {f"lib/modules/{name}.ko": content for name, (content, _) in bad.items()}
    files[LIST] = "\n".join(lines).encode()
    vm = boot(initramfs=overlaid(boot, initramfs, files), append="loop.max_part=7 dm-mod.nothing=1")
    text = said(vm)
    rebuild = f"Build the initramfs anew, with the modules of this kernel, {tree.name}."
    for name, (_, why) in bad.items():
        assert f"cannot load the module {name}: {why}. {rebuild}" in text
    assert "cannot open the module gone: No such file or directory. The initramfs is" in text
    # Init does not mention modules that are there already, or that it loads.
    assert len(re.findall("cannot (load|open) the module", text)) == len(bad) + 1
    assert mode(vm) == "deferring"
    assert "dm_flakey" not in loaded(vm)
    # Init reads a module's parameters from the kernel command line.
    assert vm.run("cat /sys/module/loop/parameters/max_part").ok().text == "7\n"


@pytest.mark.kernels("6.1-x86_64")
def test_without_the_snapshots_module_root_is_the_plain_card(boot: Lab) -> None:
    initramfs = artefacts.initramfs(boot.kernel)
    without = [path for path in listed(initramfs) if "dm-snapshot" not in path]
    vm = boot(initramfs=overlaid(boot, initramfs, {LIST: "\n".join(without).encode()}))
    assert "root is the plain card sda1" in said(vm)
    assert vm.run("cowflush status").code == 3 and "dm_snapshot" not in loaded(vm)
    assert vm.run("grep ' / ' /proc/mounts").ok().text.count("/dev/sda1") == 1


@pytest.mark.kernels("6.1-x86_64")
def test_without_the_card_s_driver_there_is_a_prompt(boot: Lab) -> None:
    initramfs = artefacts.initramfs(boot.kernel)
    files = {LIST: "\n".join(path for path in listed(initramfs) if "piix" not in path).encode()}
    vm = boot(initramfs=overlaid(boot, initramfs, files), append="panic=0", wait=False)
    vm.wait_console("cowflush rescue> $", timeout=120)
    assert "no such device appeared in 30 s; there are: no block devices" in said(vm)


@pytest.mark.thorough
def test_debian_s_kernel_for_i386_boots_with_its_modules(boot: Lab) -> None:
    """A kernel as routers have it: no driver that a card needs is built in.

    An emulated Geode LX runs it.
    """
    files = Card(artefacts.debian_disk("sysvinit")).fs()
    version = artefacts.debian_kernels()[0].removeprefix("linux-image-")
    kernel, tree = boot.directory / "bzImage", boot.directory / version
    kernel.write_bytes(files.read(f"/boot/vmlinuz-{version}"))
    files.dump(f"/usr/lib/modules/{version}", boot.directory)
    initramfs = boot.directory / "initramfs.cpio.gz"
    command: list[str | Path] = [BUILD, initramfs, artefacts.cowflush(), "--modules", tree, "--with", ",".join(WANTED)]  # fmt: skip
    subprocess.run(command, check=True)
    card = boot.card()
    stock = replace(machine(card, initramfs=initramfs), kernel=kernel, cpu=debian.GEODE)
    vm = boot.add(lambda directory: VM(stock, card, directory))
    assert mode(vm) == "deferring"
    assert {"ata_piix", "ext4", "loop", "dm_snapshot"} <= loaded(vm)
    vm.run("echo kept >/root/kept; cowflush flush").ok()
    vm.kill()
    card.fsck()
    assert card.read("/root/kept") == b"kept\n"
