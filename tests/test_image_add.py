"""cowflush is added to images of other systems: they boot with it, without it, and are never changed themselves."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from vm import artefacts, bases, ext, flushlog, images, sparse
from vm.bases import Base, Laid
from vm.lab import Lab
from vm.machine import VM
from vm.router import when_free

LOADERS = {"voyage": bases.voyage, "syslinux": bases.syslinux}
# The label's name is typed at SYSLINUX's prompt; GRUB has a menu.
CHOICES = {
    "voyage": [images.DOWN + "\r", images.DOWN * 2 + "\r"],
    "syslinux": ["cowflush-off\r", "old\r"],
}
MENUS = {"voyage": "the plain card", "syslinux": "boot: "}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Made:
    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._known: dict[object, Base] = {}

    def __call__(self, lab: Lab, make: Callable[..., Base], **options: bool) -> Base:
        key = (make, *options.items())
        if key not in self._known:
            self._known[key] = make(
                self._factory.mktemp("base"), artefacts.kernel("6.1"), **options
            )
        known = self._known[key]
        sparse.copy(known.path, lab.directory / known.path.name)
        return Base(lab.directory / known.path.name, known.root)


@pytest.fixture(scope="session")
def bases_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images to copy, each made once."""
    return Made(tmp_path_factory)


def mode(vm: VM) -> str:
    return str(json.loads(vm.run("cowflush status --json").output)["boot"]["mode"])


def added(lab: Lab, made: Base, *arguments: str) -> Laid:
    out = lab.directory / "added.img"
    images.done("add", made.path, "--out", out, *arguments)
    return Laid(out, made.root, made.root + 1)


@pytest.mark.parametrize("loader", LOADERS)
def test_it_boots_with_cowflush_and_keeps_what_was_flushed(
    boot: Lab, bases_made: Made, loader: str
) -> None:
    made = bases_made(boot, LOADERS[loader])
    before = digest(made.path)
    card = added(boot, made)
    assert digest(made.path) == before
    assert card.log.start % 8192 == 0 and card.log.size * 512 == 64 << 20
    assert card.path.stat().st_size == (card.log.start + card.log.size) * 512
    card.fsck()

    vm = images.boot(boot, card)
    assert mode(vm) == "deferring"
    vm.run("echo kept >/root/kept").ok()
    assert "flushed to the log" in when_free(vm, "flush").ok().text
    vm.run("echo lost >/root/lost; sync").ok()
    vm.kill()
    root = flushlog.recovered(card)
    root.fsck()
    assert root.read("/root/kept") == b"kept\n"
    assert "/root/lost" not in root.hashes("/root")

    # Its fallback, and then what was there before, with what the fallback has merged.
    for choice, expected in zip(CHOICES[loader], ("off", "none"), strict=True):
        vm = images.boot(boot, card, wait=False)
        vm.wait_console(MENUS[loader])
        vm.type(choice)
        vm.wait_boot()
        found = (
            mode(vm)
            if expected == "off"
            else vm.run("[ -e /run/cowflush ] || echo none").text.strip()
        )
        assert found == expected
        vm.run("[ $(cat /root/kept) = kept ] && mount -o remount,ro /").ok()
        vm.kill()


def test_a_dry_run_writes_nothing_and_names_everything(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.voyage)
    before = digest(made.path)
    out = boot.directory / "out" / "added.img"
    said = images.done("add", made.path, "--out", out, "--dry-run", "--log-size", "32M")
    assert not out.exists() and list(out.parent.iterdir()) == [] and digest(made.path) == before
    for words in (
        "partition 2: the flush log, 32 MiB",
        "/boot/cowflush.gz",
        "/boot/grub/grub.cfg",
        "/usr/sbin/cowflush",
    ):
        assert words in said
    assert "grows by 20 MiB to 100 MiB" in said and "update-grub" in said


def test_a_packed_image_gets_the_log_into_its_free_tail(boot: Lab, bases_made: Made) -> None:
    """Also with what OpenWrt appends to its packed images."""
    made = bases_made(boot, bases.voyage)
    with open(made.path, "r+b") as file:
        file.truncate(200 << 20)
    packed = boot.directory / "packed.img.gz"
    packed.write_bytes(gzip.compress(made.path.read_bytes(), 1) + b"metadata")
    out = boot.directory / "added.img"
    assert "grows" not in images.done("add", packed, "--out", out)
    card = Laid(out, 1, 2)
    assert out.stat().st_size == 200 << 20
    card.fsck()
    assert b"cowflush.gz" in card.read("/boot/grub/grub.cfg")


