"""Boot loaders' configurations: what image/ understands, refuses, and makes of them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import artefacts, local

sys.path.insert(0, str(artefacts.TOP))

from image import grub, syslinux
from image import kernel as kernels
from image.entry import Addition, Entry
from image.errors import Refused


def led(addition: Addition, *spared: str) -> Addition:
    """The addition that also puts the initramfs into the old entries, except for these kernels."""

    def for_old(old: Entry) -> Addition | None:
        return None if old.kernel in spared else replace(addition, kernel=old.kernel)

    return replace(addition, for_old=for_old)


ADDITION = led(Addition("/boot/vmlinuz", "/boot/cowflush.gz"))
# As in OpenWrt's images since they load microcode
OPENWRT = """serial --unit=0 --speed=38400 --word=8 --parity=no --stop=1 --rtscts=off
terminal_input serial; terminal_output serial

set default="0"
set timeout="5"
set root='(hd0,msdos1)'

menuentry "OpenWrt" {
	if [ -s /boot/amd-ucode.img ]; then
		set ucode=$ucode /boot/amd-ucode.img
	fi
	if [ -z $ucode ]; then
		linux /boot/vmlinuz root=PARTUUID=c0f1a0de-02 rootwait console=ttyS0,38400n8 noinitrd
	else
		linux /boot/vmlinuz root=PARTUUID=c0f1a0de-02 rootwait console=ttyS0,38400n8
		initrd $ucode
	fi
}
menuentry "OpenWrt (failsafe)" {
	linux /boot/vmlinuz failsafe=true root=PARTUUID=c0f1a0de-02 rootwait noinitrd
}
"""
VOYAGE = """set timeout=5
set default=1
menuentry "other" {
  linux /vmlinuz root=LABEL=OTHER
}
menuentry 'voyage-linux' --class gnu {
  set root=(hd0,1)
  linux (hd0,1)/vmlinuz root=LABEL=ROOT_FS ro console=ttyS0,38400n8 "quoted=a b"
  initrd /initrd.img
}
"""


def test_openwrt_s_grub_cfg() -> None:
    entry = grub.parse(OPENWRT, 1)
    assert (entry.title, entry.kernel, entry.initrds) == ("OpenWrt", "/boot/vmlinuz", ())
    assert entry.root == "PARTUUID=c0f1a0de-02"
    text = grub.add(OPENWRT, ADDITION)
    assert text.index('menuentry "OpenWrt, cowflush"') < text.index(
        'menuentry "OpenWrt, cowflush=off: the plain card"'
    )
    assert text.index("cowflush=off: the plain card") < text.index('menuentry "OpenWrt" {')
    ours = text[text.index("OpenWrt, cowflush") : text.index('menuentry "OpenWrt" {')]
    assert (
        ours.count("initrd /boot/cowflush.gz") == 2
        and "noinitrd" not in ours
        and "initrd $ucode" not in ours
    )
    assert ours.count("console=ttyS0,38400n8 cowflush=off\n") == 2
    assert text.endswith("set default=0\nset fallback=2\n")


def test_no_entry_of_openwrt_s_starts_root_past_the_flush_log() -> None:
    """Root without the log's flushes is older, and once changed it can't take them any more."""
    text = grub.add(OPENWRT, ADDITION)
    bodies = [text.split("\n")[start + 1 : end] for start, end in grub._blocks(text)]
    titles = [grub._title(text.split("\n")[start]) for start, _ in grub._blocks(text)]
    assert titles[2:] == ["OpenWrt", "OpenWrt (failsafe)"]
    assert all(body[-1] == "\tinitrd /boot/cowflush.gz" for body in bodies)
    # Failsafe entries write to the card, as before: nobody is there to flush.
    assert bodies[2][:-1] == bodies[1][:-1]
    assert bodies[3] == [
        "\tlinux /boot/vmlinuz failsafe=true root=PARTUUID=c0f1a0de-02 rootwait cowflush=off",
        "\tinitrd /boot/cowflush.gz",
    ]


@pytest.mark.parametrize(
    ("said", "becomes"), [("", "3"), ("set fallback=0", "2"), ('set fallback="1 0"', '"3 2"')]
)
def test_grub_s_fallback_is_the_entry_that_it_was(said: str, becomes: str) -> None:
    """Its number changes, since our entries come before it."""
    text = grub.add(f"set default=1\n{said}\n{TWO}", ADDITION)
    assert text.endswith(f"set default=0\nset fallback={becomes}\n")
    for number in re.findall(r"\d", becomes):
        start, end = grub._blocks(text)[int(number)]
        assert "initrd /boot/cowflush.gz" in "\n".join(text.split("\n")[start:end])


def test_an_entry_that_starts_nothing_of_root_stays_as_it_is() -> None:
    memtest = "menuentry 'memory' {\n  linux16 /memtest.bin console=ttyS0\n}\n"
    chain = "menuentry 'other' {\n  chainloader (hd1)+1\n}\n"
    text = grub.add(TWO + memtest + chain, led(ADDITION, "/memtest.bin"))
    assert memtest in text and chain in text
    for one_line in ("menuentry x { linux /k root=/dev/sda1 }", "menuentry x {linux16 /k }"):
        with pytest.raises(Refused, match="stands in one line"):
            grub.add(f"{TWO}{one_line}\n", ADDITION)
    assert "menuentry off { halt }" in grub.add(f"{TWO}menuentry off {{ halt }}\n", ADDITION)
    with pytest.raises(Refused, match='the entry "x" has others in it'):
        grub.add(f"{TWO}menuentry x {{\n{TWO}}}\n", ADDITION)


def test_entries_are_found_in_submenus_and_conditions() -> None:
    inner = (
        "if [ -e /c ]; then\nmenuentry c {\n linux /c root=/dev/sda1\n initrd /own /more\n}\nfi\n"
    )
    seen: list[Entry] = []

    def for_old(old: Entry) -> Addition:
        seen.append(old)
        return replace(ADDITION, kernel="/used")

    text = grub.add(f"{TWO}submenu more {{\n{inner}{TWO}}}\n", replace(ADDITION, for_old=for_old))
    assert text.count("initrd /boot/cowflush.gz") == 2 + 5 and "/own" not in text
    assert text.count("linux /used root=/dev/sda1 cowflush=off\n") == 5
    assert {(old.kernel, old.initrds) for old in seen if old.title == "c"} == {
        ("/c", ("/own", "/more"))
    }
    assert len(grub._nested(text)) == 8


def test_an_entry_that_is_not_the_first_is_the_one() -> None:
    entry = grub.parse(VOYAGE, 1)
    assert (entry.title, entry.kernel, entry.initrds) == (
        "voyage-linux",
        "/vmlinuz",
        ("/initrd.img",),
    )
    text = grub.add(VOYAGE, ADDITION)
    assert text.endswith("set fallback=3\n")
    assert (
        "linux /boot/vmlinuz root=LABEL=ROOT_FS ro console=ttyS0,38400n8 'quoted=a b' cowflush=off\n"
        in text
    )


TWO = """menuentry "a" {
  linux /a root=/dev/sda1
}
menuentry "b" {
  linux /b root=/dev/sda1
}
"""


@pytest.mark.parametrize(
    ("said", "starts"),
    [
        ("", "/a"),
        ("set default=1", "/b"),
        ("default=1", "/b"),
        ("set\tdefault=1", "/b"),
        ("set default=1 # the second", "/b"),
        ("set timeout=3; set default=1", "/b"),
        ("set timeout=3;default=1;set color=2", "/b"),
        ("export default=1", "/b"),
        ("set default='b'", "/b"),
        ("if [ -s $prefix/grubenv ]; then load_env; fi\nset default=1", "/b"),
        ("# default=0\nset default=1", "/b"),
        ("echo 'default=0'\nset default=1", "/b"),
        ("set default=1\nset default=1", "/b"),
        ("set prefixed_default=0\nset default=1", "/b"),
    ],
)
def test_each_way_to_say_grub_s_default(said: str, starts: str) -> None:
    assert grub.parse(f"{said}\n{TWO}", 1).kernel == starts


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('set default="${saved_entry}"', "not said plainly"),
        ("set default=$saved_entry", "not said plainly"),
        ("default=${saved_entry}", "not said plainly"),
        ("set default=${next_entry}x", "not said plainly"),
        ("set default=", "not said plainly"),
        ("set default=1 2", "not said plainly"),
        ("if true; then set default=1; else set default=0; fi", "one of 0, 1"),
        ("set default=1\nset default=0", "one of 0, 1"),
        ("cmp a b && set default=1", "not said plainly"),
        ("read default", "not said plainly"),
        ("set default=1>0", "no such entry"),
        ("source /boot/grub/more.cfg", "another file"),
        (". /boot/grub/more.cfg", "another file"),
        ("configfile $prefix/more.cfg", "another file"),
        ("blscfg", "another file"),
    ],
)
def test_a_default_that_is_not_plain_is_refused(said: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        grub.parse(f"{said}\n{TWO}", 1)


def test_an_entry_that_may_not_be_there_makes_numbers_doubtful() -> None:
    sometimes = 'if [ -e /x ]; then\nmenuentry "x" {\n  linux /x root=/dev/sda1\n}\nfi\n'
    with pytest.raises(Refused, match="depends on a condition"):
        grub.parse(sometimes + TWO, 1)
    # After the entry that is started it changes nothing.
    assert grub.parse(TWO + sometimes, 1).kernel == "/a"


def test_debian_s_hook_for_the_owner_is_known() -> None:
    """The image tells whether there is such a file."""
    hook = """if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
    assert grub.parse(TWO + hook, 1).kernel == "/a"


