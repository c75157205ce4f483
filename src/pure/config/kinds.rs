//! The kinds of values that keys have: how the file writes each, and what a complaint says about a
//! text that is not one.

use crate::pure::disk::reference::Reference;
use crate::pure::policy::cow_memory::Size;
use crate::pure::units::{Bytes, bytes, decimal};

/// What the value of a key should have been.
pub type Wanted = &'static str;

/// How the value of a key is written.
pub trait Kind {
    /// What the program keeps of it.
    type Value: PartialEq;
    /// What a complaint says that the key needs.
    const WANTED: Wanted;
    /// Two texts with different values: what a test of any key can set.
    const EXAMPLES: [&str; 2];
    /// Reads a value; `None` for a text that is not a value.
    fn read(text: &str) -> Option<Self::Value>;
    /// The text of a value: [`read`](Self::read) gets the same value from it.
    fn write(value: &Self::Value) -> String;
}

/// A limit of memory: bytes, or a share of the RAM of 1 to 90 %.
pub enum Limit {}

impl Kind for Limit {
    type Value = Size;
    const WANTED: Wanted = "a size such as 32M or a share of the RAM such as 40%";
    const EXAMPLES: [&str; 2] = ["7%", "9M"];

    fn read(text: &str) -> Option<Size> {
        match text.strip_suffix('%').map(decimal) {
            Some(percent) => {
                percent.filter(|percent| (1..=90).contains(percent)).map(Size::Percent)
            }
            None => bytes(text).map(Size::Fixed),
        }
    }

    fn write(size: &Size) -> String {
        match size {
            Size::Fixed(bytes) => in_units(bytes.0, &SIZES),
            Size::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// A number of bytes; `off` is 0.
pub enum BytesOrOff {}

impl Kind for BytesOrOff {
    type Value = Bytes;
    const WANTED: Wanted = "a size such as 64K, or off";
    const EXAMPLES: [&str; 2] = ["1K", "off"];

    fn read(text: &str) -> Option<Bytes> {
        bytes(text).or(off(text).map(Bytes))
    }

    fn write(bytes: &Bytes) -> String {
        or_off(bytes.0, |bytes| in_units(bytes, &SIZES))
    }
}

const TIME: Wanted = "a time such as 90s, 30m, 12h or off";

/// A time in milliseconds, at most a year; `off` is 0.
pub enum Millis {}

impl Kind for Millis {
    type Value = u64;
    const WANTED: Wanted = TIME;
    const EXAMPLES: [&str; 2] = ["7s", "9ms"];

    /// `500ms`, `90s`, `30m`, `12h`, `2d`, `off`.
    fn read(text: &str) -> Option<u64> {
        if text == "off" {
            return Some(0);
        }
        let (digits, factor) =
            TIMES.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
        let millis = decimal::<u64>(digits)?.checked_mul(factor)?;
        (1..=366 * 86_400_000).contains(&millis).then_some(millis)
    }

    fn write(millis: &u64) -> String {
        or_off(*millis, |millis| in_units(millis, &TIMES))
    }
}

/// A time in seconds, rounded up, since less than a second is not "never"; `off` is 0.
pub enum Seconds {}

impl Kind for Seconds {
    type Value = u64;
    const WANTED: Wanted = TIME;
    const EXAMPLES: [&str; 2] = ["7s", "9m"];

    fn read(text: &str) -> Option<u64> {
        Millis::read(text).map(|millis| millis.div_ceil(1000))
    }

    fn write(seconds: &u64) -> String {
        Millis::write(&seconds.saturating_mul(1000))
    }
}

/// Times of day in minutes since midnight, at most 96 of them.
pub enum TimesOfDay {}

impl Kind for TimesOfDay {
    type Value = Vec<u16>;
    const WANTED: Wanted = "times of day such as 03:30,15:00, or none";
    const EXAMPLES: [&str; 2] = ["03:30", "04:30,15:00"];

    fn read(text: &str) -> Option<Vec<u16>> {
        list(text, |text| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u16, u16) = (decimal(hour)?, decimal(minute)?);
            (hour < 24 && minute < 60).then(|| hour * 60 + minute)
        })
    }

    fn write(times: &Vec<u16>) -> String {
        or_none_of(times.iter().map(|at| format!("{:02}:{:02}", at / 60, at % 60)))
    }
}

const SHARE: Wanted = "a share such as 75%";

/// A share in percent, from 1 to 100.
pub enum Share {}

impl Kind for Share {
    type Value = u64;
    const WANTED: Wanted = SHARE;
    const EXAMPLES: [&str; 2] = ["7%", "9%"];

    fn read(text: &str) -> Option<u64> {
        let percent = text.strip_suffix('%').and_then(decimal);
        percent.filter(|percent| (1..=100).contains(percent))
    }

    fn write(percent: &u64) -> String {
        format!("{percent}%")
    }
}

/// A share in percent, 1 to 100; `off` is 0.
pub enum ShareOrOff {}

impl Kind for ShareOrOff {
    type Value = u64;
    const WANTED: Wanted = SHARE;
    const EXAMPLES: [&str; 2] = ["7%", "off"];

    fn read(text: &str) -> Option<u64> {
        Share::read(text).or(off(text))
    }

