"""cowflush is added to images of other systems: they boot with it, without it, and are never changed themselves."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_image_configs import image_of
from vm import artefacts, bases, ext, flushlog, images, sparse
from vm.bases import Base, Laid
from vm.card import Card
from vm.folder import Listed, listed
from vm.lab import Lab
from vm.machine import VM
from vm.router import when_free

sys.path.insert(0, str(artefacts.TOP))

from image import kernel as kernels

LOADERS = {
    "voyage": bases.voyage,
    "sector 63": bases.old_voyage,
    "syslinux": bases.syslinux,
}
# The label's name is typed at SYSLINUX's prompt; GRUB has a menu.
CHOICES = {
    "voyage": [images.DOWN + "\r", images.DOWN * 2 + "\r"],
    "sector 63": [images.DOWN + "\r", images.DOWN * 2 + "\r"],
    "syslinux": ["cowflush-off\r", "old\r"],
}
MENUS = {"voyage": "the plain card", "sector 63": "the plain card", "syslinux": "boot: "}


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


@pytest.mark.thorough
@pytest.mark.parametrize("loader", LOADERS)
def test_it_boots_with_cowflush_and_keeps_what_was_flushed(
    boot: Lab, bases_made: Made, loader: str
) -> None:
    made = bases_made(boot, LOADERS[loader])
    before = digest(made.path)
    card = added(boot, made)
    assert digest(made.path) == before
    # Whatever was in the table stays where it was.
    assert card.partitions[:-1] == made.card().partitions
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
    assert "grows by 20 MiB to 100 MiB" in said and said.startswith(
        f"would be changed in a copy of {made.path}, by GRUB's /boot/grub/grub.cfg:\n"
    )
    assert (
        "note: Debian: the next update-grub drops the entries; the package (`make deb`) stays"
        in said
    )
    edit(made, "rm /etc/debian_version")
    kernel = str(artefacts.kernel("6.1"))
    said = images.done("add", made.path, "--out", out, "--dry-run", "--kernel", kernel)
    for words in (
        "note: let the system run `cowflush daemon`, and `cowflush stop --shutdown` as its last step",
        "note: the kernel is another one than the image's: modules of its own don't fit",
    ):
        assert words in said


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


def test_an_image_with_an_initramfs_is_not_changed_without_another_kernel(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.voyage, initrd=True)
    assert (
        "it boots with an initramfs of its own (/boot/initrd.img), so the card's driver may be a module, which cowflush's does not load."
        in refuse(boot, made)
    )
    card = added(boot, made, "--kernel", str(artefacts.kernel("6.1")))
    assert card.read("/boot/cowflush.krn") == artefacts.kernel("6.1").read_bytes()
    menu = card.read(MENU).decode()
    assert menu.count("linux /boot/cowflush.krn root=PARTUUID=") == 2


@pytest.mark.thorough
def test_an_image_with_an_initramfs_boots_with_another_kernel(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.voyage, initrd=True)
    card = added(boot, made, "--kernel", str(artefacts.kernel("6.12")))
    vm = images.boot(boot, card)
    assert mode(vm) == "deferring" and vm.run("uname -r").text.startswith("6.12")


def root_of(card: Card, folder: Path) -> Listed:
    folder.mkdir()
    card.fs().dump("/", folder)
    return listed(folder)


@pytest.mark.thorough
def test_openwrt_s_image_gets_what_its_package_installs(boot: Lab, bases_made: Made) -> None:
    """The package's own script says what is enabled; here it is run as in an image builder."""
    made = bases_made(boot, bases.openwrt)
    before = root_of(made.card(), boot.directory / "before")
    after = root_of(added(boot, made), boot.directory / "after")
    tree = boot.directory / "installed"
    bases.openwrt_tree(tree)
    plain = listed(tree)
    bases.install_ipk(tree)
    installed = {
        name: what
        for name, what in listed(tree).items()
        if plain.get(name) != what and not name.startswith("usr/lib")
    }
    assert {"etc/rc.d/S13cowflush", "etc/rc.d/K89cowflush", "usr/sbin/cowflush"} <= set(installed)
    assert {name: what for name, what in after.items() if before.get(name) != what} == installed
    assert set(before) <= set(after)


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


