"""image.add adds cowflush to copies of other systems' images, which boot with and without it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boot.test_modules import elf
from harness import artefacts, ext, local, sparse
from harness.card import Card
from harness.folder import Listed, listed
from harness.lab import Lab
from harness.machine import VM
from images.test_image_configs import image_of
from product import flushlog
from product.router import when_free
from systems import bases, images
from systems.bases import Base, Laid

sys.path.insert(0, str(artefacts.TOP))

from image import kernel as kernels
from image.ext import Ext

LOADERS = {
    "voyage": bases.voyage,
    "sector 63": bases.old_voyage,
    "syslinux": bases.syslinux,
}
# At SYSLINUX's prompt one types a label's name; GRUB has a menu.
CHOICES = {
    "voyage": [images.DOWN * 2 + "\r", images.DOWN + "\r"],
    "sector 63": [images.DOWN * 2 + "\r", images.DOWN + "\r"],
    "syslinux": ["old\r", "cowflush-off\r"],
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
    # The partitions of the table stay where they were.
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

    # A boot by the old entry gets the log's flushes, too; and so does the other entry of ours.
    for choice in CHOICES[loader]:
        vm = images.boot(boot, card, wait=False)
        vm.wait_console(MENUS[loader])
        vm.type(choice)
        vm.wait_boot()
        assert mode(vm) == "off"
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
    """The image has two gzip members, what OpenWrt appends, and old data in the tail."""
    made = bases_made(boot, bases.voyage)
    with open(made.path, "r+b") as file:
        file.truncate(200 << 20)
        file.seek(150 << 20)
        file.write(b"old" * 10000)
    plain = made.path.read_bytes()
    half = 5 << 20
    packed = boot.directory / "packed.img.gz"
    members = gzip.compress(plain[:half], 1) + gzip.compress(plain[half:], 1)
    packed.write_bytes(members + fwtool(b"metadata") + fwtool(b"signature"))
    out = boot.directory / "added.img"
    assert "grows" not in images.done("add", packed, "--out", out, "--log-size", "120M")
    card = Laid(out, 1, 2)
    assert out.stat().st_size == 200 << 20
    card.fsck()
    assert b"cowflush.gz" in card.read("/boot/grub/grub.cfg")
    # The log, over that old data, has nothing but its two headers.
    assert set(sparse.differing_sectors(out, blank(card, boot.directory / "blank.img"))) <= {
        card.log.start, card.log.start + card.log.size - 8
    }  # fmt: skip


def fwtool(content: bytes) -> bytes:
    """The content with OpenWrt's fwtool data after it: magic, checksum, type, both sizes."""
    return content + struct.pack(">4sIB3xI", b"FWx0", 0, 1, len(content) + 16)


def blank(card: Laid, path: Path) -> Path:
    """The same card with zeros in its log."""
    sparse.copy(card.path, path)
    with open(path, "r+b") as file:
        file.seek(card.log.start * 512)
        file.write(bytes(card.log.size * 512))
    return path


def not_shut_down(made: Base) -> None:
    """Leaves a filesystem without a journal as a power cut does: its bitmaps miss a file."""
    own = made.path.with_suffix(".file")
    own.write_bytes(OWN)
    edit(made, f"write {own} precious")
    fs = made.card().fs()
    blocks = fs.blocks("/precious")
    edit(made, f"freeb {blocks[0]} {len(blocks)}", "ssv state 0")


OWN = b"precious" * 4096


def plain(made: Base) -> None:
    """Leaves the image as it is."""


def ahead(made: Base) -> None:
    """Dates the filesystem as if made where the clock is years ahead."""
    for field in ("wtime", "lastcheck", "mkfs_time"):
        edit(made, f"ssv {field} 20350101000000")


@pytest.mark.parametrize("layout", ["voyage", "syslinux"])
@pytest.mark.parametrize(
    "change",
    [
        plain,
        pytest.param(not_shut_down, marks=pytest.mark.thorough),
        pytest.param(ahead, marks=pytest.mark.thorough),
    ],
    ids=lambda change: change.__name__,
)
def test_the_same_base_gives_the_same_image(
    boot: Lab, bases_made: Made, layout: str, change: Callable[[Base], None]
) -> None:
    """The folder and the time of making don't matter."""
    made = bases_made(boot, LOADERS[layout])
    change(made)
    elsewhere = boot.directory / "else where" / "added.img"
    one = added(boot, made).path
    images.done("add", made.path, "--out", elsewhere)
    assert digest(one) == digest(elsewhere)


