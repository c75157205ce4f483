"""The router's work in the guest.

Each kind of work numbers its steps and does them one after the other. So whatever a flush seals is
the state after some step, and the number of a step that was done before a flush began bounds what a
power cut may leave: see judge.py.
"""

from __future__ import annotations

from harness.job import Job
from harness.machine import VM

FOLDER = "/root/soak"
NOTES = "/run/soak"
SLOTS = 40
FILE_LINES = 500
# SQLite's journal modes, each with a database of its own
MODES = ("wal", "delete")

# The number goes to NOTES only once its step is done.
NOTE = f"echo $n >{NOTES}/%s.new && mv {NOTES}/%s.new {NOTES}/%s"

FILES = f"""
n=$(head -qn 1 {FOLDER}/files/* 2>/dev/null | sort -n | tail -n 1)
while :; do
    n=$((n + 1))
    seq $n $((n + {FILE_LINES})) >{FOLDER}/new && mv {FOLDER}/new {FOLDER}/files/$((n % {SLOTS})) &&
    {NOTE.replace("%s", "files")} || exit
    usleep 20000
done
"""

LINES = f"""
n=$(wc -l <{FOLDER}/lines)
while :; do
    n=$((n + 1))
    echo "line $n of the log" >>{FOLDER}/lines && {NOTE.replace("%s", "lines")} || exit
    usleep 20000
done
"""

# One process for all transactions, like a router's daemon; -bail ends it at the first error. The
# second table is rewritten in place, so that pages change all over the file.
DATABASE = f"""
db={FOLDER}/db/MODE.db
sqlite3 -bail $db 'pragma journal_mode=MODE; create table if not exists t(n integer primary key, content text);
    create table if not exists busy(place integer primary key, n, filler);' || exit
n=$(sqlite3 $db 'select coalesce(max(n), 0) from t')
while :; do
    n=$((n + 1))
    echo "begin; insert into t values($n, printf('%0200d', $n));"
    echo "replace into busy values($n * 37 % 101, $n, hex(randomblob(300))); commit;"
    echo "select writefile('{NOTES}/MODE', '$n');"
    usleep 40000
done | sqlite3 -bail $db >/dev/null
"""

CHECK = f"""
for mode in {" ".join(MODES)}; do
    db={FOLDER}/db/$mode.db
    [ ! -e $db ] || [ "$(sqlite3 $db 'pragma integrity_check')" = ok ] || exit 1
done
"""


class Load:
    """All kinds of work at once."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        vm.run(f"mkdir -p {NOTES} {FOLDER}/files {FOLDER}/db && touch {FOLDER}/lines").ok()
        vm.run(CHECK, timeout=120).ok()
        scripts = {
            "files": FILES,
            "lines": LINES,
            **{mode: DATABASE.replace("MODE", mode) for mode in MODES},
        }
        self._jobs: dict[str, Job] = {kind: vm.start(script) for kind, script in scripts.items()}

    def done(self) -> dict[str, int]:
        """The last step of each kind that is done, 0 if none in this boot."""
        script = f"cd {NOTES}; for kind in {' '.join(self._jobs)}; do echo $kind $(cat $kind 2>/dev/null || echo 0); done"
        pairs = (line.split() for line in self._vm.run(script).ok().text.splitlines())
        # A note that is just being written is empty.
        return {pair[0]: int(pair[1]) if len(pair) == 2 else 0 for pair in pairs}

    def pause(self) -> None:
        for job in self._jobs.values():
            job.kill("STOP")

    def go_on(self) -> None:
        for job in self._jobs.values():
            job.kill("CONT")

    def check(self) -> None:
        """Checks that no work has met an error."""
        for kind, job in self._jobs.items():
            assert job.running(), f"{kind} ended by itself: {job.wait().text}"
