"""Thousands of flushes in one guest: nothing grows, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import artefacts
from harness.lab import Lab
from product import daemon
from soak import life
from soak.life import FOLDER, Look

STEP_SECONDS = 10  # at most, on a busy host


@pytest.mark.parametrize(
    ("steps", "pieces"),
    [
        pytest.param(200, 2, marks=pytest.mark.thorough),
        pytest.param(10_000, 10, marks=pytest.mark.systems),
    ],
)
def test_nothing_grows_over_a_long_life(boot: Lab, steps: int, pieces: int) -> None:
    vm = boot(memory=128, inactivity=steps * STEP_SECONDS, total=steps * STEP_SECONDS)
    daemon.start(vm, life.CONFIG, log=True)
    # Everything happens once before the first look, which sets the figures that must hold.
    warm = steps // pieces // 2
    life.live(vm, 0, warm, warm * STEP_SECONDS)
    looks = [life.look(vm)]
    piece = (steps - warm) // pieces
    end = warm
    for _ in range(pieces):
        life.live(vm, end, end + piece, piece * STEP_SECONDS)
        end += piece
        looks.append(life.look(vm))
        life.save(looks, artefacts.BUILD / f"long-life-{steps}.json")
        print(life.table(looks), flush=True)
    life.check_shares(vm, end)
    life.check_flat(looks)
    vm.kill()
    image = daemon.root_of(vm.card, log=True)
    assert image.read(f"{FOLDER}/{end % life.FILES}").split()[0] == str(end).encode()
    assert image.read(f"{FOLDER}/lines").split()[-1] == str(end).encode()


FIRST = Look(
    flushes=100,
    daemon_rss=500,
    daemon_data=300,
    shmem=200,
    slab=3000,
    kernel_stack=400,
    page_tables=100,
    notes=60,
    descriptors=8,
    processes=50,
    loops=1,
    devices=3,
    mounts=6,
    reads=41,
    writes=5,
    best_ms=80,
    median_ms=90,
)


@pytest.mark.parametrize("name", [*life.SLACK, *life.COUNTS, "reads", "writes", "best_ms"])
def test_whatever_grows_is_told(name: str) -> None:
    life.check_flat([FIRST, FIRST])
    grown = {
        **dict.fromkeys(life.COUNTS, 1),
        **{name: slack + 1 for name, slack in life.SLACK.items()},
        "reads": 13,
        "writes": 2,
        "best_ms": 81,
    }
    last = replace(FIRST, **{name: getattr(FIRST, name) + grown[name]})
    with pytest.raises(AssertionError, match=r"grow|stay the same|longer"):
        life.check_flat([FIRST, FIRST, last])