@pytest.mark.parametrize("text", ["OPENWRT", "VOYAGE", "GENERATED"])
def test_grub_itself_can_read_the_result(text: str) -> None:
    added = grub.add(globals()[text], ADDITION).encode()
    done = local.run(["grub-script-check"], input=added, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("set timeout=1\n", "grub.cfg has no menuentry"),
        ('menuentry "x" {\n', "grub.cfg: an entry does not end"),
        ('}\nmenuentry "x" {\n}\n', "grub.cfg, line 1: a } that closes nothing"),
        ('menuentry "x" {\n  chainloader +1\n}\n', 'grub.cfg: the entry "x" has no line `linux`'),
        (
            'set default=3\nmenuentry "x" {\n  linux /k root=/dev/sda1\n}\n',
            "grub.cfg: its default is '3', and no such entry is there",
        ),
        (
            'menuentry "x" {\n  linux (hd1,1)/k root=/dev/sda1\n}\n',
            "grub.cfg: (hd1,1)/k is on another device than grub.cfg, or it is not said plainly where",
        ),
        (
            'menuentry "x" {\n  linux (hd0,2)/k root=/dev/sda1\n}\n',
            "grub.cfg: (hd0,2)/k is on another device",
        ),
        (
            'menuentry "x" {\n  linux $kernel root=/dev/sda1\n}\n',
            "grub.cfg: $kernel is on another device than grub.cfg, or it is not said plainly",
        ),
        (
            'menuentry "x" {\n  linux /k root=/dev/sda1\n  linux /other root=/dev/sda1\n}\n',
            'grub.cfg: the entry "x" has several lines `linux` that differ',
        ),
        (
            'submenu "more" {\n  menuentry "x" {\n    linux /k root=/dev/sda1\n  }\n}\n',
            "grub.cfg: what is started by itself is a submenu",
        ),
        (
            f'{grub.MARK}\nmenuentry "x" {{\n  linux /k root=/dev/sda1\n}}\n',
            "grub.cfg has cowflush's entries already: begin with the image as it was before",
        ),
        ('menuentry "x" { linux /k root=/dev/sda1 }\n', "grub.cfg: an entry stands in one line"),
        (
            "set default=y\nmenuentry {\n  linux /k root=/dev/sda1\n}\n",
            "grub.cfg: an entry without a title: menuentry {",
        ),
        (
            'menuentry "x" {\n  linux /k "root\n}\n',
            'grub.cfg: linux /k "root: No closing quotation',
        ),
        (
            'menuentry "x" {\n  linux \n}\n',
            'grub.cfg: the entry "x" has a line `linux` that names no kernel',
        ),
    ],
)
def test_what_grub_cfg_is_refused(text: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        grub.parse(text, 1)


SYSLINUX = """SERIAL 0 38400
DEFAULT voyage
PROMPT 1
TIMEOUT 20
LABEL voyage
  KERNEL vmlinuz
  APPEND root=/dev/sda2 ro console=ttyS0,38400n8
LABEL memtest
  KERNEL memtest.bin
"""


def test_a_syslinux_configuration() -> None:
    entry = syslinux.parse(SYSLINUX, "/syslinux")
    assert (entry.kernel, entry.root) == ("/syslinux/vmlinuz", "/dev/sda2")
    text = syslinux.add(SYSLINUX, entry, Addition("/syslinux/vmlinuz", "/syslinux/cowflush.gz"))
    again, labels = syslinux._labels(text)
    assert again["DEFAULT"] == "cowflush" and text.count("DEFAULT voyage") == 0
    assert [label.name for label in labels] == ["voyage", "memtest", "cowflush", "cowflush-off"]
    assert labels[0].values == {
        "KERNEL": "vmlinuz",
        "APPEND": "root=/dev/sda2 ro console=ttyS0,38400n8",
    }
    assert labels[2].values["APPEND"] == "root=/dev/sda2 ro console=ttyS0,38400n8"
    assert labels[3].values["APPEND"] == labels[2].values["APPEND"] + " cowflush=off"


def test_no_label_of_syslinux_starts_root_past_the_flush_log() -> None:
    """The kernel or initramfs may be set before all labels, or after those of another."""
    text = "INITRD own.img\nAPPEND root=/dev/sda2 ro\n" + SYSLINUX + "LABEL old\n  LINUX old\n"
    entry = syslinux.parse(text, "/syslinux")
    addition = led(Addition("/syslinux/vmlinuz", "/syslinux/cowflush.gz"))
    added = syslinux.add(text, entry, addition, "/syslinux")
    common, labels = syslinux._labels(added)
    assert [label.name for label in labels][:3] == ["voyage", "memtest", "old"]
    assert labels[0].values == {
        "LINUX": "/syslinux/vmlinuz",
        "INITRD": "/syslinux/cowflush.gz",
        "APPEND": "root=/dev/sda2 ro console=ttyS0,38400n8 cowflush=off",
    }
    assert labels[1].values == {"KERNEL": "memtest.bin"}
    assert labels[2].values == {
        "LINUX": "/syslinux/old",
        "INITRD": "/syslinux/cowflush.gz",
        "APPEND": "root=/dev/sda2 ro cowflush=off",
    }
    assert common["DEFAULT"] == "cowflush" and "SERIAL 0 38400" in added


def test_a_name_of_the_card_that_is_gone_is_replaced() -> None:
    addition = Addition("/k", "/i", root="PARTUUID=c0f1a0de-01")
    text = 'menuentry "x" {\n  linux /old root=/dev/hda1 ro\n}\n'
    assert grub.add(text, addition).count("  linux /k root=PARTUUID=c0f1a0de-01 ro") == 2
    text = "DEFAULT x\nLABEL x\n  KERNEL old\n  APPEND root=/dev/hda1 ro\n"
    added = syslinux.add(text, syslinux.parse(text, ""), addition)
    assert (
        added.count("  APPEND root=PARTUUID=c0f1a0de-01 ro") == 2
        and added.count("root=/dev/hda1") == 1
    )


def test_a_system_without_our_service_says_that_it_flushes_by_itself() -> None:
    addition = Addition("/k", "/i", vouched=True)
    text = 'menuentry "x" {\n  linux /old root=/dev/sda1 ro\n}\n'
    added = grub.add(text, addition)
    assert re.findall(r"linux /k .*", added) == [
        f"linux /k root=/dev/sda1 ro cowflush={word}" for word in ("on", "off")
    ]
    text = "DEFAULT x\nLABEL x\n  KERNEL old\n  APPEND root=/dev/sda1 ro\n"
    added = syslinux.add(text, syslinux.parse(text, ""), addition)
    assert re.findall(r"ro cowflush=(.*)", added) == ["on", "off"]


def test_a_menu_of_syslinux_stays_a_menu() -> None:
    text = "DEFAULT menu.c32\nLABEL a\n KERNEL /a\n APPEND root=/dev/sda1\nLABEL b\n MENU DEFAULT\n LINUX /b\n APPEND root=/dev/sda2\n"
    entry = syslinux.parse(text, "")
    assert entry.root == "/dev/sda2"
    added = syslinux.add(text, entry, Addition("/b", "/cowflush.gz"))
    assert added.startswith("DEFAULT menu.c32\n") and added.count("MENU DEFAULT") == 1
    assert syslinux._default(*syslinux._labels(added)).name == "cowflush"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("PROMPT 1\n", "the boot loader's configuration has no LABEL"),
        (
            "INCLUDE other.cfg\nLABEL a\n KERNEL k\n",
            "the boot loader's configuration continues in another file (INCLUDE other.cfg)",
        ),
        (
            "DEFAULT b\nLABEL a\n KERNEL k\n",
            "the boot loader's configuration starts 'b' by itself, and no such label is there",
        ),
        ("DEFAULT a\nLABEL a\n KERNEL chain.c32\n", "the label 'a' starts no Linux kernel"),
        ("DEFAULT a\nLABEL a\n KERNEL k\n LOCALBOOT 0\n", "the label 'a' starts no Linux kernel"),
        (
            "DEFAULT a\nLABEL a\n KERNEL tftp://x/k\n",
            "the boot loader's configuration names a file that is not said plainly: tftp://x/k",
        ),
        # Nothing here says which label is started, so image/ may take none.
        (
            "LABEL a\n KERNEL k\n",
            "the boot loader's configuration starts nothing by itself: it has no DEFAULT",
        ),
        ("LABEL a\n KERNEL k\nLABEL b\n MENU DEFAULT\n KERNEL l\n", "starts nothing by itself"),
        ("DEFAULT a b\nLABEL a\n KERNEL k\n", "no such label"),
        (
            "DEFAULT a\nDEFAULT b\nLABEL a\n KERNEL k\nLABEL b\n KERNEL l\n",
            "the boot loader's configuration says DEFAULT twice, and not the same",
        ),
        (
            "DEFAULT a\nONTIMEOUT b\nLABEL a\n KERNEL k\nLABEL b\n KERNEL l\n",
            "the boot loader's configuration starts 'b' after a while, and 'a' before",
        ),
        (
            "DEFAULT a\nLABEL a\n KERNEL k\nLABEL A\n KERNEL l\n",
            "the boot loader's configuration has two labels of one name",
        ),
        (
            "DEFUALT a\nLABEL a\n KERNEL k\n",
            "the boot loader's configuration has a line that is not understood: DEFUALT a",
        ),
        (
            "UI menu.c32\nMENU BEGIN\nLABEL a\n KERNEL k\nMENU END\n",
            "the boot loader's configuration has a menu in its menu (MENU BEGIN)",
        ),
        (
            "UI menu.c32\nLABEL a\n MENU DEFAULT\n KERNEL k\nLABEL b\n MENU DEFAULT\n KERNEL l\n",
            "the boot loader's configuration has several labels with MENU DEFAULT",
        ),
        (
            f"{syslinux.MARK}\nLABEL a\n KERNEL k\n",
            "the boot loader has cowflush's entries already: begin with the image as it was before",
        ),
    ],
)
def test_what_syslinux_configuration_is_refused(text: str, why: str) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        syslinux.parse(text, "")


