"""The figures as Markdown tables, for the terminal and to be pasted into docs/wear.md."""

from __future__ import annotations

from typing import Any

from wear.model import KINDS

MIB = 1 << 20
Figures = dict[str, Any]


def main(day: Figures) -> str:
    """All contenders, most worn first, per kind of card: erases and the bounds' multiples."""
    kinds = [kind.name for kind in KINDS]
    rows = [["", *kinds, "writes", "MiB", "FLUSHes"]]
    for bound in ("packed", "in_place"):
        cells = [f"{day['bounds'][kind][bound]:,.0f}" for kind in kinds]
        rows.append([f"*bound: {bound.replace('_', ' ')}*", *cells, "", "", ""])
    for figures in ranked(day):
        cells = [_cell(figures["kinds"][kind]) for kind in kinds]
        traffic = (
            f"{figures['writes']:,}",
            f"{figures['written_bytes'] / MIB:,.0f}",
            f"{figures['flushes']:,}",
        )
        rows.append([figures["label"], *cells, *traffic])
    return markdown(rows)


def ranked(day: Figures) -> list[Figures]:
    return sorted(
        day["contenders"].values(), key=lambda figures: -figures["kinds"][KINDS[0].name]["erases"]
    )


def _cell(figures: Figures) -> str:
    return f"{figures['erases']:,.0f} ({_times(figures['of_packed'])}, {_times(figures['of_in_place'])})"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}×"


def losses(day: Figures) -> str:
    rows = [["", "what a power cut costs"]]
    return markdown(rows + [[figures["label"], figures["loses"]] for figures in ranked(day)])


def logs(day: Figures) -> str:
    """Flushes and merges apart, for a way that has a flush log."""
    rows = [["", "card", "flushes, of packed", "merges", "merges, of in place"]]
    for figures in ranked(day):
        for kind in KINDS if "log" in figures else ():
            append, merge = figures["log"]["append"][kind.name], figures["log"]["merge"][kind.name]
            count = str(figures["log"]["merges"])
            rows.append(
                [
                    figures["label"],
                    kind.name,
                    _times(append["of_packed"]),
                    count,
                    _times(merge["of_in_place"]),
                ]
            )
    return markdown(rows)


def fewer(day: Figures, one: str, other: str) -> str:
    """How many times fewer erases `one` has than `other`."""
    mine, theirs = (day["contenders"][key]["kinds"] for key in (one, other))
    cells = [
        f"{kind.name}: {theirs[kind.name]['erases'] / mine[kind.name]['erases']:.1f}"
        for kind in KINDS
    ]
    return f"{other} by {one}: " + "; ".join(cells)


def markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
