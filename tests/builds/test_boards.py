"""Every board's kernel configuration resolves, with all its options, on every kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import artefacts, local

sys.path.insert(0, str(artefacts.TOP))

from image import kernel

# Boards whose kernels are all built: building them checks the same.
BUILT = ("qemu-i586",)
# Boards of which one kernel is built, for an image.
IMAGES = ("alix2", "openwrt-geode")
FRAGMENT = artefacts.TOP / "package" / "openwrt" / "kernel.config"
BOARDS = sorted(folder.parent.name for folder in (artefacts.TOP / "board").glob("*/kernel.config"))


def test_there_are_boards() -> None:
    assert {*IMAGES, *BUILT} <= set(BOARDS)


def version_of(board: str) -> str:
    """The kernel that a board is tested with."""
    return (artefacts.TOP / "board" / board / "kernel.version").read_text().strip()


# Half a minute each the first time, to unpack the kernel's sources. Boards in BUILT are left out:
# building them checks the same.
RESOLVED = [
    pytest.param(
        version,
        board,
        marks=pytest.mark.thorough if version == version_of(board) else pytest.mark.systems,
    )
    for version in artefacts.KERNELS
    for board in BOARDS
    if board not in BUILT
]


@pytest.mark.parametrize(("version", "board"), RESOLVED)
def test_a_board_s_configuration_resolves(version: str, board: str) -> None:
    script = artefacts.TOP / "cross" / "kernel"
    run = local.run(
        [script, "--config-only", version, board], capture_output=True, text=True, timeout=3600
    )
    assert run.returncode == 0, run.stderr
    config = Path(run.stdout.strip(), "config").read_text()
    assert "CONFIG_DM_SNAPSHOT=y" in config.splitlines()


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_complete(board: str) -> None:
    folder = artefacts.TOP / "board" / board
    assert "root=" in (folder / "cmdline").read_text()
    assert "label-id:" in (folder / "partitions.sfdisk").read_text()
    assert (folder / "README.md").read_text().startswith(f"# {board}")
    assert version_of(board) in artefacts.KERNELS


def options(*files: Path) -> set[str]:
    """The options that fragments switch on, for any kernel."""
    lines = [line.split("#")[0].strip() for file in files for line in file.read_text().splitlines()]
    return {line for line in lines if line.startswith("CONFIG_")}


@pytest.mark.systems
@pytest.mark.parametrize("board", IMAGES)
def test_a_built_kernel_has_every_option(board: str) -> None:
    """The built kernel itself has each option, not only its configuration."""
    folder = artefacts.needed(artefacts.BUILD / f"kernel-{board}" / "bzImage").parent
    config = set((folder / "config").read_text().splitlines())
    wanted = options(
        artefacts.TOP / "board" / board / "kernel.config", artefacts.TOP / "board" / "kernel.config"
    )
    # Options that one of the kernels no longer has, or does not have yet.
    elsewhere = (
        {"CONFIG_BLK_DEV_WRITE_MOUNTED=y"} if version_of(board) == "6.1" else {"CONFIG_BASE_FULL=y"}
    )
    assert wanted - config <= elsewhere
    assert kernel.missing((folder / "bzImage").read_bytes()) == []
    symbols = {line.split()[2] for line in (folder / "System.map").read_text().splitlines()}
    assert {
        "snapshot_ctr",
        "snapshot_merge_map",
        "loop_configure",
        "cs5536_init_one",
        "rhine_init_one_pci",
    } <= symbols


def test_openwrt_s_fragment_has_all_that_cowflush_needs() -> None:
    common = (artefacts.TOP / "board" / "kernel.config").read_text()
    # The two sections of it that begin with cowflush's name; those for fsck and the tests' clocks
    # are left out.
    sections = [part for part in common.split("\n\n") if part.startswith("# cowflush: ")]
    assert len(sections) == 2
    needs = {
        line.split("#")[0].strip()
        for section in sections
        for line in section.splitlines()
        if line.startswith("CONFIG_")
    }
    assert {"CONFIG_BLK_DEV_DM=y", "CONFIG_DM_SNAPSHOT=y", "CONFIG_BLK_DEV_LOOP=y"} <= needs
    # OpenWrt opens /dev/loop0 to 7 for its own overlay, so its kernel creates them.
    needs.remove("CONFIG_BLK_DEV_LOOP_MIN_COUNT=0")
    assert needs <= options(FRAGMENT)
    assert not any("LOOP_MIN_COUNT" in option for option in options(FRAGMENT))


@pytest.mark.systems
def test_the_kernel_of_openwrt_s_image_has_all_of_that_fragment() -> None:
    built = artefacts.board_kernel("openwrt-geode").with_name("config").read_text().splitlines()
    given = options(FRAGMENT)
    assert given and given <= set(built)