@pytest.mark.parametrize("blank", ["\t", "  \t ", "\x0b"], ids=["tab", "mixed", "vertical tab"])
def test_syslinux_takes_any_blank_behind_a_word(blank: str) -> None:
    text = SYSLINUX.replace("LABEL voyage", "LABEL memtest2\n  KERNEL m\nLABEL voyage", 1)
    text = "\n".join(
        line.replace("DEFAULT ", f"DEFAULT{blank}", 1).replace("KERNEL ", f"KERNEL{blank}", 1)
        for line in text.split("\n")
    )
    # Then the first label is another one.
    assert syslinux.parse(text, "/syslinux").kernel == "/syslinux/vmlinuz"


def test_no_other_sign_ends_a_line() -> None:
    """Unicode's other line ends would make two lines of one in the result."""
    odd = "menuentry 'a\x85b\u2028c' {\n  linux /a root=/dev/sda1\n}\n"
    assert odd in grub.add(odd, led(ADDITION, "/a"))
    text = "DEFAULT a\nLABEL a\n MENU LABEL x\x0cy\n KERNEL /a\n"
    assert " MENU LABEL x\x0cy\n" in syslinux.add(text, syslinux.parse(text, ""), ADDITION)


def test_a_text_for_people_is_no_configuration() -> None:
    text = (
        "UI menu.c32\nLABEL a\n KERNEL /a\n TEXT HELP\n DEFAULT b\n ENDTEXT\nLABEL b\n KERNEL /b\n"
    )
    entry = syslinux.parse(text, "")
    assert entry.kernel == "/a"
    assert " DEFAULT b\n" in syslinux.add(text, entry, ADDITION)