ODD = ["at@@12.img", "quote'\".img", "-dash.img", "line\nbreak.img", "$HOME.img", "\udcff.img"]


@pytest.mark.parametrize(
    "name",
    ["a b?offset=0.img", *(pytest.param(name, marks=pytest.mark.thorough) for name in ODD)],
)
def test_odd_names_are_names(boot: Lab, bases_made: Made, name: str) -> None:
    """The name of the base and of the result; TMPDIR is odd, too."""
    made = bases_made(boot, bases.voyage)
    folder = boot.directory / f"{name}.folder"
    folder.mkdir()
    base, out = made.path.rename(folder / name), folder / f"x{name}"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    # Not by local.run, whose record is text.
    run = subprocess.run(
        [sys.executable, "-m", "image", "add", "--out", out, "--", base],
        cwd=artefacts.TOP,
        capture_output=True,
        env=environment,
        timeout=local.LIMIT_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(os.listdir(folder)) == sorted([name, f"x{name}"])
    Laid(out.rename(boot.directory / "card.img"), 1, 2).fsck()


def test_what_is_there_is_not_replaced_by_the_way(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.voyage)
    out = boot.directory / "out.img"
    out.write_bytes(b"my only copy")
    assert "is there already" in images.refused("add", made.path, "--out", out)
    assert out.read_bytes() == b"my only copy"
    assert "out.img of 2" in images.done("add", made.path, "--out", out, "--replace")
    link, fifo = boot.directory / "link", boot.directory / "fifo"
    link.symlink_to(out)
    os.mkfifo(fifo)
    for other in (link, fifo, boot.directory):
        assert "is no file" in images.refused("add", made.path, "--out", other, "--replace")
    assert link.is_symlink() and fifo.is_fifo()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),
        pytest.param(signal.SIGINT, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_leaves_nothing_behind(
    boot: Lab, bases_made: Made, number: signal.Signals
) -> None:
    made = bases_made(boot, bases.voyage)
    folder = boot.directory / "out"
    folder.mkdir()
    command = [sys.executable, "-m", "image", "add", str(made.path), "--out", f"{folder}/out.img"]
    with subprocess.Popen(command, cwd=artefacts.TOP, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.iterdir()):
            assert process.poll() is None
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "image: stopped\n")
    assert list(folder.iterdir()) == []


def test_a_filesystem_that_was_not_shut_down_is_checked_in_the_copy(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.voyage)
    not_shut_down(made)
    before = digest(made.path)
    out = boot.directory / "added.img"
    said = images.done("add", made.path, "--out", out)
    assert "note: partition 1 was not unmounted: e2fsck has mended it in the copy" in said
    assert digest(made.path) == before
    card = Laid(out, 1, 2)
    card.fsck()
    # cowflush's files have overwritten nothing.
    assert card.read("/precious") == OWN
    assert card.read("/boot/cowflush.gz") == artefacts.initramfs().read_bytes()


def test_one_that_says_it_was_shut_down_is_looked_at_all_the_same(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.voyage)
    not_shut_down(made)
    edit(made, "ssv state 1")
    said = images.done("add", made.path, "--out", boot.directory / "added.img")
    assert "note: partition 1 was damaged: e2fsck has mended it in the copy" in said
    assert Laid(boot.directory / "added.img", 1, 2).read("/precious") == OWN


