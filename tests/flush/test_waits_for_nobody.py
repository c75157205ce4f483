"""Nothing stops a process with the lock or with root suspended: no terminal, reader or shutdown.

A terminal here is the guest's console, with a shell that has job control.
"""

from __future__ import annotations

import pytest

from harness.drive import Throttle
from harness.lab import Lab
from harness.machine import VM
from product import daemon, logged
from product.daemon import QUIET
from product.router import LOGGED, check_settled, status, wait_status

BUSY_PID, NOT_BUSY = '"busy_pid":[0-9]', '"busy_pid":null'
# The signals with which a terminal stops a program (signal(7)): for Ctrl-Z, and for a background
# job's read and write
STOPS = {"TSTP": 20, "TTIN": 21, "TTOU": 22}
CTRL_S, CTRL_Q, CTRL_Z = "\x13", "\x11", "\x1a"
# So slow that a flush stays under way until the limit is lifted
STANDS_STILL = Throttle(bytes_per_second=30_000)
TERMINAL = "/dev/ttyS0"
# For each cowflush process: what it waits for, its pending signals, and those it blocks
LOOK = "for pid in $(pidof cowflush cowflush-guard); do grep -hE '^(Name|State|SigPnd|ShdPnd|SigBlk):' /proc/$pid/status; done"
# More than a terminal without a reader takes: from then on it takes nothing.
FILL = f"yes >{TERMINAL} 2>&1 & until grep -q '^State:.S' /proc/$!/status; do sleep 0.05; done"
OMITTED = "/run/sendsigs.omit.d"
# As in the beginning of Debian's /etc/init.d/sendsigs
SENDSIGS = f"""
OMITPIDS=
for pidfile in {OMITTED}/*; do
    [ -f "$pidfile" ] || continue
    for pid in $(cat $pidfile); do OMITPIDS="${{OMITPIDS:+$OMITPIDS }}-o $pid"; done
done
"""


def more(vm: VM) -> None:
    """Writes 4 MiB for the next flush."""
    vm.run("dd if=/dev/urandom of=/root/big bs=64k count=64 2>/dev/null; sync").ok()


def processes(vm: VM) -> dict[str, list[int]]:
    """The state of each cowflush process, and its pending and blocked signals."""
    found: dict[str, list[int]] = {}
    for number, block in enumerate(vm.run(LOOK).ok().text.split("Name:\t")[1:]):
        name, *lines = block.splitlines()
        fields = dict(line.split(":\t") for line in lines)
        # One that waits for the card has them all pending; that alone proves nothing.
        pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
        pending &= int(fields["SigBlk"], 16)
        found[f"{name} {number}, {fields['State']}"] = [
            bit + 1 for bit in range(64) if pending >> bit & 1
        ]
    return found


def terminal(vm: VM) -> None:
    """Starts a shell on the terminal, from a session whose leader's end would not hang it up."""
    vm.run(f"setsid -c sh -i <{TERMINAL} >{TERMINAL} 2>&1 &").ok()
    vm.wait_console("# $", timeout=20)


def go_on(vm: VM) -> None:
    """Sends what a terminal stops a program with: the processes block it, and go on."""
    for name in STOPS:
        vm.run(f"kill -{name} $(pidof cowflush cowflush-guard)").ok()
    found = processes(vm)
    assert all({*STOPS.values()} <= {*held} for held in found.values()), found
    assert found and not [name for name in found if "stopped" in name], found


def test_no_terminal_stops_who_has_the_lock(boot: Lab) -> None:
    vm = boot(throttle=Throttle())
    terminal(vm)
    vm.run("cowflush status >/dev/null; pidof sh").ok()
    vm.throttle(STANDS_STILL)
    vm.type("cowflush log format /dev/sda2\n")
    wait_status(vm, BUSY_PID)
    go_on(vm)
    vm.throttle(Throttle())
    vm.wait_console("flushes go there from now on", timeout=60)
    # With tostop the kernel stops a background job that writes to the terminal.
    vm.type(f"stty -F {TERMINAL} tostop\n")
    for begin, sign in (("cowflush flush", CTRL_Z), ("cowflush flush &", "")):
        more(vm)
        vm.throttle(STANDS_STILL)
        seen = len(vm.console)
        vm.type(f"{begin}\n")
        wait_status(vm, BUSY_PID)
        vm.wait_console(rf"(?s)\A.{{{seen},}}logging .* of ", timeout=60)
        if sign:
            vm.type(sign)
            vm.wait_console(r"\^Z", timeout=20)
            # The signal was sent, and is pending.
            found = processes(vm)
            assert [name for name, held in found.items() if STOPS["TSTP"] in held], found
        go_on(vm)
        vm.throttle(Throttle())
        vm.wait_console(rf"(?s)\A.{{{seen},}}flushed to the log", timeout=60)
        # The shell checks its jobs only now.
        vm.type("\n")
        vm.until("! pidof cowflush cowflush-guard")
    # The terminal has no reader and takes no more characters. The lock must still be released.
    more(vm)
    vm.throttle(STANDS_STILL)
    vm.type("cowflush flush\n")
    wait_status(vm, BUSY_PID)
    vm.type(CTRL_S)
    vm.run(FILL, timeout=60).ok()
    vm.throttle(Throttle())
    wait_status(vm, NOT_BUSY)
    vm.run("echo x >/root/x; cowflush flush", timeout=60).ok()
    vm.run("killall yes").ok()
    vm.type(CTRL_Q)
    vm.until("! pidof cowflush cowflush-guard")
    check_settled(vm, log=LOGGED)
    vm.kill()
    assert daemon.root_of(vm.card, log=True).read("/root/x") == b"x\n"