def test_a_menu_s_mark_counts_only_where_there_is_a_menu() -> None:
    labels = "LABEL a\n KERNEL /a\nLABEL b\n MENU DEFAULT\n KERNEL /b\n"
    assert syslinux.parse(f"DEFAULT a\n{labels}", "").kernel == "/a"
    assert syslinux.parse(f"DEFAULT a\nUI menu.c32\n{labels}", "").kernel == "/b"
    assert (
        syslinux.parse("UI menu.c32\nLABEL a\n KERNEL /a\nLABEL b\n KERNEL /b\n", "").kernel == "/a"
    )


Pack = Callable[[bytes], bytes]


def image_of(content: bytes, pack: Pack, *, bits: int = 32) -> bytes:
    """A bzImage that holds `content`, by the boot protocol."""
    payload = pack(content)
    image = bytearray(1024)
    image[kernels.SECTORS_AT] = 1
    image[kernels.HEADER_AT : kernels.HEADER_AT + 4] = kernels.HEADER
    struct.pack_into("<H", image, kernels.VERSION_AT, 0x020F)
    struct.pack_into("<II", image, kernels.PAYLOAD_AT, 16, len(payload))
    # XLF_KERNEL_64, and next to it XLF_CAN_BE_LOADED_ABOVE_4G
    struct.pack_into("<H", image, 0x236, 3 if bits == 64 else 2)
    return bytes(image) + bytes(16) + payload


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_what_a_kernel_lacks_is_named(pack: Pack) -> None:
    everything = b" ".join(kernels.NEEDS.values())
    assert kernels.missing(image_of(everything, pack)) == []
    for option, trace in kernels.NEEDS.items():
        assert kernels.missing(image_of(everything.replace(trace, b""), pack)) == [option]


