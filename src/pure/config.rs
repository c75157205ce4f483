//! What an owner configures: /etc/cowflush.conf, one `key = value` a line; every key also as
//! `cowflush.key=` on the kernel command line, which wins. Pure.

use crate::pure::cow::size::Size;
use crate::pure::disk::reference::Reference;
use crate::pure::units::{Bytes, bytes, decimal};

/// Where the file is.
pub const PATH: &str = "/etc/cowflush.conf";

/// All settings. docs/use/configuration.md has the table of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The COW's limit.
    pub size: Size,
    /// Flush when the last flush is this old, in seconds; 0 is never.
    pub interval: u64,
    /// Flush at these times of day, in minutes since midnight, local time.
    pub at: Vec<u16>,
    /// Flush when this share of the COW is in use, in percent.
    pub high: u64,
    /// Hold writers back when this share of the COW is in use and a flush is under way, in percent.
    pub full_wait: u64,
    /// Flush when less than this share of the RAM is available, in percent; 0 is never.
    pub memory_low: u64,
    /// A change under these paths is flushed soon, but for those under a path with a `!` before it.
    pub urgent: Vec<String>,
    /// How soon, in milliseconds.
    pub urgent_delay: u64,
    /// How far apart flushes for such changes are when they come again and again, in milliseconds; 0 is no bound.
    pub urgent_pause: u64,
    /// The same for what a boot loader reads: what of it is on root is merged as well.
    pub merge_on: Vec<String>,
    /// A flush that leaves the log this full merges it, in percent.
    pub merge: u64,
    /// Leave out what needn't reach the card.
    pub prune: bool,
    /// The daemon merges the log, however little it holds, after so many seconds without a flush;
    /// 0 is never.
    pub idle: u64,
    /// Don't flush for less than this.
    pub min_flush: Bytes,
    /// When flushes fail and the COW gets full.
    pub on_overflow: OnOverflow,
    /// When a hold lasts until the COW gets full.
    pub hold_full: HoldFull,
    /// A swap area on the card that takes what the RAM can't.
    pub spill: Option<Reference>,
    /// The watchdog that the daemon feeds.
    pub watchdog: Option<String>,
    /// Where to leave a file for Prometheus.
    pub metrics: Option<String>,
    /// A light under /sys/class/leds.
    pub led: Option<String>,
}

/// What becomes of writers when flushes fail and the COW gets full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    /// Their writes go straight to the card.
    WriteThrough,
    /// They wait until the card works again.
    Wait,
}

/// What becomes of an upgrade on trial when the COW gets full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldFull {
    /// It is kept: the hold ends.
    Flush,
    /// It is dropped by a reboot.
    Discard,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            size: Size::default(),
            interval: 30 * 60,
            at: Vec::new(),
            high: 50,
            full_wait: 80,
            memory_low: 8,
            urgent: vec!["/etc".to_owned()],
            urgent_delay: 2000,
            urgent_pause: 5 * 60_000,
            merge_on: vec!["/boot".to_owned()],
            merge: 75,
            prune: true,
            idle: 0,
            min_flush: Bytes(8 << 10),
            on_overflow: OnOverflow::WriteThrough,
            hold_full: HoldFull::Flush,
            spill: None,
            watchdog: None,
            metrics: None,
            led: None,
        }
    }
}

/// Why a setting was not taken: what the value should have been.
pub type Wanted = &'static str;

/// The answer to a key that there is not.
pub const UNKNOWN: Wanted = "a key that this version knows";