@pytest.mark.thorough
def test_nothing_stops_the_daemon(boot: Lab) -> None:
    """The daemon's messages go to a terminal and to syslogd, and neither has to take them."""
    vm = boot()
    vm.put("/etc/cowflush.conf", QUIET.encode())
    vm.run("cowflush flush", timeout=60).ok()
    vm.run("echo 1 >/proc/sys/net/unix/max_dgram_qlen; syslogd -O /run/log").ok()
    vm.run(
        f"until [ -S /dev/log ]; do sleep 0.05; done; cowflush daemon >/dev/null 2>{TERMINAL} &"
    ).ok()
    vm.until(f"[ -e {daemon.NOTE} ]")
    for name, number in STOPS.items():
        daemon.signal(vm, name)
        came, held = (int(daemon.field(vm, field), 16) for field in ("ShdPnd", "SigBlk"))
        assert came & held & 1 << number - 1, name
    terminal(vm)
    vm.type(CTRL_S)
    vm.run(f"kill -STOP $(pidof syslogd); {FILL}", timeout=60).ok()
    for number in range(1, 5):
        vm.run(f"echo {number} >/root/x; sync").ok()
        daemon.signal(vm, "USR1")
        daemon.wait_flushes(vm, 1, causes="asked", since=number - 1)
    vm.run("killall yes; kill -CONT $(pidof syslogd)").ok()
    vm.type(CTRL_Q)
    # The kernel's log has what syslogd did not take.
    vm.run("dmesg | grep 'cowflush: flushed (asked)'").ok()
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    vm.kill()
    vm.card.fsck()
    assert vm.card.read("/root/x") == b"4\n"


def spared(vm: VM) -> set[str]:
    """The processes that sendsigs would spare."""
    return set(vm.run(f"cat {OMITTED}/* 2>/dev/null").text.split())


def alive(vm: VM) -> set[str]:
    """The processes of a daemon and of a flush, and their helpers."""
    return set(vm.run("pidof cowflush cowflush-guard").text.split())


def send(vm: VM, signal: int) -> None:
    """Sends every process what sendsigs sends; another process is there, and gets it."""
    vm.run("setsid sleep 1000 >/dev/null 2>&1 & until pidof sleep; do usleep 50000; done").ok()
    # killall5 spares its own session, which is the agent's.
    vm.run(f"{SENDSIGS}\nkillall5 -{signal} $OMITPIDS").ok()
    vm.until("! pidof sleep")


def begin(vm: VM, command: str) -> None:
    """Runs a command in a session of its own, so that no other process is killed in its place."""
    vm.run(f"setsid cowflush {command} >/run/said 2>&1 & echo $! >/run/pid").ok()


def ended(vm: VM) -> str:
    """What the command has printed, once it has ended."""
    vm.until("! [ -e /proc/$(cat /run/pid) ]", timeout=60)
    return vm.get("/run/said").decode()


def test_a_shutdown_s_killing_spares_who_flushes_and_its_guard(boot: Lab) -> None:
    """sysvinit's sendsigs.

    Killed at the same instant, a flush and its guard would leave root suspended, and the shutdown
    waiting for it.
    """
    vm = logged.start(boot, throttle=Throttle())
    vm.run(f"mkdir {OMITTED}").ok()
    vm.put("/etc/cowflush.conf", QUIET.encode())
    vm.run("cowflush flush", timeout=60).ok()
    daemon.begin(vm, "setsid")
    its_own = alive(vm)
    assert len(its_own) == 2 and spared(vm) == its_own
    more(vm)
    vm.throttle(STANDS_STILL)
    begin(vm, "flush")
    vm.until(
        "grep -q cowflush-sealed /sys/block/dm-*/dm/name && [ $(pidof cowflush-guard | wc -w) = 2 ]"
        " && ! pidof cowflush-sync >/dev/null"
    )
    everybody = alive(vm)
    assert everybody > its_own and spared(vm) == everybody
    send(vm, 9)
    assert alive(vm) == everybody
    vm.throttle(Throttle())
    assert "flushed to the log" in ended(vm)
    assert spared(vm) == its_own, "who has ended is not in it"
    # The last step of a stop keeps root suspended for long, with the guard at its side.
    daemon.signal(vm, "TERM")
    vm.until("! pidof cowflush")
    assert spared(vm) == set()
    vm.run("cowflush merge; echo x >/root/x; sync").ok()
    vm.throttle(Throttle(bytes_per_second=20_000))
    begin(vm, "stop")
    asleep = "grep -q 1 /sys/block/dm-*/dm/suspended"
    # Not the moment of an ordinary seal
    vm.until(f"n=0; while [ $n -lt 8 ] && {asleep}; do n=$((n + 1)); done; [ $n = 8 ]", timeout=120)
    everybody = alive(vm)
    names = (
        vm.run(f"cd /proc && for pid in {' '.join(everybody)}; do cat $pid/comm; done").ok().text
    )
    assert sorted(names.split()) == ["cowflush", "cowflush-guard", "cowflush-guard"], (
        "throttle worker and guard"
    )
    assert spared(vm) == everybody
    for signal in (15, 9):
        send(vm, signal)
        assert alive(vm) == everybody
    vm.run(asleep).ok()
    vm.throttle(Throttle())
    assert "stopped, flushed" in ended(vm)
    assert status(vm)["mode"] == "write-through" and spared(vm) == set()
    vm.run("echo y >/root/y; sync", timeout=30).ok()
    vm.kill()
    root = vm.card.fs(replay=True)
    root.fsck()
    assert (root.read("/root/x"), root.read("/root/y")) == (b"x\n", b"y\n")