def test_a_kernel_with_64_bits_must_run_programs_with_32() -> None:
    """/init is one: such a kernel would panic at each boot."""
    everything = b" ".join(kernels.NEEDS.values())
    assert kernels.missing(image_of(everything, gzip.compress)) == []
    alone = image_of(everything, gzip.compress, bits=64)
    assert kernels.missing(alone) == ["CONFIG_IA32_EMULATION"]
    both = everything + kernels.NEEDS_64["CONFIG_IA32_EMULATION"]
    assert kernels.missing(image_of(both, gzip.compress, bits=64)) == []


def test_a_kernel_that_can_t_say_its_bits_is_refused() -> None:
    old = bytearray(image_of(b" ".join(kernels.NEEDS.values()), gzip.compress))
    struct.pack_into("<H", old, kernels.VERSION_AT, 0x020B)
    with pytest.raises(Refused, match="whether it has 64 bits"):
        kernels.missing(bytes(old))


def with_size(pack: Pack) -> Pack:
    """Packs as the kernel's makefile does with these: the size follows."""
    return lambda content: pack(content) + struct.pack("<I", len(content))


def program(*command: str) -> Pack:
    return lambda content: (
        local.run([*command], input=content, capture_output=True, check=True).stdout
    )


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        with_size(lzma.compress),
        with_size(lambda content: lzma.compress(content, lzma.FORMAT_ALONE)),
        with_size(bz2.compress),
        with_size(program("zstd", "-cq")),
    ],
    ids=["gzip", "xz", "lzma", "bzip2", "zstd"],
)
def test_a_kernel_that_is_cut_short_is_none(pack: Pack) -> None:
    everything = b" ".join(kernels.NEEDS.values())
    whole = image_of(everything + os.urandom(300_000), pack)
    assert kernels.missing(whole) == []
    with pytest.raises(Refused, match=r"cut short|can't (be )?unpack"):
        kernels.missing(whole[:-200_000])


