"""Adds cowflush to an existing image: it writes a new file and leaves the old one unchanged."""

from __future__ import annotations

from pathlib import Path

from image import flushlog, output, plan, regions, table
from image.errors import Refused
from image.plan import New, Plan


def run(base: Path, out: Path, new: New, dry_run: bool, replace: bool = False) -> str:
    """Returns what was done, or with `dry_run` what would be.

    A dry run does the work, too, in a copy that it deletes, so that it refuses what the run would
    refuse.
    """
    if not base.is_file():
        raise Refused(f"{base} is no file")
    if out.exists() and out.samefile(base):
        raise Refused(f"{base} is never changed: name another file to write, with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    replaced = output.check(out, replace)
    with output.workplace(out) as folder:
        copy = folder / output.NAME
        regions.duplicate(base, copy)
        planned = plan.make(copy, new, base)
        text = planned.describe()
        apply(planned)
        if dry_run:
            return f"would be changed in a copy of {base}, by {planned.loader.name}'s {planned.loader.path}:\n{text}"
        output.finish(copy, out)
    return "\n".join([f"{out}:", text, *([replaced] if replaced else [])])


def apply(planned: Plan) -> None:
    """Applies a plan; the log comes last, since it is made for root as it then is."""
    with open(planned.image, "r+b") as file:
        file.truncate(max(planned.image.stat().st_size, planned.size))
    for target, path, content, mode in planned.writes:
        target.write(path, content, mode)
    root = planned.target
    for path in planned.folders:
        root.make_directory(path)
    for path, goal in planned.links.items():
        root.link(path, goal)
    planned.loader.files.verify(f"partition {planned.loader.partition.number}")
    root.verify(f"root (partition {planned.root.number})")
    table.add(planned.image, planned.log)
    flushlog.make(planned.image, planned.log, planned.root)