def test_the_owner_s_configuration_stays(boot: Lab, bases_made: Made) -> None:
    """OpenWrt's in /etc/config, and /run, which is a link on a router that has run once."""
    made = bases_made(boot, bases.openwrt)
    own = made.path.with_suffix(".config")
    own.write_bytes(b"config daemon 'daemon'\n\toption interval '3h'\n")
    edit(
        made,
        "mkdir /etc/config",
        "cd /etc/config",
        f"write {own} cowflush",
        "cd /",
        "symlink run /var/run",
    )
    out = boot.directory / "added.img"
    said = images.done("add", made.path, "--out", out)
    assert "note: the image's own /etc/config/cowflush stays" in said
    card = Laid(out, 2, 3)
    card.fsck()
    assert card.read("/etc/config/cowflush") == own.read_bytes()
    assert card.read("/usr/sbin/cowflush") == artefacts.cowflush().read_bytes()


def test_links_to_folders_are_folders(boot: Lab, bases_made: Made) -> None:
    """/lib is a link in a system whose folders were merged into /usr."""
    made = bases_made(boot, bases.openwrt)
    lib = bases.OPENWRT / "lib"
    gone = [lib, *lib.rglob("*")]
    edit(
        made,
        *("mkdir /usr/lib", "mkdir /usr/lib/preinit", "mkdir /usr/share", "mkdir /usr/doc"),
        *(
            f"{'rmdir' if path.is_dir() else 'rm'} /{path.relative_to(bases.OPENWRT)}"
            for path in sorted(gone, reverse=True)
        ),
        *("symlink /lib usr/lib", "symlink /usr/share/doc ../doc", "symlink run /var/run"),
    )
    card = added(boot, made)
    card.fsck()
    hook = (artefacts.TOP / "package/openwrt/files/cowflush.preinit").read_bytes()
    assert card.read("/usr/lib/preinit/79_cowflush") == hook
    assert gzip.decompress(card.read("/usr/doc/cowflush/third-party.gz"))


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry run", "run"])
def test_a_dry_run_is_refused_where_the_run_is(boot: Lab, bases_made: Made, dry: list[str]) -> None:
    made = bases_made(boot, bases.openwrt)
    out = boot.directory / "out.img"
    out.write_bytes(b"mine")
    assert "is there already" in images.refused("add", made.path, "--out", out, *dry)
    assert out.read_bytes() == b"mine"
    out.unlink()
    edit(made, f"write {__file__} usr/share")
    assert images.refused("add", made.path, "--out", out, *dry) == (
        "/usr/share/doc/cowflush/third-party.gz can't be put into the image: /usr/share is no folder in it, nor leads to one"
    )
    assert not out.exists()


def test_the_owner_s_cowflush_conf_stays(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.openwrt)
    own = made.path.with_suffix(".conf")
    own.write_bytes(b"interval = 3h\n")
    edit(made, "cd /etc", f"write {own} cowflush.conf")
    out = boot.directory / "added.img"
    said = images.done("add", made.path, "--out", out)
    assert "note: the image's own /etc/cowflush.conf stays" in said
    assert Laid(out, 2, 3).read("/etc/cowflush.conf") == own.read_bytes()


def test_the_licences_of_the_parts_go_along(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.voyage)
    kernel = str(artefacts.kernel("6.1"))
    card = added(boot, made, "--kernel", kernel)
    text = gzip.decompress(card.read("/usr/share/doc/cowflush/third-party.gz")).decode()
    for words in (
        "argh 0",
        "nix 0",
        "syslog 7",
        "musl",
        "Rust's standard library",
        "GNU GENERAL PUBLIC LICENSE",
    ):
        assert words in text
    assert "Linux 6.1." in text and "linux-source" in text


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
    # The old entry has it, too: its own initramfs would start root past the flush log.
    assert menu.count("linux /boot/cowflush.krn root=PARTUUID=") == 3
    assert menu.count("initrd /boot/cowflush.gz") == 3 and "initrd.img" not in menu


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