OURS = [name for name in artefacts.EVERYWHERE if not name.endswith(artefacts.X86_64)]
PACKAGED = [name for name in artefacts.EVERYWHERE if name.endswith(artefacts.X86_64)]


def lacking(config: Path) -> list[str]:
    """The options that a kernel has not built in, by its own configuration."""
    built_in = {line.removesuffix("=y") for line in config.read_text().splitlines()}
    needs = {**kernels.NEEDS, **(kernels.NEEDS_64 if "CONFIG_X86_64" in built_in else {})}
    return [option for option in needs if option not in built_in]


@pytest.mark.kernels(*OURS)
def test_a_kernel_that_has_all_built_in_is_taken(kernel: str) -> None:
    image = artefacts.kernel(kernel)
    assert lacking(image.with_name("config")) == []
    assert kernels.missing(image.read_bytes()) == []


@pytest.mark.kernels(*PACKAGED)
def test_a_distribution_s_kernel_lacks_by_name_what_it_has_as_modules(kernel: str) -> None:
    """The kernel's own configuration is the judge."""
    image = artefacts.kernel(kernel)
    modules = lacking(image.with_name("config"))
    assert "CONFIG_DM_SNAPSHOT" in modules and kernels.has_64_bits(image.read_bytes())
    assert kernels.missing(image.read_bytes()) == modules


