"""A board's image: it boots through its own boot loader, keeps what was flushed, and ends in order.

`alix2` is the image with the board's own kernel, which only `make test-systems` builds. An image
with the tests' kernel can be tested without that.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from pathlib import Path

import pytest

from harness import artefacts, local, sparse
from harness.card import Card
from harness.lab import Lab
from harness.machine import VM
from product import flushlog
from product.router import when_free
from systems import images

BOARD = artefacts.TOP / "board" / "alix2"
MIB = 2048
OURS, ALIX2 = "6.1", "alix2"
REAL = pytest.param(ALIX2, marks=pytest.mark.systems)


@pytest.fixture(scope="session")
def with_our_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("board") / "alix2.img"
    images.done("board", "alix2", "--kernel", artefacts.kernel(OURS), "--out", image)
    return image


@pytest.fixture
def image(request: pytest.FixtureRequest) -> Path:
    """The board's image, with the kernel of this name."""
    if request.param == ALIX2:
        return artefacts.needed(artefacts.BUILD / "alix2.img")
    ours: Path = request.getfixturevalue("with_our_kernel")
    return ours


def mode(vm: VM) -> str:
    """How root was mounted at boot."""
    return str(json.loads(vm.run("cowflush status --json").output)["boot"]["mode"])


@pytest.mark.parametrize("image", [OURS, REAL], indirect=True)
def test_partitions_are_aligned_and_the_console_has_the_board_s_rate(
    boot: Lab, image: Path
) -> None:
    fresh = images.copy(boot, image)
    assert [partition.start % (4 * MIB) for partition in fresh.partitions] == [0, 0]
    menu = fresh.read("/boot/grub/grub.cfg").decode()
    rate = re.search(r"console=ttyS0,(\d+)n8", (BOARD / "cmdline").read_text())
    assert rate and f"serial --unit=0 --speed={rate[1]} " in menu
    assert (BOARD / "cmdline").read_text().strip() in menu
    fresh.fsck()
    assert fresh.read("/usr/sbin/cowflush") == artefacts.cowflush().read_bytes()
    assert fresh.read("/boot/cowflush.gz") == artefacts.initramfs().read_bytes()
    # To the second reader: an empty log, made for this root
    log = flushlog.FlushLog(fresh)
    assert log.whole and log.segments == [] and log.header.root_sectors == fresh.root.size
    uuid = fresh.fs().superblock()["Filesystem UUID"]
    assert log.header.root_uuid.hex() == uuid.replace("-", "")


def test_the_same_sources_give_the_same_image(with_our_kernel: Path, tmp_path: Path) -> None:
    """Neither the folder, the umask, the zone, nor the host's mke2fs and mtools settings matter."""
    (tmp_path / "mke2fs.conf").write_text(
        "[defaults]\n\tinode_size = 128\n\tbase_features = filetype\n"
    )
    again = tmp_path / "some where" / "other name.img"
    run = local.run(
        ["sh", "-c", 'umask 077; exec "$@"', "-", sys.executable, "-m", "image", "board", "alix2",
         "--kernel", artefacts.kernel(OURS), "--out", again],
        cwd=artefacts.TOP,
        capture_output=True,
        env={**os.environ, "TZ": "Asia/Tokyo", "MKE2FS_CONFIG": f"{tmp_path}/mke2fs.conf", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert again.stat().st_size == with_our_kernel.stat().st_size
    assert sparse.differing_sectors(again, with_our_kernel) == []


def test_another_root_has_another_log(with_our_kernel: Path, tmp_path: Path) -> None:
    """The log's UUID and numbers come from root's content: two images must not have the same."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(artefacts.kernel(OURS).read_bytes() + b"x")
    other = tmp_path / "other.img"
    images.done("board", "alix2", "--kernel", kernel, "--out", other)
    one, two = (flushlog.FlushLog(Card(path)).header for path in (with_our_kernel, other))
    assert one.root_uuid == two.root_uuid and one.uuid != two.uuid


def test_the_licences_of_all_its_parts_are_in_it(with_our_kernel: Path) -> None:
    packed = Card(with_our_kernel).read("/usr/share/doc/cowflush/third-party.gz")
    text = gzip.decompress(packed).decode()
    for words in ("argh 0", "syslog 7", "musl (MIT)", "Rust's standard library", "Linux 6.1.", "BusyBox v1", "GRUB 2",
                  "written offer", "snapshot archive"):  # fmt: skip
        assert words in text
    # Each text once: GPL 2 and GPL 3
    assert (
        text.count("TERMS AND CONDITIONS FOR COPYING") == 1
        and text.count("Version 3, 29 June 2007") == 1
    )


@pytest.mark.parametrize("image", [REAL], indirect=True)
def test_it_boots_as_it_is_up_to_the_login(boot: Lab, image: Path) -> None:
    vm = images.boot(boot, images.copy(boot, image), wait=False)
    vm.wait_console("root is cowflush-root over sda1")
    vm.wait_console("login: $")
    vm.type("root\n")
    vm.wait_console("# $")
    vm.type("cowflush status | head -n 1\n")
    vm.wait_console("^mode +deferring: writes stay in RAM, sda1 is only read")
    vm.kill()
    # Nothing was flushed yet: the card is as flashed, except for both copies of the log's header,
    # since a log made in an image learns only then where its root is, and for the sector after the
    # second, where init counts boots.
    log = vm.card.partitions[1]
    headers = [log.start, log.start + log.size - flushlog.CHUNK // sparse.SECTOR]
    assert vm.card.differing_sectors(Card(image)) == [*headers, headers[1] + 1]


@pytest.mark.parametrize(
    "image", [pytest.param(OURS, marks=pytest.mark.thorough), REAL], indirect=True
)
def test_what_was_flushed_survives_a_power_cut(boot: Lab, image: Path) -> None:
    vm = images.boot(boot, images.with_agent(images.copy(boot, image)))
    assert mode(vm) == "deferring"
    vm.run("seq 100000 >/root/kept").ok()
    assert "flushed to the log on sda2" in when_free(vm, "flush").ok().text
    vm.run("echo later >/root/lost; sync").ok()
    vm.kill()
    root = flushlog.recovered(vm.card)
    root.fsck()
    assert root.read("/root/kept") == b"".join(b"%d\n" % n for n in range(1, 100001))
    again = images.boot(boot, vm.card)
    again.run("[ -s /root/kept ] && [ ! -e /root/lost ]").ok()
    assert "the flush log on sda2 holds 1 flushes" in again.console


@pytest.mark.parametrize("image", [REAL], indirect=True)
def test_a_reboot_leaves_all_on_the_card_with_64_mb(boot: Lab, image: Path) -> None:
    vm = images.boot(boot, images.with_agent(images.copy(boot, image)), memory=64)
    vm.run("echo here >/root/file").ok()
    assert vm.run_last("reboot", timeout=120) == "guest-reset"
    assert "all data are on the card" in vm.console
    vm.card.fsck()
    assert vm.card.read("/root/file") == b"here\n"
    assert b"syslogd started" in vm.card.read("/var/log/messages")


@pytest.mark.parametrize("image", [REAL], indirect=True)
def test_the_fallback_entry_uses_the_plain_card(boot: Lab, image: Path) -> None:
    vm = images.boot(boot, images.with_agent(images.copy(boot, image)), wait=False)
    vm.wait_console("the plain card")
    vm.type(images.DOWN + "\r")
    vm.wait_boot()
    assert mode(vm) == "off"
    vm.run("echo direct >/root/file; sync").ok()
    vm.kill()
    assert vm.card.fs(replay=True).read("/root/file") == b"direct\n"
