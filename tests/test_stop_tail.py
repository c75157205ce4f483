"""The card fails in the very last part of a stop, when root's writes already go through."""

from __future__ import annotations

import json

import pytest

from vm.lab import Lab

MLOCKALL = 152  # on i386; a seal locks its memory, so the second call is that of the tail's seal


@pytest.mark.kernels("6.1", "6.12")
def test_a_tail_that_failed_is_merged_by_the_next_stop(boot: Lab) -> None:
    vm = boot()
    vm.run("head -c 300000 /dev/urandom >/root/file; sync; sha256sum /root/file >/run/sum").ok()
    stop = vm.start(f"guest-tools pause --call {MLOCKALL} --nth 2 --file /run/p cowflush stop")
    vm.run("while [ ! -e /run/p.held ]; do sleep 0.05; done; echo late >/root/late").ok()
    # As at a shutdown; it also keeps the filesystem's own writes to the failing card out of this.
    vm.run("mount -o remount,ro /").ok()
    vm.fail_writes()
    vm.run("touch /run/p.go").ok()
    failed = stop.wait()
    assert failed.code == 5, failed.text
    assert "failed" in failed.text and "sda1" in failed.text

    state = json.loads(vm.run("cowflush status --json").ok().output)
    assert (state["mode"], state["phase"]) == ("write-through", "merge-failed")
    vm.run("sha256sum -c /run/sum && grep late /root/late").ok()
    vm.run("cowflush stop").exits(5)
    vm.run("grep late /root/late").ok()

    vm.heal()
    vm.run("cowflush stop").ok()
    assert vm.run("ls /dev/dm-* | wc -l").ok().text.strip() == "2"
    vm.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /run/sum && grep late /root/late").ok()
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/late") == b"late\n"