def test_an_old_entry_keeps_its_kernel_where_that_can_start_our_initramfs(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.voyage)
    lines = [
        f"menuentry {name} {{\nlinux {what}\n}}"
        for name, what in (
            ("good", "/boot/vmlinuz root=/dev/sda1"),
            ("bare", "/boot/bare root=UUID=1 root=/dev/sda1"),
            ("gone", "/boot/gone root=/dev/sda1"),
            ("far", "(hd1,1)/k root=/dev/sda1"),
            ("unknown", "/boot/bare root=0801"),
            ("net", "/boot/bare root=/dev/nfs"),
            ("memory", "/boot/bare once"),
        )
    ]
    lines.append("menuentry own {\nlinux /boot/vmlinuz root=/dev/sda1\ninitrd /boot/initrd.img\n}")
    menu = made.path.with_suffix(".menu")
    menu.write_text("\n".join([*lines, ""]))
    needs = {**kernels.NEEDS}
    del needs["CONFIG_BLK_DEV_INITRD"]
    bare = made.path.with_suffix(".bare")
    bare.write_bytes(image_of(b" ".join(needs.values()), gzip.compress))
    edit(made, "cd /boot", f"write {bare} bare", "cd grub", "rm grub.cfg", f"write {menu} grub.cfg")
    out = boot.directory / "added.img"
    said = images.done("add", made.path, "--out", out)
    for name in ("bare", "gone", "far", "unknown"):
        assert (
            f'note: the entry "{name}" starts /boot/vmlinuz: its own kernel can\'t be started by way of the flush log'
            in said
        )
    assert 'the entry "good"' not in said
    text = Laid(out, 1, 2).read(MENU).decode()
    started = [line for line in text.split("\n") if line.startswith("linux")]
    assert started == [
        *(f"linux /boot/vmlinuz root=/dev/sda1 cowflush={word}" for word in ("on", "off", "off")),
        "linux /boot/vmlinuz root=UUID=1 root=/dev/sda1 cowflush=off",
        *["linux /boot/vmlinuz root=/dev/sda1 cowflush=off"] * 2,
        "linux /boot/vmlinuz root=0801 cowflush=off",
        "linux /boot/bare root=/dev/nfs",
        "linux /boot/bare once",
        "linux /boot/vmlinuz root=/dev/sda1 cowflush=off",
    ]
    assert text.count("initrd") == text.count("initrd /boot/cowflush.gz") == 8


@pytest.mark.thorough
def test_openwrt_s_image_gets_what_its_package_installs(boot: Lab, bases_made: Made) -> None:
    """The package's own script decides what is enabled; here it runs as in an image builder."""
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
        if plain.get(name) != what and name.split("/")[:2] != ["usr", "lib"]
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


def both(*steps: Callable[[Base], None]) -> Callable[[Base], None]:
    def all_of_them(made: Base) -> None:
        for step in steps:
            step(made)

    return all_of_them


def own_menu(made: Base) -> None:
    """Moves the owner's entries to a file of their own, which GRUB reads, too."""
    text = made.card().read(MENU).decode()
    replace(made, MENU, (text + "source $prefix/custom.cfg\n").encode())
    edit(made, "cd /boot/grub", f"write {__file__} custom.cfg")


