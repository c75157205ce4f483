//! What an owner configures: /etc/cowflush.conf, one `key = value` a line; every key also as
//! `cowflush.key=` on the kernel command line, which wins.
//!
//! The table of keys stands here alone. `make keys` writes it into the documents, the manual page
//! and what packages install, and a test (tests/keys.rs) compares them with it.

mod kinds;

use kinds::{
    BytesOrOff, Device, File, Kind, Light, Limit, Millis, Paths, Seconds, Share, ShareOrOff,
    SwapArea, Switch, TimesOfDay,
};
pub use kinds::{HoldFull, OnOverflow, Wanted, is_in, left_out};

use crate::pure::policy::cow_memory::Size;
use crate::pure::units::Bytes;

/// Where the file is.
pub const PATH: &str = "/etc/cowflush.conf";

/// What a complaint says about a key that does not exist.
pub const UNKNOWN: Wanted = "a key that this version knows";

/// A key, for the documents and tests that list keys; the program itself does not use it.
#[derive(Clone, Debug)]
pub struct Key {
    /// What the file calls it.
    pub name: &'static str,
    /// What it does, in Markdown: words to type stand in backticks.
    pub help: &'static str,
    /// Two texts with different values.
    pub examples: [&'static str; 2],
    /// The text of the value that a configuration has for it.
    pub text: fn(&Config) -> String,
}

impl Key {
    /// The text of its default.
    pub fn default(&self) -> String {
        (self.text)(&Config::default())
    }
}

/// Each row is a key: its help, its name in the file and in [`Config`], its [`Kind`] and its
/// default.
macro_rules! keys {
    ($($(#[doc = $help:literal])+ $name:literal $field:ident: $kind:ty = $default:expr;)+) => {
        /// All settings.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $(
                $(#[doc = $help])+
                #[doc = concat!("\n\nIts kind is `", stringify!($kind), "`.")]
                pub $field: <$kind as Kind>::Value,
            )+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl Config {
            /// Takes one setting. On an error everything stays as it was.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), Wanted> {
                match key {
                    $($name => set::<$kind>(&mut self.$field, value),)+
                    _ => Err(UNKNOWN),
                }
            }
        }

        /// All keys, in the order in which they are listed.
        pub const KEYS: &[Key] = &[
            $(Key {
                name: $name,
                help: concat!($($help),+).trim_ascii(),
                examples: <$kind>::EXAMPLES,
                text: |config| <$kind>::write(&config.$field),
            },)+
        ];
    };
}

keys! {
    /// limit of the RAM copy: bytes with K, M or G, or a share of RAM. At boot only the kernel
    /// command line counts; the file counts from the first flush on
    "size" size: Limit = Size::default();
    /// flush when the last flush is this old; `off` is never
    "interval" interval: Seconds = 30 * 60;
    /// flush at these times of day, local time: `03:30,15:00`
    "at" at: TimesOfDay = Vec::new();
    /// flush when this share of the RAM copy is in use
    "high" high: Share = 50;
    /// let programs wait when this share is in use during a flush
    "full-wait" full_wait: Share = 80;
    /// flush when less than this share of the RAM is available; `off` is never
    "memory-low" memory_low: ShareOrOff = 8;
    /// a change under these paths, separated by commas, is flushed soon, but not under those with a
    /// `!` before them: `/etc,!/etc/pihole`; `none`
    "urgent" urgent: Paths = vec!["/etc".to_owned()];
    /// how soon; several changes come in one flush
    "urgent-delay" urgent_delay: Millis = 2000;
    /// changes that come again and again: after 12 flushes for `urgent`, one in this time; the same
    /// for `merge-on`. A power cut can then cost this much of them. `off` is no bound
    "urgent-pause" urgent_pause: Millis = 5 * 60_000;
    /// a change under these paths is flushed as soon; if it is on root it is merged as well, since
    /// a boot loader reads the plain card
    "merge-on" merge_on: Paths = vec!["/boot".to_owned()];
    /// a flush that leaves the flush log this full merges it
    "merge" merge: Share = 75;
    /// leave out what need not reach the card: free blocks and the journal of ext2, ext3, ext4
    "prune" prune: Switch = true;
    /// merge the flush log, however little it holds, after this time without a flush; `off` is
    /// never
    "idle" idle: Seconds = 0;
    /// the clock and `memory-low` don't flush for less than this
    "min-flush" min_flush: BytesOrOff = Bytes(8 << 10);
    /// when flushes fail and the RAM copy gets full: `write-through`, or `wait`: programs wait
    /// until the card works again
    "on-overflow" on_overflow: OnOverflow = OnOverflow::WriteThrough;
    /// when a hold lasts until the RAM copy is full: `flush` keeps what is on trial, `discard`
    /// drops it by a reboot
    "hold-full" hold_full: HoldFull = HoldFull::Flush;
    /// a swap area on the card, `/dev/sda3` or `UUID=`, for what the RAM can't take
    "spill" spill: SwapArea = None;
    /// feed this watchdog, `/dev/watchdog`
    "watchdog" watchdog: Device = None;
    /// leave figures for Prometheus in this file, best on a tmpfs: `/run/cowflush.prom`
    "metrics" metrics: File = None;
    /// a light, by its name under /sys/class/leds
    "led" led: Light = None;
}

fn set<K: Kind>(field: &mut K::Value, text: &str) -> Result<(), Wanted> {
    *field = K::read(text).ok_or(K::WANTED)?;
    Ok(())
}

impl Config {
    /// The file that says what this configuration holds: a line for each key.
    pub fn write(&self) -> String {
        KEYS.iter().map(|key| format!("{} = {}\n", key.name, (key.text)(self))).collect()
    }

    /// Changes values that are valid alone and not together. Returns a sentence for what was
    /// changed.
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

/// The part of a line that a complaint repeats, measured in bytes, as syslog and the kernel log
/// measure.
fn beginning(line: &str) -> &str {
    let mut ends = line.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.by_ref().take_while(|end| *end <= 120).last().unwrap_or(0);
    line.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::cmdline::Options;
    use crate::pure::disk::reference::Reference;
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

    #[test]
    fn writers_are_never_held_back_before_a_flush_is_due() {
        let mut config = Config::default();
        assert_eq!(config.reconcile(), None);
        assert_eq!(config.read("high=90%\nfull-wait=60%"), [""; 0]);
        let said = config.reconcile().unwrap();
        assert!(said.contains("high=90%") && said.contains("full-wait=60%"), "{said}");
        assert_eq!((config.high, config.full_wait, config.reconcile()), (60, 60, None));
    }

    /// The keys whose values are not as by default.
    fn changed(config: &Config) -> Vec<&'static str> {
        let default = Config::default();
        let changed = KEYS.iter().filter(|key| (key.text)(config) != (key.text)(&default));
        changed.map(|key| key.name).collect()
    }

    #[test]
    fn each_key_sets_its_own_value_alone_and_takes_back_its_default_as_it_is_listed() {
        let mut config = Config::default();
        for key in KEYS {
            for example in key.examples {
                assert_eq!(config.set(key.name, example), Ok(()), "{}", key.name);
                assert_eq!((key.text)(&config), example, "{}", key.name);
                let expected = if example == key.default() { vec![] } else { vec![key.name] };
                assert_eq!(changed(&config), expected, "{example}");
            }
            assert_ne!(key.examples[0], key.examples[1], "{}", key.name);
            assert_eq!(config.set(key.name, &key.default()), Ok(()), "{}", key.name);
            assert_eq!(config, Config::default(), "{}={}", key.name, key.default());
        }
    }

    #[test]
    fn the_names_of_keys_are_as_a_boot_loader_takes_them_and_none_means_something_else() {
        let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        for name in &names {
            assert!(name.bytes().all(|sign| sign == b'-' || sign.is_ascii_lowercase()), "{name}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
            // cowflush.log= is where the flush log is.
            assert_ne!(*name, "log");
        }
        for key in KEYS {
            // A cell of a table, a line of a manual page.
            assert!(!key.help.is_empty() && !key.help.contains(['|', '\n', '\\']), "{}", key.name);
        }
    }

    #[test]
    fn a_key_on_the_kernel_command_line_is_the_same_key_and_wins() {
        for Key { name, examples: [by_file, by_line], .. } in KEYS {
            let file = format!("{name}={by_file}");
            let read = |line: &str| Options::parse(line).config(&file).0;
            let mut wanted = Config::default();
            wanted.set(name, by_line).unwrap();
            // high=9% alone is above no full-wait of 7%, which is settled afterwards.
            wanted.reconcile();
            assert_eq!(
                read(&format!("root=/dev/sda1 cowflush.{name}={by_line}")),
                wanted,
                "{name}"
            );
            let mut by_file = Config::default();
            assert_eq!(by_file.read(&file), [""; 0]);
            by_file.reconcile();
            assert_eq!(read("root=/dev/sda1"), by_file, "{name}");
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
            // A path that is left out must lie inside a path that is not: anything else is a
            // mistake.
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
            assert_eq!(Millis::read(text), Some(expected), "{text}");
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
        assert_eq!(Limit::read("16M"), fixed(16 << 20));
        assert_eq!(Limit::read("1g"), fixed(1 << 30));
        assert_eq!(Limit::read("65536"), fixed(65536));
        assert_eq!(Limit::read("40%"), Some(Size::Percent(40)));
        // Less than a second is not "never".
        let mut config = Config::default();
        assert_eq!(config.read("interval=500ms\nidle=1ms"), [""; 0]);
        assert_eq!((config.interval, config.idle), (1, 1));
        for bad in ["24:00", "00:60", "6500:00", "3", ""] {
            assert_eq!(TimesOfDay::read(bad), None, "{bad:?}");
        }
        for bad in ["", "0", "%", "0%", "91%", "-1M", "M", "1T", "99999999999G", "4é"] {
            assert_eq!(Limit::read(bad), None, "{bad:?}");
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
            key in prop::sample::select(KEYS),
            value in "[0-9a-z%:,/.!]{0,24}",
        ) {
            let mut config = Config::default();
            if config.set(key.name, &value).is_ok() {
                // What was understood, written again, is understood in the same way.
                let mut again = Config::default();
                prop_assert_eq!(again.read(&config.write()), [""; 0]);
                prop_assert_eq!(again, config);
            } else {
                prop_assert_eq!(config, Config::default());
            }
        }
    }
}
