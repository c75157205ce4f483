"""The ways to spare a card that are compared.

Each is one entry: how the guest boots, what is set up in it before the day, and what runs at the
end of each interval so that no more than one interval is lost at a power cut. Nothing else differs.
Paths are the guest's; /day is the folder in which the router's programs write.
"""

from __future__ import annotations

from dataclasses import dataclass

RSYNC = "rsync -a --delete"
# log2ram's own command without -X: our rsync has no extended attributes, and the files have none.
LOG2RAM_RSYNC = "rsync -a --inplace --no-whole-file --delete-after"
LOG2RAM = f"""
mkdir -p /day/var/log /day/var/hdd.log
mount --bind /day/var/log /day/var/hdd.log
mount -t tmpfs -o nosuid,noexec,noatime,nodev,mode=0755,size=64M log2ram /day/var/log
{LOG2RAM_RSYNC} /day/var/hdd.log/ /day/var/log/
"""
OVERLAY = """
mkdir -p /run/card /run/ram && mount --bind / /run/card && mount -t tmpfs -o size=150M ram /run/ram
mkdir /run/ram/upper /run/ram/work
mount -t overlay -o lowerdir=/run/card/day,upperdir=/run/ram/upper,workdir=/run/ram/work overlay /day
mount -o remount,noatime /
"""
TUNED = """
mount -o remount,noatime,commit=600 /
echo 60000 >/proc/sys/vm/dirty_writeback_centisecs
echo 180000 >/proc/sys/vm/dirty_expire_centisecs
"""
# Set up after cowflush's boot, which puts a device under root that can get another table.
WRITECACHE = """
cowflush stop
mkdir /run/cache && mount -t tmpfs -o size=81M cache /run/cache
head -c 80m /dev/zero >/run/cache/file && losetup -f /run/cache/file
loop=$(losetup -a | sed -n 's|^/dev/\\(loop[0-9]*\\):.*/run/cache/file.*|\\1|p')
guest-tools dm table cowflush-root $(cat /sys/block/sda/sda1/size) \\
    writecache s $(cat /sys/block/sda/sda1/dev) $(cat /sys/block/$loop/dev) 4096 4 high_watermark 95 low_watermark 90
"""
WRITECACHE_FLUSH = "fsfreeze --freeze / && guest-tools dm message cowflush-root flush; code=$?; fsfreeze --unfreeze /; [ $code = 0 ]"
NOATIME = "mount -o remount,noatime /"
COMMIT = "mount -o remount,commit=1800 /"


@dataclass(frozen=True)
class Contender:
    """One way. `loses` is what a power cut costs.

    `finish` runs once at the end, so that what is pending counts. `append` is more of the kernel's
    command line, `tune` options of tune2fs for the card's root before the boot.
    """

    key: str
    label: str
    loses: str
    direct: bool = True
    setup: str = "true"
    flush: str = "true"
    finish: str = "sync"
    append: str = ""
    tune: tuple[str, ...] = ()


def _copied_back(rsync: str) -> str:
    return f"{rsync} /day/ /run/card/day/ && sync"


def logged(
    key: str, label: str, setup: str = "true", options: str = "", tune: tuple[str, ...] = ()
) -> Contender:
    """cowflush with a flush log, merged at the day's end so that no cost is left out."""
    return Contender(
        key,
        label,
        f"{ONE_INTERVAL}; never torn",
        direct=False,
        setup=f"cowflush log format {options} /dev/sda2 && {setup}",
        flush="cowflush flush",
        finish="cowflush merge",
        tune=tune,
    )


ONE_INTERVAL = "up to one interval, of everything"
CONTENDERS = {
    contender.key: contender
    for contender in (
        Contender("ext4", "ext4 as installed", "the last 5 to 35 s; nothing that was synced"),
        Contender(
            "ext4-tuned",
            "ext4, noatime, commit=600, long writeback",
            "up to 40 min; nothing that was synced",
            setup=TUNED,
        ),
        Contender(
            "log2ram",
            "log2ram's way, the rest as installed",
            "up to one interval of the logs, one being copied is torn; of the rest as ext4 as installed",
            setup=LOG2RAM,
            flush=f"{LOG2RAM_RSYNC} /day/var/log/ /day/var/hdd.log/",
        ),
        Contender(
            "overlay",
            "overlayfs in RAM, copied back by rsync",
            f"{ONE_INTERVAL}; cut during a copy, files of two times are mixed",
            setup=OVERLAY,
            flush=_copied_back(RSYNC),
        ),
        Contender(
            "overlay-inplace",
            "overlayfs in RAM, copied back by rsync --inplace",
            f"{ONE_INTERVAL}; cut during a copy, files of two times are mixed and one is torn",
            setup=OVERLAY,
            flush=_copied_back(LOG2RAM_RSYNC),
        ),
        Contender(
            "writecache",
            "dm-writecache with its cache in RAM",
            f"{ONE_INTERVAL}; cut during a flush, the filesystem can be torn",
            direct=False,
            setup=WRITECACHE,
            flush=WRITECACHE_FLUSH,
        ),
        Contender(
            "classic",
            "the classic recipe: suspend, merge, resume",
            f"{ONE_INTERVAL}; cut during a flush, the filesystem can be torn",
            direct=False,
            flush="guest-tools classic",
        ),
        Contender(
            "cowflush",
            "cowflush, no log",
            f"{ONE_INTERVAL}; cut during a flush, the filesystem can be torn",
            direct=False,
            flush="cowflush flush",
        ),
        logged("cowflush-log", "cowflush, flush log"),
        logged("cowflush-noatime", "cowflush, flush log, root noatime", NOATIME),
        logged("cowflush-commit", "cowflush, flush log, root commit=1800", COMMIT),
        logged(
            "cowflush-quiet",
            "cowflush, flush log, root noatime,commit=1800",
            f"{NOATIME} && {COMMIT}",
        ),
        logged(
            "cowflush-nojournal",
            "cowflush, flush log, root without a journal",
            tune=("-O", "^has_journal"),
        ),
        logged(
            "cowflush-padded",
            "cowflush, flush log, segments at 128 KiB",
            options="--erase-block 128K",
        ),
        logged(
            "cowflush-filled", "cowflush, flush log, merges fill 128 KiB", options="--fill 128K"
        ),
        logged(
            "cowflush-filled-large", "cowflush, flush log, merges fill 4 MiB", options="--fill 4M"
        ),
    )
}
