//! The command line of `cowflush` itself.

use argh::FromArgs;
use cowflush::pure::units::{Bytes, bytes};

/// Keeps a flash card's root filesystem in RAM copy-on-write and flushes it on demand.
#[derive(FromArgs)]
#[argh(
    note = "Writes to / stay in RAM until a flush: a power cut loses what was not flushed. During a\nflush root stays mounted and in use.",
    example = "cowflush status        # what is in RAM, what is at risk\n  cowflush flush         # make everything until now durable\n  cowflush log           # what is in the flush log\n  cowflush stop          # flush, then write straight to the card",
    error_code(0, "done"),
    error_code(1, "failed; everything that was in RAM is still there"),
    error_code(2, "the command line was not understood"),
    error_code(3, "root is not on a cowflush stack"),
    error_code(4, "another cowflush command is at work, or another program has frozen root"),
    error_code(
        5,
        "the card refused a write, or can't be read; the data stay in RAM or in the log"
    ),
    error_code(6, "check found something missing"),
    error_code(7, "something was lost: the COW, or a part of the flush log"),
    error_code(8, "stopped by a signal; the next command finishes"),
    error_code(
        9,
        "the flush log is of a newer cowflush; it is kept, and nothing is written past it"
    )
)]
pub struct Cli {
    #[argh(subcommand)]
    pub command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Flush(Flush),
    Merge(Merge),
    Stop(Stop),
    Start(Start),
    Status(Status),
    History(History),
    Check(Check),
    Daemon(Daemon),
    Hold(Hold),
    Release(Release),
    Discard(Discard),
    Log(Log),
    Recover(Recover),
    Init(Init),
    Attach(Attach),
    Version(Version),
}

/// Make everything that was written until now durable on the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "flush")]
pub struct Flush {
    /// merge into the card without the flush log; a power cut meanwhile can tear root
    #[argh(switch)]
    pub direct: bool,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Merge what is in the flush log into the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "merge")]
pub struct Merge {
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Flush, then write straight through to the card.
#[derive(FromArgs)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// the machine goes down: tell the console, wait for other commands, drop what is held
    #[argh(switch)]
    pub shutdown: bool,
    /// with --shutdown: come back after so many seconds, done or not
    #[argh(option)]
    pub within: Option<std::num::NonZeroU32>,
    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Keep writes in RAM again after a stop.
#[derive(FromArgs)]
#[argh(subcommand, name = "start")]
pub struct Start {}

/// Show what is in RAM, what reached the card and what is at risk.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print as JSON; docs/json.md documents the keys
    #[argh(switch)]
    pub json: bool,
    /// go on every second until Ctrl-C; in a pipe, one line a second
    #[argh(switch)]
    pub watch: bool,
}

