"""The defects that can be put back are defects of today's tree, and the simulator finds each."""

from __future__ import annotations

from pathlib import Path

import pytest

from defects.__main__ import ROOT, Defect, apply, defects, main


@pytest.mark.parametrize("defect", defects(), ids=lambda one: one.name)
def test_a_defect_can_still_be_put_back(defect: Defect) -> None:
    assert defect.what and defect.where
    apply(defect, ROOT, dry=True)


def test_a_patch_that_no_longer_applies_is_an_error(tmp_path: Path) -> None:
    one = defects()[0]
    for name in [line[6:] for line in one.path.read_text().splitlines() if line[:6] == "+++ b/"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("another text\n")
    with pytest.raises(SystemExit, match="no longer applies"):
        apply(one, tmp_path, dry=True)


@pytest.mark.thorough
def test_the_simulator_finds_each_defect(capsys: pytest.CaptureFixture[str]) -> None:
    missed = main([])
    assert missed == 0, capsys.readouterr().out
