"""OpenWrt's package: its content, its reproducibility, and its settings, which are cowflush's."""

from __future__ import annotations

import io
import re
import sys
import tarfile
from pathlib import Path

import pytest

from harness import artefacts, local
from harness.folder import listed

sys.path.insert(0, str(artefacts.TOP))

from image import notices

FOLDER = artefacts.TOP / "package" / "openwrt"

# A router's files: place, mode, and the file in package/openwrt/files, or a link's target.
PROGRAM, NOTICES = "the program", "what the licences of its parts ask for"
FILES = {
    "/usr/sbin/cowflush": (0o755, PROGRAM),
    "/etc/init.d/cowflush": (0o755, "cowflush.init"),
    "/etc/config/cowflush": (0o644, "cowflush.config"),
    "/usr/libexec/cowflush-wait": (0o755, "cowflush.wait"),
    # Before 80_mount_root, which uses what it makes
    "/lib/preinit/79_cowflush": (0o644, "cowflush.preinit"),
    # After 79_move_config
    "/lib/preinit/81_cowflush": (0o644, "cowflush.keep"),
    # What all the others read.
    "/lib/functions/cowflush.sh": (0o644, "cowflush.functions"),
    "/lib/upgrade/cowflush.sh": (0o644, "cowflush.upgrade"),
    "/usr/share/doc/cowflush/third-party.gz": (0o644, NOTICES),
}
LINKS = {"/etc/cowflush.conf": "/tmp/cowflush.conf"}
# Notes go to /run, which OpenWrt lacks.
FOLDERS = {
    *("/", "/etc", "/etc/config", "/etc/init.d", "/lib"),
    *("/lib/functions", "/lib/preinit", "/lib/upgrade"),
    *(
        "/run",
        "/usr",
        "/usr/libexec",
        "/usr/sbin",
        "/usr/share",
        "/usr/share/doc",
        "/usr/share/doc/cowflush",
    ),
}
SCRIPTS = ("postinst", "prerm")

# The parts of OpenWrt's build system that the Makefile uses
RULES = """
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_DATA:=install -m0644
LN:=ln -sf
"""
PACKAGE = """
define BuildPackage
install:
	$(call Package/$(1)/install,$(DESTDIR))
title:
	@echo $(PKG_NAME) $(PKG_VERSION)
endef
"""


