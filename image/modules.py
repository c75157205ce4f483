"""An initramfs with the modules of the image's own kernel, where that has in pieces what cowflush needs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from image import tools
from image.errors import Refused
from image.ext import Ext

BUILDER = Path(__file__).resolve().parent.parent / "initramfs" / "build"
# Which module has what an option says; by its file, which may have either of - and _.
NAMES = {
    "CONFIG_BLK_DEV_DM": "dm-mod",
    "CONFIG_DM_SNAPSHOT": "dm-snapshot",
    "CONFIG_BLK_DEV_LOOP": "loop",
}


def initramfs(root: Ext, release: str, options: list[str], program: bytes) -> bytes:
    """The program's initramfs, with the modules for these options and what they need, of root's own."""
    folder = f"/lib/modules/{release}"
    there = {name: f"{folder}/{name}" for name in root.names(folder) if name.endswith(".ko")}
    lacking = [option for option in options if f"{NAMES.get(option)}.ko" not in there]
    if lacking:
        raise Refused(
            f"the kernel has {', '.join(lacking)} neither built in nor as a module in {folder}"
        )
    with tempfile.TemporaryDirectory(prefix="modules-") as work:
        tree = Path(work, release)
        tree.mkdir()
        for name, path in there.items():
            (tree / name).write_bytes(root.read(path) or b"")
        binary, out = Path(work, "program"), Path(work, "out")
        binary.write_bytes(program)
        names = ",".join(NAMES[option] for option in options)
        done = tools.run(
            [str(BUILDER), str(out), str(binary), "--modules", str(tree), "--with", names]
        )
        if done.returncode:
            raise Refused(f"the modules in {folder} can't be used: {tools.words(done.stderr)}")
        return out.read_bytes()