    fn write(percent: &u64) -> String {
        or_off(*percent, |percent| Share::write(&percent))
    }
}

/// Absolute paths, at most 96. A path with a `!` before it is left out, and must lie inside another
/// one.
pub enum Paths {}

impl Kind for Paths {
    type Value = Vec<String>;
    const WANTED: Wanted =
        "absolute paths, separated by commas, or none; one in another is left out by a ! before it";
    const EXAMPLES: [&str; 2] = ["/srv", "/srv,!/srv/x,/root"];

    fn read(text: &str) -> Option<Vec<String>> {
        let all = list(text, |text| {
            let text = text.trim();
            let (left_out, rest) = left_out(text).map_or((false, text), |path| (true, path));
            let path = path(rest).flatten()?;
            Some(if left_out { format!("!{path}") } else { path })
        })?;
        // No path of a tree is spelled with two slashes: that would leave out nothing.
        let inside = |path: &str| !path.contains("//") && all.iter().any(|tree| is_in(path, tree));
        all.iter().filter_map(|path| left_out(path)).all(inside).then_some(all)
    }

    fn write(paths: &Vec<String>) -> String {
        or_none_of(paths.iter().cloned())
    }
}

/// Whether a path is another one or lies inside it; slashes at the end don't count.
pub fn is_in(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path behind the `!`, for an entry that leaves a path out.
pub fn left_out(path: &str) -> Option<&str> {
    path.strip_prefix('!')
}

/// A kind of two words.
macro_rules! words {
    ($kind:ty, $value:ty, $wanted:literal, $($word:literal = $meant:expr),+) => {
        impl Kind for $kind {
            type Value = $value;
            const WANTED: Wanted = $wanted;
            const EXAMPLES: [&str; 2] = [$($word),+];

            fn read(text: &str) -> Option<$value> {
                match text {
                    $($word => Some($meant),)+
                    _ => None,
                }
            }

            fn write(value: &$value) -> String {
                let words = [$(($word, $meant)),+];
                let word = words.into_iter().find(|(_, meant)| meant == value);
                word.map_or_else(String::new, |(word, _)| word.to_owned())
            }
        }
    };
}

/// `on` or `off`.
pub enum Switch {}

words!(Switch, bool, "on or off", "on" = true, "off" = false);

/// What becomes of writers when flushes fail and the COW fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    /// Their writes go straight to the card.
    WriteThrough,
    /// They wait until the card works again.
    Wait,
}

words!(
    OnOverflow,
    Self,
    "write-through or wait",
    "write-through" = Self::WriteThrough,
    "wait" = Self::Wait
);

/// What becomes of an upgrade on trial when the COW fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldFull {
    /// It is kept: the hold ends.
    Flush,
    /// It is dropped by a reboot.
    Discard,
}

words!(HoldFull, Self, "flush or discard", "flush" = Self::Flush, "discard" = Self::Discard);

/// A swap area, if any.
pub enum SwapArea {}

impl Kind for SwapArea {
    type Value = Option<Reference>;
    const WANTED: Wanted = "a swap area such as /dev/sda3 or UUID=..., or none";
    const EXAMPLES: [&str; 2] = ["/dev/sda3", "LABEL=spill"];

    fn read(text: &str) -> Option<Option<Reference>> {
        if text == "none" { Some(None) } else { Reference::parse(text).map(Some) }
    }

    fn write(area: &Option<Reference>) -> String {
        or_none(area.as_ref().map(ToString::to_string))
    }
}

/// The absolute path of a device, if any.
pub enum Device {}

impl Kind for Device {
    type Value = Option<String>;
    const WANTED: Wanted = "a path such as /dev/watchdog, or none";
    const EXAMPLES: [&str; 2] = ["/dev/watchdog", "/dev/watchdog1"];

    fn read(text: &str) -> Option<Option<String>> {
        path(text)
    }

    fn write(path: &Option<String>) -> String {
        or_none(path.clone())
    }
}

/// The absolute path of a file, if any.
pub enum File {}

impl Kind for File {
    type Value = Option<String>;
    const WANTED: Wanted = "an absolute path, or none";
    const EXAMPLES: [&str; 2] = ["/run/cowflush.prom", "/tmp/x"];

    fn read(text: &str) -> Option<Option<String>> {
        path(text)
    }

    fn write(path: &Option<String>) -> String {
        or_none(path.clone())
    }
}

/// The name of a light under /sys/class/leds, if any.
pub enum Light {}

impl Kind for Light {
    type Value = Option<String>;
    const WANTED: Wanted = "a name under /sys/class/leds, or none";
    const EXAMPLES: [&str; 2] = ["x", "alix:3"];

    fn read(text: &str) -> Option<Option<String>> {
        match text {
            "none" => Some(None),
            "" | "." | ".." => None,
            _ if text.contains('/') || text.len() > 255 => None,
            _ => Some(Some(text.to_owned())),
        }
    }

    fn write(name: &Option<String>) -> String {
        or_none(name.clone())
    }
}

fn off(text: &str) -> Option<u64> {
    (text == "off").then_some(0)
}

fn or_off(value: u64, write: impl Fn(u64) -> String) -> String {
    if value == 0 { "off".to_owned() } else { write(value) }
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "none".to_owned())
}

fn or_none_of(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    or_none((!values.is_empty()).then(|| values.join(",")))
}

/// Units from small to large; `ms` stands before `s`, which it ends with.
const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)];

/// A number in the largest unit in which it is a whole one.
fn in_units(value: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor));
    fits.map_or_else(String::new, |(unit, factor)| format!("{}{unit}", value / factor))
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
