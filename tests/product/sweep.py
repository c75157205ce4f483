"""Kills a command at each of its stops in turn, in the guest, and checks what each kill leaves."""

from __future__ import annotations

from collections.abc import Callable

from harness.card import Card
from harness.machine import VM
from product import flushlog, workload
from product.router import LIMITS, LOGGED, check_settled, memory

KILLED = 137

# Shell: fails, and reports it through `say`, unless nothing of an earlier command is left. `log` is
# `yes` when the card has a log in use.
SETTLED = """
names() {
    for file in "$@"; do
        [ -e $file ] && read -r name <$file && echo -n "${name##*/} "
    done
}
settled() {
    devices=$(names /sys/block/dm-*/dm/name)
    stores=$(echo $devices | tr ' ' '\\n' | grep -c '^cowflush-cow-')
    devices=$(echo $devices | tr ' ' '\\n' | grep -v '^cowflush-cow-' | sort | tr '\\n' ' ')
    through=$(cowflush status --json | grep -c '^{"version":1,"mode":"write-through"')
    case $log$through$devices in
    [01]'cowflush-origin cowflush-root ') ;;
    yes0'cowflush-log cowflush-log-view cowflush-logged cowflush-origin cowflush-root ') ;;
    yes1'cowflush-log cowflush-origin cowflush-root ') ;;
    *) say "other devices: $devices" ;;
    esac
    loops=$(names /sys/block/loop*/loop/backing_file)
    blanks=$(echo $loops | grep -o cowflush-blank | grep -c .)
    wanted=0
    [ $through = 1 ] || ! LIMITS || wanted=1
    [ $stores$blanks = $wanted$wanted ] || say "$stores devices that COWs stand on, $blanks blank"
    loops=$(echo "$loops" | sed 's/cowflush-blank (deleted) //')
    case $log$through$loops in
    '0cowflush-cow (deleted) ' | '1' | 'yes1') ;;
    'yes0cowflush-cow (deleted) cowflush-table (deleted) ') ;;
    'yes0cowflush-table (deleted) cowflush-cow (deleted) ') ;;
    *) say "other loop devices: $loops" ;;
    esac
}
""".replace("LIMITS", LIMITS)

# For guests whose root refuses reads or is suspended: moves the guest's programs to RAM.
TO_RAM = """
for folder in bin usr/bin usr/sbin; do
    mkdir -p /run/ram/$folder && cp -a /$folder/. /run/ram/$folder && mount --bind /run/ram/$folder /$folder || exit
done
"""

# Each round runs `before`, changes root, runs `prepare`, kills the command at one stop, shows that
# root takes a write, lets the next command restore order, and checks. The loop ends once the
# command ends by itself.
SWEEP = f"""
say() {{ echo "stop $stop: $*"; exit 1; }}
root_lives() {{
    {{ echo $stop >/root/alive && sync && : >/run/alive; }} &
    tries=0
    until [ -e /run/alive ]; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || say 'root takes no write'
        usleep 20000
    done
    rm /run/alive
}}
{SETTLED}mkdir -p {workload.FOLDER}
while [ $stop -le $last ]; do
    $before >/dev/null || say "$before failed"
    seq $round $((round + {workload.LINES})) >{workload.FOLDER}/$round
    $prepare >/dev/null || say "$prepare failed"
    said=$(guest-tools killat $stop $command 2>&1)
    code=$?
    root_lives
    cowflush status >/dev/null || say 'status failed'
    cowflush flush >/run/out 2>&1 || say "the next flush: $(cat /run/out)"
    settled
    [ $code = 0 ] && echo END $round $said && exit
    [ $code = {KILLED} ] || say "exit $code: $said"
    round=$((round + 1))
    stop=$((stop + step))
done
echo "MORE $round $stop"
"""


def on_card(card: Card, rounds: int) -> None:
    """A flush without a log leaves everything on the card itself."""
    workload.check(card, rounds)


def in_log(card: Card, rounds: int) -> None:
    """A flush with a log leaves everything on the card with the log applied."""
    workload.check(flushlog.recovered(card), rounds)


def sweep(
    vm: VM,
    command: str,
    first: int,
    step: int,
    prepare: str = "true",
    before: str = "true",
    log: bool = False,
    look: Callable[[Card, int], None] = on_card,
) -> int:
    """Kills the command at its first, first + step, ... stop, until it has no more.

    Returns the number of kills.

    `before` runs before the writes that the command must find in RAM, and `prepare` puts them in
    the log where it must find them there. `look` judges the card from outside after some dozen
    kills: it must hold that many rounds. With `log` a flush ends with its data in the flush log.
    """
    stop, round_, shmem = first, 1, memory(vm, "Shmem")
    vm.put("/run/sweep", SWEEP.encode())
    # With a log each command reads the whole chain, so it is merged now and then to keep it short.
    batch = 15 if log else 50
    while True:
        values = f"log={'yes' if log else ''} step={step} stop={stop} round={round_} last={stop + batch * step - 1}"
        word, *rest = (
            vm.run(
                f"command='{command}' prepare='{prepare}' before='{before}' {values} sh /run/sweep",
                timeout=120,
            )
            .ok()
            .text.splitlines()[-1]
            .split()
        )
        # Judges the card while the guest runs: the flush has made it whole.
        look(vm.card, int(rest[0]) - 1)
        if word == "END":
            break
        round_, stop = int(rest[0]), int(rest[1])
        if log:
            vm.run("cowflush merge", timeout=60).ok()
    vm.run("cowflush start && echo >/root/last && cowflush flush").ok()
    check_settled(vm, log=LOGGED if log else ())
    assert memory(vm, "Shmem") - shmem < 1024, "the COWs of killed commands keep their memory"
    return int(rest[0]) - 1