def no_filesystem(made: Base) -> None:
    with open(made.path, "r+b") as file:
        file.truncate(120 << 20)
    bases.tool("sfdisk", "--quiet", "--append", made.path, stdin=b",4M\n")
    replace(made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz root=/dev/sda2\n}\n')


def without_snapshots() -> bytes:
    """A kernel that has all built in but these."""
    needs = {**kernels.NEEDS}
    del needs["CONFIG_DM_SNAPSHOT"]
    return image_of(b" ".join(needs.values()), gzip.compress)


def no_table(made: Base) -> None:
    made.path.write_bytes(bytes(1 << 20))


def gpt(made: Base) -> None:
    """The same card with the other kind of table; its partition, and what is in it, stay."""
    bases.tool("sgdisk", "--mbrtogpt", made.path)


def hybrid(made: Base) -> None:
    """The partition is in both tables: a change of one would not be one of the other."""
    gpt(made)
    bases.tool("sgdisk", "--hybrid=1:EE", made.path)


def torn_gpt(made: Base) -> None:
    """Both copies are damaged. What protects it from older programs looks like a DOS table."""
    hybrid(made)
    with open(made.path, "r+b") as file:
        for place in (512, made.path.stat().st_size - 512):
            file.seek(place)
            file.write(bytes(8))


MENU = "/boot/grub/grub.cfg"
BREAKS: dict[str, tuple[Callable[[Base], None], str]] = {
    "two menus": (
        lambda made: edit(
            made, "mkdir /boot/extlinux", "cd /boot/extlinux", f"write {__file__} extlinux.conf"
        ),
        "several boot loader configurations are there, and it is not clear which counts: ",
    ),
    "no loader": (
        lambda made: edit(made, f"rm {MENU}"),
        "no grub.cfg, extlinux.conf or syslinux.cfg is in its ext and FAT partitions: which boot loader is it?",
    ),
    "no kernel": (
        lambda made: edit(made, "rm /boot/vmlinuz"),
        "/boot/grub/grub.cfg starts /boot/vmlinuz, which is not in partition 1",
    ),
    "twice": (twice, "grub.cfg has cowflush's entries already"),
    "other root": (
        lambda made: replace(
            made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz root=/dev/sda3\n}\n'
        ),
        "root=/dev/sda3 names none of the image's partitions",
    ),
    "odd root": (
        lambda made: replace(
            made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz root=/dev/nfs\n}\n'
        ),
        "root=/dev/nfs is not understood: it must be /dev/sda1, PARTUUID=, UUID= or LABEL=",
    ),
    "no root": (
        lambda made: replace(made, MENU, b'menuentry "x" {\nlinux /boot/vmlinuz\n}\n'),
        "the entry that is started by itself has no root=",
    ),
    "no filesystem": (
        no_filesystem,
        "partition 2, which is its root, holds no ext2, ext3 or ext4",
    ),
    "no snapshots": (
        lambda made: replace(made, "/boot/vmlinuz", without_snapshots()),
        "the kernel lacks CONFIG_DM_SNAPSHOT (or has it as a module)",
    ),
    "the kernel is no bzImage for x86": (
        lambda made: replace(made, "/boot/vmlinuz", b"no kernel"),
        "the kernel is no bzImage for x86",
    ),
    "not unmounted": (
        lambda made: edit(made, "feature has_journal needs_recovery"),
        "was not unmounted: its journal is still to be replayed. Boot it once and shut it down, or run e2fsck on a copy",
    ),
    "full": (full, "KiB free, and "),
    "four partitions": (
        four,
        "all four primary partitions are in use, so there is no place for the flush log",
    ),
    "no table": (no_table, "has no partition table: is it the image of a whole card?"),
    "GPT": (
        gpt,
        "has a GPT partition table, as images for EFI have. Only those that boot by BIOS, with a DOS one, are understood: ",
    ),
    "GPT and DOS": (hybrid, "GPT partition table"),
    "torn GPT": (torn_gpt, "GPT partition table"),
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
    assert "is never changed: name another file to write, with --out" in images.refused(
        "add", made.path, "--out", made.path
    )
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
