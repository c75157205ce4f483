"""A card can be trimmed while root's writes go straight to it."""

from __future__ import annotations

import pytest

from harness.lab import Lab
from product import logged


@pytest.mark.parametrize("log", [False, True], ids=["without a log", "with a log"])
def test_a_stop_lets_fstrim_reach_the_card(boot: Lab, log: bool) -> None:
    vm = logged.start(boot) if log else boot()
    # What is under a layer in RAM can't be trimmed, and the kernel says so.
    assert "Not supported" in vm.run("fstrim /").exits(1).text
    vm.run(
        "dd if=/dev/urandom of=/root/kept bs=64k count=8 2>/dev/null; md5sum /root/kept >/root/sum"
    ).ok()
    vm.run("cowflush stop", timeout=60).ok()
    trimmed = vm.run("fstrim -v /").ok().text
    assert int(trimmed.split()[1]) > 1 << 20, trimmed
    assert "sda" not in vm.run("dmesg | grep -i 'discard\\|error'").output.decode()
    # No table may be left waiting, nor root suspended.
    assert vm.run("cowflush status --json").ok().text.count('"write-through"') == 1
    vm.run("sync; echo 3 >/proc/sys/vm/drop_caches; md5sum -c /root/sum").ok()
    vm.run("cowflush start").ok()
    assert "Not supported" in vm.run("fstrim /").exits(1).text
    vm.run("echo later >/root/later; cowflush flush").ok()
    vm.kill()
    vm.card.fsck()