impl Config {
    /// Takes one setting. On an error everything stays as it was.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Wanted> {
        fn to<T>(field: &mut T, value: Option<T>, wanted: Wanted) -> Result<(), Wanted> {
            *field = value.ok_or(wanted)?;
            Ok(())
        }
        const SHARE: Wanted = "a share such as 75%";
        const TIME: Wanted = "a time such as 90s, 30m, 12h or off";
        const PATHS: Wanted = "absolute paths, separated by commas, or none; one in another is left out by a ! before it";
        match key {
            "size" => to(
                &mut self.size,
                size(value),
                "a size such as 32M or a share of the RAM such as 40%",
            ),
            "interval" => to(&mut self.interval, millis(value).map(|ms| ms.div_ceil(1000)), TIME),
            "at" => to(&mut self.at, times(value), "times of day such as 03:30,15:00, or none"),
            "high" => to(&mut self.high, share(value), SHARE),
            "full-wait" => to(&mut self.full_wait, share(value), SHARE),
            "memory-low" => to(&mut self.memory_low, share(value).or(off(value)), SHARE),
            "urgent" => to(&mut self.urgent, paths(value), PATHS),
            "urgent-delay" => to(&mut self.urgent_delay, millis(value), TIME),
            "urgent-pause" => to(&mut self.urgent_pause, millis(value), TIME),
            "merge-on" => to(&mut self.merge_on, paths(value), PATHS),
            "merge" => to(&mut self.merge, share(value), SHARE),
            "prune" => to(&mut self.prune, switch(value), "on or off"),
            "idle" => to(&mut self.idle, millis(value).map(|ms| ms.div_ceil(1000)), TIME),
            "min-flush" => to(
                &mut self.min_flush,
                bytes(value).or(off(value).map(Bytes)),
                "a size such as 64K, or off",
            ),
            "on-overflow" => to(
                &mut self.on_overflow,
                match value {
                    "write-through" => Some(OnOverflow::WriteThrough),
                    "wait" => Some(OnOverflow::Wait),
                    _ => None,
                },
                "write-through or wait",
            ),
            "hold-full" => to(
                &mut self.hold_full,
                match value {
                    "flush" => Some(HoldFull::Flush),
                    "discard" => Some(HoldFull::Discard),
                    _ => None,
                },
                "flush or discard",
            ),
            "spill" => to(
                &mut self.spill,
                if value == "none" { Some(None) } else { Reference::parse(value).map(Some) },
                "a swap area such as /dev/sda3 or UUID=..., or none",
            ),
            "watchdog" => {
                to(&mut self.watchdog, path(value), "a path such as /dev/watchdog, or none")
            }
            "metrics" => to(&mut self.metrics, path(value), "an absolute path, or none"),
            "led" => to(&mut self.led, name(value), "a name under /sys/class/leds, or none"),
            _ => Err(UNKNOWN),
        }
    }

    /// Settles what fits each key, but not together. Returns a sentence for what was changed.
    pub fn reconcile(&mut self) -> Option<String> {
        let high = self.high;
        // Writers would be held back before a flush is due that gives them room.
        (high > self.full_wait).then(|| {
            self.high = self.full_wait;
            format!(
                "high={high}% is above full-wait={0}%, where writers are held back: flushing from {0}% on",
                self.full_wait
            )
        })
    }

    /// Takes the lines of a file; `#` begins a comment. Returns a sentence for each line that was
    /// not understood, with its number.
    pub fn read(&mut self, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let (key, value) = (key.trim(), value.trim());
            if let Err(wanted) = self.set(key, value) {
                let line = beginning(line);
                complaints
                    .push(format!("ignoring line {number} of {PATH}, `{line}`: it needs {wanted}"));
            }
        }
        complaints
    }
}

/// As much of a line as a complaint repeats: bytes count, since syslog and the kernel log count them.
fn beginning(line: &str) -> &str {
    let mut ends = line.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.by_ref().take_while(|end| *end <= 120).last().unwrap_or(0);
    line.get(..end).unwrap_or_default()
}

/// `16M`, `65536`, `40%`.
fn size(text: &str) -> Option<Size> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = decimal(percent)?;
        return (1..=90).contains(&percent).then_some(Size::Percent(percent));
    }
    bytes(text).map(Size::Fixed)
}

/// `75%`, 1 to 100.
fn share(text: &str) -> Option<u64> {
    let percent = text.strip_suffix('%').and_then(decimal);
    percent.filter(|percent| (1..=100).contains(percent))
}

fn off(text: &str) -> Option<u64> {
    (text == "off").then_some(0)
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// `500ms`, `90s`, `30m`, `12h`, `2d`, `off`; in milliseconds, at most a year.
fn millis(text: &str) -> Option<u64> {
    if text == "off" {
        return Some(0);
    }
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (digits, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    let millis = decimal::<u64>(digits)?.checked_mul(factor)?;
    (1..=366 * 86_400_000).contains(&millis).then_some(millis)
}

/// `03:30,15:00` in minutes since midnight; at most 96 of them.
fn times(text: &str) -> Option<Vec<u16>> {
    let one = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute): (u16, u16) = (decimal(hour)?, decimal(minute)?);
        (hour < 24 && minute < 60).then(|| hour * 60 + minute)
    };
    list(text, one)
}