def tree(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Path to mode, and content or a link's target."""
    found: dict[str, tuple[int, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.mtime) == (0, 0, 0), member.name
            file = tar.extractfile(member) if member.isfile() else None
            found[member.name.removeprefix(".")] = (
                member.mode,
                file.read() if file else member.linkname.encode(),
            )
    return found


def parts(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert names == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


@pytest.mark.thorough
def test_the_package_holds_the_program_and_what_runs_it_and_nothing_else() -> None:
    inside = parts(artefacts.ipk())
    assert inside["./debian-binary"] == b"2.0\n"
    made = {
        PROGRAM: artefacts.cowflush().read_bytes(),
        NOTICES: notices.packed(notices.linked(notices.I586)),
    }
    wanted = {
        path: (mode, made[name] if name in made else (FOLDER / "files" / name).read_bytes())
        for path, (mode, name) in FILES.items()
    }
    wanted |= {path: (0o777, target.encode()) for path, target in LINKS.items()}
    wanted |= {path.rstrip("/"): (0o755, b"") for path in FOLDERS}
    assert tree(inside["./data.tar.gz"]) == wanted

    control = tree(inside["./control.tar.gz"])
    version = re.search(
        r'^version = "(.*)"', (artefacts.TOP / "Cargo.toml").read_text(), re.MULTILINE
    )
    fields = control.pop("/control")[1].decode()
    assert (
        version
        and re.search(
            rf"^Version: {re.escape(version[1])}([~+]dev[\w.+]+)?-1$", fields, re.MULTILINE
        )
        and "\nArchitecture: i386_" in fields
    )
    scripts = {f"/{name}": (0o755, (FOLDER / "files" / name).read_bytes()) for name in SCRIPTS}
    settings = {"/conffiles": (0o644, b"/etc/config/cowflush\n")}
    assert control == {"": (0o755, b""), **settings, **scripts}


@pytest.mark.thorough
def test_the_package_is_the_same_each_time(tmp_path: Path) -> None:
    package = artefacts.ipk()
    architecture = package.stem.rsplit("-1_", 1)[1]
    folder = tmp_path / "some where"
    local.run([FOLDER / "build", architecture, folder], check=True, capture_output=True)
    assert (folder / package.name).read_bytes() == package.read_bytes()


def test_nothing_of_somebody_else_s_is_removed(tmp_path: Path) -> None:
    """The folder may be a home with a checkout of OpenWrt in it."""
    checkout = tmp_path / "openwrt"
    (checkout / "package").mkdir(parents=True)
    (checkout / "package" / "precious").write_text("work")
    older = tmp_path / "cowflush_0.0.1-1_i386_pentium-mmx.ipk"
    older.write_text("the owner's")
    for _ in range(2):
        local.run([FOLDER / "build", "i386_pentium-mmx", tmp_path], check=True, capture_output=True)
        assert (checkout / "package" / "precious").read_text() == "work"
        assert (checkout / "cowflush" / "Makefile").exists() and older.exists()
        assert {path.name for path in checkout.iterdir()} == {"package", "cowflush"}
    # Nor a folder of that name.
    (checkout / "cowflush" / "Makefile").write_text("all:\n")
    done = local.run([FOLDER / "build", "i386_pentium-mmx", tmp_path], capture_output=True)
    assert done.returncode == 1 and b"not made by this script" in done.stderr
    assert (checkout / "cowflush" / "Makefile").read_text() == "all:\n"


@pytest.mark.parametrize("architecture", ["x86_64", "i386", "arm_cortex-a7"])
def test_there_is_no_package_for_machines_that_can_t_run_it(
    tmp_path: Path, architecture: str
) -> None:
    done = local.run([FOLDER / "build", architecture, tmp_path], capture_output=True)
    assert done.returncode == 1 and b"the program is built for i386_..." in done.stderr
    assert re.search(r"^  DEPENDS:=@i386$", (FOLDER / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.thorough
def test_openwrt_s_makefile_installs_the_same_files(tmp_path: Path) -> None:
    """A few lines stand in for OpenWrt's build system."""
    for name, text in (("rules.mk", RULES), ("package.mk", PACKAGE)):
        (tmp_path / name).write_text(text)
    folder = artefacts.needed(artefacts.BUILD / "openwrt" / "cowflush")
    out = tmp_path / "out"
    make = ["make", "--silent", f"TOPDIR={tmp_path}", f"INCLUDE_DIR={tmp_path}", f"DESTDIR={out}"]
    local.run([*make, "install"], cwd=folder, check=True, capture_output=True)
    title = local.run([*make, "title"], cwd=folder, check=True, capture_output=True, text=True)
    assert re.fullmatch(r"cowflush \d+\.\d+\.\d+(_p(re)?\d{8}_p\d{6})?\n", title.stdout)
    wanted = tree(parts(artefacts.ipk())["./data.tar.gz"])
    wanted.pop("")
    found = {f"/{name}": (mode & 0o777, content) for name, (mode, content) in listed(out).items()}
    assert found == wanted


def test_what_is_added_to_openwrt_s_kernel_only_switches_on() -> None:
    """OpenWrt's own overlay opens /dev/loop0 to 7, so their count must stay.

    And its squashfs for x86 needs the filter with which it is packed.
    """
    text = (FOLDER / "kernel.config").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("# ")]
    assert lines and all(re.fullmatch(r"CONFIG_\w+=y", line) for line in lines), lines
    assert "# CONFIG" not in text
    board = artefacts.TOP / "board" / "openwrt-geode" / "kernel.config"
    for config in (text, board.read_text()):
        assert "CONFIG_SQUASHFS_XZ=y" in config and "CONFIG_XZ_DEC_X86=y" in config


def test_removing_the_package_stops_cowflush_or_fails(tmp_path: Path) -> None:
    """The script that opkg calls first, with a program that records its calls."""
    script = (
        (FOLDER / "files" / "prerm")
        .read_text()
        .replace("/usr/sbin/cowflush", str(tmp_path / "cowflush"))
    )
    makefile = (
        (FOLDER / "Makefile")
        .read_text()
        .split("define Package/cowflush/prerm\n", 1)[1]
        .split("endef", 1)[0]
    )
    body = makefile.replace("$$", "$").replace("/usr/sbin/cowflush", str(tmp_path / "cowflush"))
    for status, stop, code, asked in (
        (0, 0, 0, "status stop"),
        (0, 5, 1, "status stop"),
        (3, 0, 0, "status"),
    ):
        (tmp_path / "cowflush").write_text(
            f'#!/bin/sh\necho "$1" >>{tmp_path}/asked\n[ "$1" = status ] && exit {status}\nexit {stop}\n'
        )
        (tmp_path / "cowflush").chmod(0o755)
        for text in (script, body):
            (tmp_path / "asked").unlink(missing_ok=True)
            done = local.run(["sh", "-c", text])
            assert (done.returncode, (tmp_path / "asked").read_text().split()) == (
                code,
                asked.split(),
            )