def test_an_image_with_an_initramfs_needs_a_kernel_that_has_all(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.voyage, initrd=True)
    assert "initramfs of its own (/boot/initrd.img)" in refuse(boot, made)
    card = added(boot, made, "--kernel", str(artefacts.kernel("6.12")))
    vm = images.boot(boot, card)
    assert mode(vm) == "deferring" and vm.run("uname -r").text.startswith("6.12")


# --- refusals -----------------------------------------------------------------


def refuse(lab: Lab, made: Base) -> str:
    before, out = digest(made.path), lab.directory / "refused.img"
    said = images.refused("add", made.path, "--out", out)
    assert not out.exists() and digest(made.path) == before
    assert [path for path in lab.directory.iterdir() if path.name.startswith(".")] == []
    return said


def edit(made: Base, *script: str) -> None:
    made.card().edit(list(script))


def replace(made: Base, path: str, content: bytes) -> None:
    own = made.path.with_suffix(".file")
    own.write_bytes(content)
    edit(made, f"rm {path}", f"write {own} {path}")


def twice(made: Base) -> None:
    out = made.path.with_suffix(".first")
    images.done("add", made.path, "--out", out)
    out.rename(made.path)


def full(made: Base) -> None:
    left = bases.free(made) - (512 << 10)
    made.path.with_suffix(".big").write_bytes(b"x" * left)
    edit(made, f"write {made.path.with_suffix('.big')} big")


def four(made: Base) -> None:
    with open(made.path, "r+b") as file:
        file.truncate(120 << 20)
    bases.tool("sfdisk", "--quiet", "--append", made.path, stdin=b",4M\n,4M\n,4M\n")


MENU = "/boot/grub/grub.cfg"
BREAKS: dict[str, tuple[Callable[[Base], None], str]] = {
    "two menus": (
        lambda made: edit(
            made, "mkdir /boot/extlinux", "cd /boot/extlinux", f"write {__file__} extlinux.conf"
        ),
        "several boot loader",
    ),
    "no loader": (lambda made: edit(made, f"rm {MENU}"), "which boot loader is it"),
    "no kernel": (lambda made: edit(made, "rm /boot/vmlinuz"), "which is not in partition 1"),
    "twice": (twice, "has cowflush's entries already"),
    "other root": (
        lambda made: replace(
            made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz root=/dev/sda3\n}\n'
        ),
        "none of the image's partitions",
    ),
    "odd root": (
        lambda made: replace(
            made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz root=/dev/nfs\n}\n'
        ),
        "is not understood",
    ),
    "no root": (
        lambda made: replace(made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz\n}\n'),
        "has no root=",
    ),
    "no bzImage": (lambda made: replace(made, "/boot/vmlinuz", b"no kernel"), "no bzImage"),
    "not unmounted": (
        lambda made: edit(made, "feature has_journal needs_recovery"),
        "was not unmounted",
    ),
    "full": (full, "KiB are needed"),
    "four partitions": (four, "all four primary partitions"),
    "no table": (lambda made: made.path.write_bytes(bytes(1 << 20)), "no partition table"),
    "GPT": (
        lambda made: bases.tool("sfdisk", "--quiet", made.path, stdin=b"label: gpt\n,20M\n"),
        "GPT partition table",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_not_understood_is_refused(boot: Lab, bases_made: Made, case: str) -> None:
    made = bases_made(boot, bases.voyage)
    break_it, why = BREAKS[case]
    break_it(made)
    assert why in refuse(boot, made)


def test_the_boot_partition_must_have_been_unmounted_too(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.openwrt)
    offset = made.card().partitions[0].start * 512
    ext.edit(f"{made.path}?offset={offset}", ["feature needs_recovery"])
    assert "partition 1 was not unmounted" in refuse(boot, made)


def test_the_original_is_never_the_output(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.voyage)
    assert "is never changed" in images.refused("add", made.path, "--out", made.path)
    link = boot.directory / "link.img"
    link.hardlink_to(made.path)
    assert "is never changed" in images.refused("add", made.path, "--out", link)


def test_help_and_wrong_words() -> None:
    assert (
        "add" in images.tool("--help").stdout and "--dry-run" in images.tool("add", "--help").stdout
    )
    for words in ((), ("nonsense",), ("add",), ("add", "x", "--log-size", "much")):
        done = images.tool(*words)
        assert done.returncode == 2 and "usage:" in done.stderr