/// Show the last flushes since boot: when, why, how much, how long, how long root waited.
#[derive(FromArgs)]
#[argh(subcommand, name = "history")]
pub struct History {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Say what this kernel, memory and card can do, and what to do about what is missing.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Flush by itself: at intervals, at times of day, when the COW fills up, when /etc changes.
/// /etc/cowflush.conf says how. Stays in the foreground.
#[derive(FromArgs)]
#[argh(subcommand, name = "daemon")]
pub struct Daemon {}

/// Let nothing reach the card, as for an upgrade on trial, until `flush` keeps it, `discard` throws it
/// away, or `release` ends the hold.
#[derive(FromArgs)]
#[argh(subcommand, name = "hold")]
pub struct Hold {}

/// End a hold: flushes come as before.
#[derive(FromArgs)]
#[argh(subcommand, name = "release")]
pub struct Release {}

/// Throw away everything since the last flush: reboots, and what is in RAM is dropped.
#[derive(FromArgs)]
#[argh(subcommand, name = "discard")]
pub struct Discard {
    /// reboot at once, without asking programs to end
    #[argh(switch)]
    pub now: bool,
}

/// Show the flush log: its segments, its usage, its wear position.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "log",
    note = "With a flush log a power cut during a flush can't tear root. It is a partition of the card,\n64 MiB or more. To add one in the card's unpartitioned tail, with the card sda:\n  echo ',,da' | sfdisk --append /dev/sda     # a new partition, say sda2\n  cowflush log format /dev/sda2"
)]
pub struct Log {
    #[argh(subcommand)]
    pub command: Option<LogCommand>,
    /// read all of its data and compare their checksums
    #[argh(switch)]
    pub verify: bool,
    /// print the kernel command line's word for it, if it is on another disk than root: what is put into an initramfs
    #[argh(switch)]
    pub word: bool,
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum LogCommand {
    Format(Format),
}

/// Make a flush log of a partition. What is on it is lost.
#[derive(FromArgs)]
#[argh(subcommand, name = "format")]
pub struct Format {
    /// the partition, or an image file
    #[argh(positional)]
    pub device: std::path::PathBuf,
    /// the root that the log is for; default: this system's
    #[argh(option)]
    pub root: Option<std::path::PathBuf>,
    /// begin each segment at a multiple of this, such as 128K; default: 4K
    #[argh(option, default = "Bytes(0)", from_str_fn(whole_chunks))]
    pub erase_block: Bytes,
    /// let merges fill the gaps in erase blocks of this size, such as 128K, which spares a
    /// CompactFlash card; default: don't
    #[argh(option, default = "Bytes(0)", from_str_fn(whole_chunks))]
    pub fill: Bytes,
    /// a label for cowflush.log=LABEL=, at most 16 bytes
    #[argh(option, default = "String::new()")]
    pub label: String,
    /// what is on the partition and may be destroyed, such as ext4 or cowflush-log
    #[argh(option)]
    pub over: Option<String>,
    /// only say what would be done
    #[argh(switch)]
    pub dry_run: bool,
}

fn whole_chunks(text: &str) -> Result<Bytes, String> {
    bytes(text)
        .filter(|bytes| bytes.0 % 4096 == 0 && bytes.0 <= 64 << 20)
        .ok_or_else(|| format!("`{text}` is no multiple of 4K up to 64M"))
}

/// Apply a flush log to a root offline: on any Linux machine, on devices or image files, without
/// device-mapper. Without an option it only looks.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "recover",
    example = "cowflush recover /dev/sdb1 /dev/sdb2             # look: what would a boot find?\n  cowflush recover /dev/sdb1 /dev/sdb2 --merge     # put it into root\n  cowflush recover root.img log.img --export new.img"
)]
pub struct Recover {
    /// root's partition, or an image of it; not mounted
    #[argh(positional)]
    pub root: std::path::PathBuf,
    /// the flush log's partition, or an image of it
    #[argh(positional)]
    pub log: std::path::PathBuf,
    /// write the log's flushes into root, then empty the log
    #[argh(switch)]
    pub merge: bool,
    /// write a copy of root with the log's flushes to this new file
    #[argh(option)]
    pub export: Option<std::path::PathBuf>,
    /// apply the log although root was changed since, or is another
    #[argh(switch)]
    pub force: bool,
    /// only say what would be done
    #[argh(switch)]
    pub dry_run: bool,
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Boot: find the card, build the stack, start the real init. The kernel runs this as /init of
/// an initramfs, where every argument is the real init's.
#[derive(FromArgs)]
#[argh(subcommand, name = "init")]
pub struct Init {}

/// Boot, for the initramfs of a distribution: find the card, build the stack, and print the device
/// to mount as root. Without a stack that is the plain card.
#[derive(FromArgs)]
#[argh(subcommand, name = "attach")]
pub struct Attach {
    /// take the stack away again and use the plain card, since root can't be mounted on the stack
    #[argh(switch)]
    pub plain: bool,
    /// only if a flush log knows ROOT and no device does, since a merge that was cut short has torn it
    #[argh(switch)]
    pub by_log: bool,
    /// where root is, in place of the kernel command line's root=
    #[argh(positional)]
    pub root: Option<String>,
}

/// Print the version.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
pub struct Version {}
