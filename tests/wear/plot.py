"""The figures as a picture: a day's erases, a panel for each kind of card, a bar for each way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from harness import artefacts
from wear.model import KINDS
from wear.table import ranked

OURS, OTHERS = "#1b7f5c", "#9aa5b1"
# The same figures give the same file.
FIXED = {"svg.hashsalt": "wear", "svg.fonttype": "none", "font.size": 9}


def check() -> None:
    """Checks for what `save` needs, hours before that is called.

    Raises `MissingArtefact`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise artefacts.MissingArtefact(
            f"{sys.executable} has no matplotlib, which draws the plot: `make bench-wear` installs "
            "Debian's and runs with Debian's Python"
        )


def save(day: dict[str, Any], path: Path, caption: str) -> None:
    """Needs Debian's python3-matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(FIXED):
        figure, panels = pyplot.subplots(
            2, 2, figsize=(11, 7), sharey=True, constrained_layout=True
        )
        for axes, kind in zip(panels.flat, KINDS, strict=True):
            _panel(axes, day, kind.name)
        figure.suptitle("Erase blocks worn in one day (logarithmic; less is better)")
        figure.supxlabel(caption, fontsize=8)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _panel(axes: Any, day: dict[str, Any], kind: str) -> None:
    contenders = ranked(day)[::-1]
    erases = [figures["kinds"][kind]["erases"] for figures in contenders]
    ours = [figures["label"].startswith("cowflush") for figures in contenders]
    labels = [figures["label"] for figures in contenders]
    bars = axes.barh(labels, erases, color=[OURS if mine else OTHERS for mine in ours])
    axes.bar_label(bars, [f"{count:,.0f}" for count in erases], padding=3, fontsize=8)
    for bound, style in (("packed", ":"), ("in_place", "--")):
        axes.axvline(
            day["bounds"][kind][bound],
            color="black",
            linestyle=style,
            linewidth=1,
            label=f"bound: {bound.replace('_', ' ')}",
        )
    axes.set_xscale("log")
    axes.set_xlim(right=max(erases) * 4)
    axes.set_title(kind, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