def test_what_is_no_kernel_is_refused() -> None:
    old = bytearray(image_of(b"x", gzip.compress))
    struct.pack_into("<H", old, kernels.VERSION_AT, kernels.VERSION - 1)
    for image, why in (
        (b"", "the kernel is no bzImage for x86"),
        (b"MZ" + bytes(2000), "the kernel is no bzImage for x86"),
        (bytes(old), "the kernel is older than Linux 2.6.24"),
        (
            image_of(b"x", lambda content: b"??" + content),
            "the kernel is packed in a way that is not known, so it can't be seen what it has built in",
        ),
        (
            image_of(b"x", lambda content: b"\x1f\x8b" + bytes(20) + content),
            "the kernel can't be unpacked: ",
        ),
        (image_of(b"x", lambda content: b"\x28\xb5" + content), "zstd can't unpack the kernel: "),
    ):
        with pytest.raises(Refused, match=re.escape(why)):
            kernels.missing(image)


# The constructs in a menu made by grub-mkconfig
GENERATED = """if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set boot_once=true
else
   set default="0"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    save_env saved_entry
  fi
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1234' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	set root='hd0,msdos1'
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1  1234
	else
	  search --no-floppy --fs-uuid --set=root 1234
	fi
	echo	'Loading Linux 6.1 ...'
	linux	/boot/vmlinuz-6.1 root=UUID=1234 ro  quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-1234' {
	menuentry 'Debian GNU/Linux, recovery' {
		linux	/boot/vmlinuz-6.1 root=UUID=1234 ro single
	}
}
"""


def test_a_generated_menu() -> None:
    entry = grub.parse(GENERATED, 1)
    assert (entry.title, entry.kernel, entry.root) == (
        "Debian GNU/Linux",
        "/boot/vmlinuz-6.1",
        "UUID=1234",
    )
    assert entry.initrds == ("/boot/initrd.img-6.1",)
    text = grub.add(GENERATED, ADDITION)
    ours = text[text.index(grub.MARK) : text.index("menuentry 'Debian GNU/Linux' --class")]
    assert (
        ours.count("--set=root --hint-bios=hd0,msdos1  1234") == 2 and "initrd.img-6.1" not in ours
    )
    assert ours.count("linux /boot/vmlinuz root=UUID=1234 ro quiet") == 2
    assert ours.rstrip().endswith("}") and len(grub._blocks(text)) == 4
    assert text.endswith("set default=0\nset fallback=2\n")
