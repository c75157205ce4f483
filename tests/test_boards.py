"""Every board's kernel configuration resolves, with all its options, on every kernel."""

from __future__ import annotations

import subprocess

import pytest

from vm import artefacts

# The board whose kernel is built: its build checks the same.
BUILT = "qemu-i586"
BOARDS = sorted(folder.parent.name for folder in (artefacts.TOP / "board").glob("*/kernel.config"))


def test_there_are_boards() -> None:
    assert {"alix2", BUILT} <= set(BOARDS)


@pytest.mark.parametrize("board", [board for board in BOARDS if board != BUILT])
@pytest.mark.parametrize("version", artefacts.KERNELS)
def test_a_board_s_configuration_resolves(version: str, board: str) -> None:
    script = artefacts.TOP / "cross" / "kernel.sh"
    run = subprocess.run([script, "--config-only", version, board], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    config = (artefacts.Path(run.stdout.strip()) / "config").read_text()
    assert "CONFIG_DM_SNAPSHOT=y" in config.splitlines()


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_complete(board: str) -> None:
    folder = artefacts.TOP / "board" / board
    assert "root=" in (folder / "cmdline").read_text()
    assert "label-id:" in (folder / "partitions.sfdisk").read_text()
    assert (folder / "README.md").read_text().startswith(f"# {board}")