def without_log(made: Base) -> None:
    """Makes the log's partition into something else; the entries stay."""
    card = Laid(made.path, 1, 2)
    for chunk in (0, card.log.size // 8 - 1):
        wipe(card, chunk)


def one_header(made: Base) -> None:
    wipe(Laid(made.path, 1, 2), 0)


def wipe(card: Laid, chunk: int) -> None:
    with open(card.path, "r+b") as file:
        file.seek(card.log.start * 512 + chunk * 4096)
        file.write(bytes(4096))


def small_partition(made: Base) -> None:
    """Makes the partition smaller than its filesystem."""
    start = made.card().partitions[0].start
    bases.tool(
        "sfdisk",
        "--quiet",
        made.path,
        stdin=f"label: dos\nstart={start}, size=65536, type=83\n".encode(),
    )


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
    """A kernel that has everything built in but snapshots."""
    needs = {**kernels.NEEDS}
    del needs["CONFIG_DM_SNAPSHOT"]
    return image_of(b" ".join(needs.values()), gzip.compress)


RELEASE = "6.6.73"
# Of a release's kernel: what each module says that it needs.
IN_PIECES = {"dm-mod": "", "dm-snapshot": "dm-bufio,dm-mod", "dm-bufio": "dm-mod", "usbhid": "hid"}


def in_pieces() -> bytes:
    """A kernel as OpenWrt's releases have it."""
    needs = {**kernels.NEEDS}
    for option in ("CONFIG_BLK_DEV_DM", "CONFIG_DM_SNAPSHOT", "CONFIG_DEVTMPFS"):
        del needs[option]
    image = bytearray(image_of(b" ".join(needs.values()), gzip.compress))
    place = 768
    struct.pack_into("<H", image, kernels.RELEASE_AT, place - 512)
    text = f"{RELEASE} (builder@host)\0".encode()
    image[place : place + len(text)] = text
    return bytes(image)


def test_an_openwrt_whose_kernel_has_the_snapshots_as_modules_gets_them_in_the_initramfs(
    boot: Lab, bases_made: Made
) -> None:
    made = bases_made(boot, bases.openwrt)
    first = f"{made.path}?offset={made.card().partitions[0].start * 512}"
    kernel = boot.directory / "vmlinuz"
    kernel.write_bytes(in_pieces())
    ext.edit(first, ["cd /boot", "rm vmlinuz", f"write {kernel} vmlinuz"])
    folder = f"/lib/modules/{RELEASE}"
    wanted = (
        "the kernel has CONFIG_BLK_DEV_DM, CONFIG_DM_SNAPSHOT neither built in nor as a module in "
    )
    assert wanted + folder in refuse(boot, made)
    script = ["mkdir /lib/modules", f"mkdir {folder}", f"cd {folder}"]
    for name, needed in IN_PIECES.items():
        module = boot.directory / f"{name}.ko"
        module.write_bytes(elf([f"depends={needed}", f"name={name}"], wide=False))
        script.append(f"write {module} {module.name}")
    made.card().edit(script)
    out = boot.directory / "added.img"
    said = images.done("add", made.path, "--out", out)
    assert f"note: the initramfs has modules of {RELEASE}, as the image" in said
    packed = Ext(out, made.card().partitions[0].start * 512).read("/boot/cowflush.gz")
    assert packed
    listed = "".join(f"{folder}/{name}.ko\n" for name in ("dm-mod", "dm-bufio", "dm-snapshot"))
    archive = gzip.decompress(packed)
    assert listed.encode() in archive and b"usbhid" not in archive

    made.card().edit([f"rm {folder}/dm-bufio.ko"])
    assert f"the modules in {folder} can't be used: " in (said := refuse(boot, made))
    assert "dm_snapshot needs dm_bufio" in said


def no_table(made: Base) -> None:
    made.path.write_bytes(bytes(1 << 20))


def gpt(made: Base) -> None:
    """Gives the card the other kind of table; its partition and content stay."""
    bases.tool("sgdisk", "--mbrtogpt", made.path)


def hybrid(made: Base) -> None:
    """Puts the partition in both tables: a change of one would not change the other."""
    gpt(made)
    bases.tool("sgdisk", "--hybrid=1:EE", made.path)


def torn_gpt(made: Base) -> None:
    """Damages both copies; what protects a GPT from older programs then looks like a DOS table."""
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
    "an older GRUB's": (
        lambda made: edit(made, "cd /boot/grub", f"write {__file__} menu.lst"),
        "/boot/grub/grub.cfg in partition 1, /boot/grub/menu.lst in partition 1",
    ),
    "no loader": (
        lambda made: edit(made, f"rm {MENU}"),
        "no grub.cfg, extlinux.conf or syslinux.cfg is in its ext and FAT partitions: which boot loader is it?",
    ),
    "no kernel": (
        lambda made: edit(made, "rm /boot/vmlinuz"),
        "/boot/grub/grub.cfg starts /boot/vmlinuz, which is not in partition 1",
    ),
    "twice": (
        twice,
        "partition 2 is a flush log already, and a card has one: begin with the image as it was before, or flash it as it is",
    ),
    "twice, without its log": (
        both(twice, without_log),
        "grub.cfg has cowflush's entries already: begin with the image as it was before",
    ),
    "half a log": (
        both(twice, one_header),
        "partition 2 is a flush log already",
    ),
    "package": (
        lambda made: edit(
            made,
            "mkdir /var/lib",
            "mkdir /var/lib/dpkg",
            "mkdir /var/lib/dpkg/info",
            "cd /var/lib/dpkg/info",
            f"write {__file__} cowflush.list",
        ),
        "cowflush's package is installed in it",
    ),
    "64 bits": (
        lambda made: replace(
            made,
            "/boot/vmlinuz",
            image_of(b" ".join(kernels.NEEDS.values()), gzip.compress, bits=64),
        ),
        "the kernel lacks CONFIG_IA32_EMULATION",
    ),
    "cut short": (
        lambda made: os.truncate(made.path, 40 << 20),
        "is cut short: it has 41,943,040 bytes",
    ),
    "cut short in the superblock": (
        lambda made: os.truncate(made.path, (1 << 20) + 1500),
        "is cut short",
    ),
    "small partition": (small_partition, "the filesystem in partition 1 has"),
    "custom.cfg": (own_menu, "grub.cfg continues in another file (/boot/grub/custom.cfg)"),
    "a name of two lines": (
        lambda made: replace(
            made, MENU, b'menuentry "x" {\nlinux "/boot/vm\nlinuz" root=/dev/sda1\n}\n'
        ),
        "grub.cfg: linux",
    ),
    "a name with quotes": (
        lambda made: replace(
            made, MENU, b"menuentry x {\nlinux '/boot/\"rm /boot' root=/dev/sda1\n}\n"
        ),
        "which is not in partition 1",
    ),
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
    "no bzImage": (
        lambda made: replace(made, "/boot/vmlinuz", b"no kernel"),
        "the kernel is no bzImage for x86",
    ),
    "beyond repair": (
        lambda made: edit(made, "ssv state 0", "clri <2>"),
        "partition 1 was not unmounted, and e2fsck can't mend it by itself",
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


# `make test` has others of the same kind.
THOROUGH = {
    "a name of two lines", "a name with quotes", "an older GRUB's", "cut short in the superblock", "GPT and DOS", "half a log",
    "no bzImage", "no root", "odd root", "other root", "package", "small partition", "torn GPT", "twice, without its log",
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.thorough) if case in THOROUGH else case
        for case in BREAKS
    ],
)
def test_what_is_not_understood_is_refused(boot: Lab, bases_made: Made, case: str) -> None:
    made = bases_made(boot, bases.voyage)
    break_it, why = BREAKS[case]
    break_it(made)
    assert why in refuse(boot, made)


