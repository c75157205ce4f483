"""Adds cowflush to an image that is there: a new file is written, the old one stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

from image import flushlog, plan, regions, table
from image.errors import Refused
from image.ext import Ext
from image.plan import New, Plan


def run(base: Path, out: Path, new: New, dry_run: bool) -> str:
    """Returns what was done, or with `dry_run` what would be."""
    if not base.is_file():
        raise Refused(f"{base} is no file")
    if out.exists() and out.samefile(base):
        raise Refused(f"{base} is never changed: name another file to write, with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the end one rename: nobody sees half an image under the name.
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        regions.duplicate(base, partial)
        planned = plan.make(partial, new)
        text = planned.describe()
        if dry_run:
            return f"would be changed in a copy of {base}, by {planned.loader.name}'s {planned.loader.path}:\n{text}"
        apply(planned)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return f"{out}:\n{text}"


def apply(planned: Plan) -> None:
    """The log comes last: it is made for root as it then is."""
    with open(planned.image, "r+b") as file:
        file.truncate(planned.size)
    for target, path, content, mode in planned.writes:
        target.write(path, content, mode)
    root = Ext(planned.image, planned.root.offset)
    for path in planned.folders:
        root.make_directory(path)
    for path, goal in planned.links.items():
        root.link(path, goal)
    table.add(planned.image, planned.log)
    flushlog.make(planned.image, planned.log, planned.root)