/// Absolute paths; those with a `!` before them, which are left out, must be in another one.
fn paths(text: &str) -> Option<Vec<String>> {
    let one = |text: &str| {
        let text = text.trim();
        let (left_out, rest) = left_out(text).map_or((false, text), |path| (true, path));
        let path = path(rest).flatten()?;
        Some(if left_out { format!("!{path}") } else { path })
    };
    let all = list(text, one)?;
    // No path of a tree is spelled with two slashes: that would leave out nothing.
    let inside = |path: &str| !path.contains("//") && all.iter().any(|tree| is_in(path, tree));
    all.iter().filter_map(|path| left_out(path)).all(inside).then_some(all)
}

/// Whether a path is another or is in it, whatever ends with a slash.
pub fn is_in(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path that one of a list leaves out, if it does.
pub fn left_out(path: &str) -> Option<&str> {
    path.strip_prefix('!')
}

fn list<T>(text: &str, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if text == "none" {
        return Some(Vec::new());
    }
    let all: Option<Vec<T>> = text.split(',').map(one).collect();
    all.filter(|all| all.len() <= 96)
}

fn path(text: &str) -> Option<Option<String>> {
    let text = text.trim();
    match text {
        "none" => Some(None),
        _ if text.starts_with('/') && text.len() < 4096 => Some(Some(text.to_owned())),
        _ => None,
    }
}

fn name(text: &str) -> Option<Option<String>> {
    match text {
        "none" => Some(None),
        "" | "." | ".." => None,
        _ if text.contains('/') || text.len() > 255 => None,
        _ => Some(Some(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::cmdline::Options;
    use proptest::prelude::*;

    #[test]
    fn a_usual_file() {
        let mut config = Config::default();
        let complaints = config.read(
            "# a router\nsize=32M\ninterval = 2h # slowly\nat=03:30, 15:00\nhigh=60%\nfull-wait=90%\n\
             memory-low=off\nurgent=/etc, !/etc/pihole,/root\nurgent-delay=500ms\nurgent-pause=1m\nmerge-on=none\nmerge=50%\n\
             prune=off\nidle=10m\nmin-flush=64K\non-overflow=wait\nhold-full=discard\n\
             spill=LABEL=spill\nwatchdog=/dev/watchdog\nmetrics=/run/node/cowflush.prom\n\
             led=alix:3\n",
        );
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(config.size, Size::Fixed(Bytes(32 << 20)));
        assert_eq!((config.interval, config.idle, config.urgent_delay), (7200, 600, 500));
        assert_eq!(config.at, [210, 900]);
        assert_eq!(
            (config.high, config.full_wait, config.memory_low, config.merge),
            (60, 90, 0, 50)
        );
        assert_eq!(config.urgent, ["/etc", "!/etc/pihole", "/root"]);
        assert_eq!(config.urgent_pause, 60_000);
        assert!(config.merge_on.is_empty() && !config.prune);
        assert_eq!(config.min_flush, Bytes(64 << 10));
        assert_eq!(config.on_overflow, OnOverflow::Wait);
        assert_eq!(config.hold_full, HoldFull::Discard);
        assert_eq!(config.spill, Some(Reference::Label("spill".to_owned())));
        assert_eq!(config.watchdog.as_deref(), Some("/dev/watchdog"));
        assert_eq!(config.metrics.as_deref(), Some("/run/node/cowflush.prom"));
        assert_eq!(config.led.as_deref(), Some("alix:3"));
    }

    /// The document's table: keys and defaults.
    fn documented() -> Vec<(&'static str, &'static str)> {
        let document = include_str!("../../docs/use/configuration.md");
        let section = document.split("\n## Keys\n").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let cells = |line: &'static str| {
            let mut cells = line.strip_prefix("| `")?.split("` | `");
            Some((cells.next()?, cells.next()?.split("` |").next()?))
        };
        section.lines().filter_map(cells).collect()
    }

    #[test]
    fn writers_are_never_held_back_before_a_flush_is_due() {
        let mut config = Config::default();
        assert_eq!(config.reconcile(), None);
        assert_eq!(config.read("high=90%\nfull-wait=60%"), [""; 0]);
        let said = config.reconcile().unwrap();
        assert!(said.contains("high=90%") && said.contains("full-wait=60%"), "{said}");
        assert_eq!((config.high, config.full_wait, config.reconcile()), (60, 60, None));
    }

    #[test]
    fn the_document_has_every_key_and_its_default() {
        let mut config = Config::default();
        for (key, default) in documented() {
            // Where the default is taken back, it must have been another value.
            let other = match default {
                "none" if key == "at" => "03:30",
                "none" if key == "led" => "x",
                "none" | "/etc" | "/boot" => "/dev/x",
                "on" => "off",
                "off" | "30m" | "2s" | "5m" => "7s",
                "write-through" => "wait",
                "flush" => "discard",
                "8K" => "1K",
                _ => "7%",
            };
            assert_eq!(config.set(key, other), Ok(()), "{key}");
            assert_eq!(changed(&config), [key], "{other}");
            assert_eq!(config.set(key, default), Ok(()), "{key}");
            assert_eq!(config, Config::default(), "{key}={default}");
        }
        // The fields as Rust names them are all the keys that there are.
        let fields: Vec<String> =
            fields(&Config::default()).into_iter().map(|(key, _)| key).collect();
        let keys: Vec<&str> = documented().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, fields);
    }

    /// Each field by the name of its key, and its value as Rust prints it.
    fn fields(config: &Config) -> Vec<(String, String)> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in format!("{config:#?}").lines() {
            let Some(line) = line.strip_prefix("    ") else { continue };
            match (line.strip_prefix(' '), line.split_once(':')) {
                (None, Some((name, value))) => {
                    fields.push((name.replace('_', "-"), value.to_owned()))
                }
                _ => fields.last_mut().unwrap().1.push_str(line),
            }
        }
        fields
    }

    /// The keys whose fields are not as by default.
    fn changed(config: &Config) -> Vec<String> {
        let (now, before) = (fields(config), fields(&Config::default()));
        assert_eq!(now.len(), before.len());
        now.into_iter()
            .zip(before)
            .filter(|(now, before)| now != before)
            .map(|(now, _)| now.0)
            .collect()
    }

    #[test]
    fn a_key_on_the_kernel_command_line_is_the_same_key_and_wins() {
        for (key, default) in documented() {
            let (by_file, by_line) = match key {
                "size" | "high" | "full-wait" | "memory-low" | "merge" => ("7%", "9%"),
                "interval" | "idle" | "urgent-delay" | "urgent-pause" => ("7s", "9s"),
                "at" => ("03:30", "04:30"),
                "urgent" | "merge-on" | "spill" | "watchdog" | "metrics" => ("/dev/x", "/dev/y"),
                "prune" => ("on", "off"),
                "min-flush" => ("1K", "2K"),
                "on-overflow" => ("write-through", "wait"),
                "hold-full" => ("flush", "discard"),
                "led" => ("x", "y"),
                _ => panic!("{key}={default} wants two values here"),
            };
            let file = format!("{key}={by_file}");
            let read = |line: &str| Options::parse(line).config(&file).0;
            let mut wanted = Config::default();
            wanted.set(key, by_line).unwrap();
            // high=9% alone is above no full-wait of 7%, which is settled afterwards.
            wanted.reconcile();
            assert_eq!(read(&format!("root=/dev/sda1 cowflush.{key}={by_line}")), wanted, "{key}");
            let mut by_file = Config::default();
            assert_eq!(by_file.read(&file), [""; 0]);
            by_file.reconcile();
            assert_eq!(read("root=/dev/sda1"), by_file, "{key}");
        }
    }

    #[test]
    fn each_value_is_taken_up_to_its_limits_and_no_further() {
        let takes = |key: &str, value: &str| Config::default().set(key, value).is_ok();
        for key in ["high", "full-wait", "memory-low", "merge"] {
            assert!(takes(key, "1%") && takes(key, "100%"), "{key}");
            for bad in ["0%", "101%", "50", "%", "-1%", "1.5%", ""] {
                assert!(!takes(key, bad), "{key}={bad}");
            }
            assert_eq!(takes(key, "off"), key == "memory-low", "{key}");
        }
        assert!(takes("size", "1%") && takes("size", "90%") && takes("size", "1"));
        for key in ["interval", "urgent-delay", "urgent-pause", "idle"] {
            for good in ["1ms", "1s", "1m", "1h", "366d", "off"] {
                assert!(takes(key, good), "{key}={good}");
            }
            for bad in ["0s", "367d", "1", "1w", "s", "-1s", "on", ""] {
                assert!(!takes(key, bad), "{key}={bad}");
            }
        }
        assert!(
            takes("at", "00:00")
                && takes("at", "23:59,00:00")
                && takes("at", &vec!["1:00"; 96].join(","))
        );
        assert!(!takes("at", "23:60") && !takes("at", &vec!["1:00"; 97].join(",")));
        for key in ["urgent", "merge-on"] {
            assert!(
                takes(key, "/a, /b")
                    && takes(key, "none")
                    && !takes(key, "a")
                    && !takes(key, "/a,none")
            );
            // What is left out must be in what is not, or somebody is mistaken.
            for good in ["/a,!/a/b", "!/a/b, /a", "/a, !/a/b,/a/b/c", "/,!/a", "/a/,!/a"] {
                assert!(takes(key, good), "{key}={good}");
            }
            for bad in [
                "!/a/b",
                "/a,!/b",
                "/a,!/ab",
                "/a,!a",
                "/a,!",
                "/a,!none",
                "/a,!!/a/b",
                "/a,!/a//b",
            ] {
                assert!(!takes(key, bad), "{key}={bad}");
            }
        }
        for key in ["watchdog", "metrics"] {
            assert!(
                takes(key, &"/".repeat(4095)) && !takes(key, &"/".repeat(4096)) && !takes(key, "")
            );
        }
        assert!(takes("led", &"x".repeat(255)) && !takes("led", &"x".repeat(256)));
        for bad in ["", ".", "..", "a/b"] {
            assert!(!takes("led", bad), "led={bad}");
        }
        for (key, good) in [("prune", "on"), ("on-overflow", "wait"), ("hold-full", "flush")] {
            assert!(takes(key, good) && !takes(key, "yes") && !takes(key, ""));
        }
        assert!(takes("min-flush", "off") && takes("min-flush", "1") && !takes("min-flush", "0"));
    }

    #[test]
    fn times_are_milliseconds_whatever_their_unit() {
        let all = [("1ms", 1), ("1s", 1000), ("1m", 60_000), ("1h", 3_600_000), ("1d", 86_400_000)];
        for (text, expected) in all {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        let mut config = Config::default();
        // Rounded up: less than a second is not "never".
        assert_eq!(config.read("interval=1001ms\nidle=1001ms"), [""; 0]);
        assert_eq!((config.interval, config.idle), (2, 2));
    }

    #[test]
    fn a_complaint_repeats_no_more_than_a_line_of_a_log_takes() {
        let mut config = Config::default();
        let complaints =
            config.read(&format!("{}\n{}é{}", "x".repeat(500), "y".repeat(119), "z".repeat(50)));
        assert!(complaints[0].contains(&format!("`{}`", "x".repeat(120))), "{}", complaints[0]);
        assert!(complaints[1].contains(&format!("`{}`", "y".repeat(119))), "{}", complaints[1]);
    }

    #[test]
    fn sizes_and_times() {
        let fixed = |bytes| Some(Size::Fixed(Bytes(bytes)));
        assert_eq!(size("16M"), fixed(16 << 20));
        assert_eq!(size("1g"), fixed(1 << 30));
        assert_eq!(size("65536"), fixed(65536));
        assert_eq!(size("40%"), Some(Size::Percent(40)));
        // Less than a second is not "never".
        let mut config = Config::default();
        assert_eq!(config.read("interval=500ms\nidle=1ms"), [""; 0]);
        assert_eq!((config.interval, config.idle), (1, 1));
        for bad in ["24:00", "00:60", "6500:00", "3", ""] {
            assert_eq!(times(bad), None, "{bad:?}");
        }
        for bad in ["", "0", "%", "0%", "91%", "-1M", "M", "1T", "99999999999G", "4é"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_bad_line_names_file_line_and_key_and_the_default_holds() {
        let mut config = Config::default();
        let complaints = config.read("interval=soon\n\nfoo=1\nhigh\nat=24:00\nled=../x\nmetrics=x");
        assert_eq!(config, Config::default());
        assert_eq!(complaints.len(), 6);
        assert_eq!(
            complaints[0],
            "ignoring line 1 of /etc/cowflush.conf, `interval=soon`: it needs a time such as 90s, \
             30m, 12h or off"
        );
        assert!(complaints[1].contains("line 3") && complaints[1].contains("foo"));
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in ".{0,300}") {
            let _ = Config::default().read(&text);
        }

        #[test]
        fn any_value_is_taken_or_refused(
            key in "(size|interval|at|high|urgent|urgent-delay|urgent-pause|min-flush|led|merge-on|spill|watchdog)",
            value in "[0-9a-z%:,/.!]{0,24}",
        ) {
            let _ = Config::default().set(&key, &value);
        }
    }
}