def test_the_boot_partition_must_be_in_order_too(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.openwrt)
    offset = made.card().partitions[0].start * 512
    ext.edit(f"{made.path}?offset={offset}", ["ssv state 0"])
    said = images.done("add", made.path, "--out", boot.directory / "added.img")
    assert "note: partition 1 was not unmounted: e2fsck has mended it" in said
    ext.edit(f"{made.path}?offset={offset}", ["clri <2>"])
    assert "partition 1 was not unmounted, and e2fsck can't mend it" in refuse(boot, made)


def test_a_root_that_may_be_one_of_two_is_refused(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.openwrt)
    first = made.card().partitions[0].start * 512
    menu = made.path.with_suffix(".menu")
    menu.write_bytes(b'menuentry "x" {\nlinux /boot/vmlinuz root=LABEL=rootfs\n}\n')
    script = ["cd /boot/grub", "rm grub.cfg", f"write {menu} grub.cfg", "ssv volume_name rootfs"]
    ext.edit(f"{made.path}?offset={first}", script)
    assert "root=LABEL=rootfs names several of the image's partitions" in refuse(boot, made)


def test_a_fat_that_was_not_unmounted_is_refused(boot: Lab, bases_made: Made) -> None:
    made = bases_made(boot, bases.syslinux)
    with open(made.path, "r+b") as file:
        file.seek(made.card().partitions[0].start * 512 + 37)
        file.write(b"\x01")
    assert "partition 1 was not unmounted: boot it once" in refuse(boot, made)


def test_a_packed_image_that_is_not_whole_is_refused(boot: Lab, bases_made: Made) -> None:
    """test_image_regions.py tests each kind of damage."""
    made = bases_made(boot, bases.voyage)
    packed = made.path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(made.path.read_bytes(), 1)[:-1])
    assert "is cut short: get it again" in refuse(boot, Base(packed, made.root))


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
