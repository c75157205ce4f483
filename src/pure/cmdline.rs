//! The kernel command line: the words that concern root, and `cowflush.*`.
//!
//! Words: the kernel's Documentation/admin-guide/kernel-parameters.rst.

use super::disk::reference::Reference;
use crate::pure::config::Config;
use crate::pure::units::decimal;

/// What the command line asks for. What it does not mention has the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `root=`.
    pub root: Option<Reference>,
    /// `rootfstype=`: filesystem types to try, in order.
    pub types: Vec<String>,
    /// `rootflags=`: mount options.
    pub flags: String,
    /// `rw` was the last of `ro` and `rw`.
    pub writable: bool,
    /// `rootwait`: wait for the card for ever.
    pub wait_for_ever: bool,
    /// `rootdelay=`: seconds to wait before looking for the card.
    pub delay: u64,
    /// `init=`.
    pub init: Option<String>,
    /// `panic=`: seconds after which an unattended rescue prompt reboots the machine; 0 is never.
    pub panic: u64,
    /// `cowflush=off`: use the card directly.
    pub off: bool,
    /// `cowflush=on`: something flushes root, in a way that [`served`](super::served) can't see.
    pub vouched: bool,
    /// `cowflush=always`: as `cowflush=on`, and use the stack however many boots have failed on it.
    pub insist: bool,
    /// `cowflush.log=`: where the flush log is.
    pub log: LogChoice,
    /// `cowflush.KEY=` for every key of the configuration file: key and value, in order.
    pub settings: Vec<(String, String)>,
    /// What was not understood, as sentences; the default holds for each.
    pub complaints: Vec<String>,
}

/// Where the flush log is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogChoice {
    /// The log that was made for this root, wherever it is.
    #[default]
    Own,
    /// The log that the command line names.
    At(Reference),
    /// No log is used.
    None,
}

/// A file of the initramfs with words that are read before the kernel command line. A
/// distribution's hook notes in it what it knows of the machine, such as a flush log on another
/// disk.
pub const NOTED: &str = "/etc/cowflush.words";

impl Options {
    /// What a boot is asked for: the words that its initramfs has noted, and the command line,
    /// which wins.
    pub fn of_boot(noted: impl AsRef<[u8]>, line: impl AsRef<[u8]>) -> Self {
        let mut options = Self::parse(noted);
        options.add(&String::from_utf8_lossy(line.as_ref()));
        options
    }

    /// The configuration: the settings of this line over those of `file`. Complaints about the
    /// file come first.
    pub fn config(&self, file: &str) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut complaints = config.read(file);
        for (key, value) in &self.settings {
            // The settings were tried when the line was read.
            let _ = config.set(key, value);
        }
        complaints.extend(config.reconcile());
        (config, complaints)
    }

    /// Reads a whole command line. Never fails: a router must boot. A line is bytes: a byte that is
    /// not UTF-8 spoils only the word that it is in.
    pub fn parse(line: impl AsRef<[u8]>) -> Self {
        let mut options = Self::default();
        options.add(&String::from_utf8_lossy(line.as_ref()));
        options
    }

    /// Reads words that were added later; they win. Not the same as a longer line, where a `--`
    /// or an open quote would swallow them.
    pub fn add(&mut self, line: &str) {
        // The rest belongs to init.
        for word in words(line).take_while(|word| word != "--") {
            self.take(&word);
        }
    }

    fn take(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "root" => match Reference::parse(value) {
                Some(reference) => self.root = Some(reference),
                None => self.complain(word, "it names no block device"),
            },
            "rootfstype" => {
                let types = value.split(',').filter(|kind| !kind.is_empty() && *kind != "auto");
                self.types = types.map(str::to_owned).collect();
            }
            "rootflags" => self.flags = value.to_owned(),
            "ro" if value.is_empty() => self.writable = false,
            "rw" if value.is_empty() => self.writable = true,
            "rootwait" => self.wait_for_ever = true,
            "rootdelay" => match decimal(value) {
                Some(seconds) => self.delay = seconds,
                None => self.complain(word, "it is not a number of seconds"),
            },
            "init" if !value.is_empty() => self.init = Some(value.to_owned()),
            // A negative value means "at once"; a prompt that disappears at once helps nobody.
            "panic" => self.panic = decimal(value).unwrap_or(u64::from(value.starts_with('-'))),
            "cowflush" => match value {
                "off" | "0" | "no" => (self.off, self.vouched, self.insist) = (true, false, false),
                "on" | "1" | "yes" => (self.off, self.vouched, self.insist) = (false, true, false),
                "always" => (self.off, self.vouched, self.insist) = (false, true, true),
                _ => self.complain(word, "it is none of on, off and always"),
            },
            "cowflush.log" => match value {
                "none" => self.log = LogChoice::None,
                "auto" => self.log = LogChoice::Own,
                _ => match Reference::parse(value) {
                    Some(reference) => self.log = LogChoice::At(reference),
                    None => self.complain(word, "it names no block device"),
                },
            },
            _ => {
                if let Some(key) = key.strip_prefix("cowflush.") {
                    match Config::default().set(key, value) {
                        Ok(()) => self.settings.push((key.to_owned(), value.to_owned())),
                        Err(wanted) => self.complain(word, &format!("it needs {wanted}")),
                    }
                }
            }
        }
    }

    fn complain(&mut self, word: &str, why: &str) {
        // A garbled line could be long; the kernel log takes about a kilobyte a line.
        let word: String = word.chars().take(80).collect();
        self.complaints.push(format!("ignoring `{word}` on the kernel command line: {why}"));
    }
}

/// Splits at spaces outside double quotes, and drops the quotes, as the kernel does.
pub fn words(line: &str) -> impl Iterator<Item = String> {
    let mut rest = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = rest
            .find(|c: char| {
                quoted ^= c == '"';
                c.is_ascii_whitespace() && !quoted
            })
            .unwrap_or(rest.len());
        let (word, next) = rest.split_at(end);
        rest = next;
        Some(word.replace('"', ""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::policy::cow_memory::Size;
    use proptest::prelude::*;

    #[test]
    fn a_usual_line() {
        let options = Options::parse(
            "BOOT_IMAGE=/vmlinuz root=UUID=0a1b rw rootfstype=ext4,ext2 rootflags=noatime,errors=\
             remount-ro rootwait rootdelay=3 init=/sbin/procd panic=10 quiet cowflush.size=25%\n",
        );
        assert_eq!(options.root, Some(Reference::Uuid("0a1b".to_owned())));
        assert_eq!(options.types, ["ext4", "ext2"]);
        assert_eq!(options.flags, "noatime,errors=remount-ro");
        assert!(options.writable && options.wait_for_ever && !options.off);
        assert_eq!((options.delay, options.panic), (3, 10));
        assert_eq!(options.init.as_deref(), Some("/sbin/procd"));
        assert_eq!(options.config("size=1M").0.size, Size::Percent(25));
        assert!(options.complaints.is_empty(), "{:?}", options.complaints);
    }

    #[test]
    fn the_last_word_wins_and_quotes_hold_spaces() {
        let options =
            Options::parse("rw ro root=/dev/sda1 root=\"LABEL=my root\" cowflush=off -- rw");
        assert!(!options.writable && options.off);
        assert_eq!(options.root, Some(Reference::Label("my root".to_owned())));
    }

    #[test]
    fn a_byte_that_is_no_utf8_spoils_its_own_word_alone() {
        let options = Options::parse(b"root=/dev/sda1 name=caf\xe9 rw init=/sbin/\xff");
        assert_eq!(options.root, Some(Reference::Path("/dev/sda1".to_owned())));
        assert!(options.writable);
    }

    #[test]
    fn the_command_line_wins_over_what_the_initramfs_has_noted() {
        let log = |noted: &str, line: &str| Options::of_boot(noted, line).log;
        let at = LogChoice::At(Reference::Uuid("ab".to_owned()));
        assert_eq!(log("cowflush.log=UUID=ab\n", "root=/dev/sda1 rw"), at);
        assert_eq!(log("", "cowflush.log=UUID=ab"), at);
        assert_eq!(log("cowflush.log=UUID=ab\n", "cowflush.log=none"), LogChoice::None);
        assert_eq!(log("cowflush.log=UUID=ab\n", "cowflush.log=auto"), LogChoice::Own);
        assert_eq!(log("cowflush.log=UUID=xy -- \"", "cowflush.log=UUID=ab"), at);
    }

    #[test]
    fn words_added_later_win_whatever_the_line_ends_with() {
        for line in ["root=/dev/sda1 -- single", "root=/dev/sda1 \"rootflags=a", "root=/dev/sda1"] {
            let mut options = Options::parse(line);
            options.add("root=/dev/sdb2 cowflush=off");
            assert_eq!(options.root, Some(Reference::Path("/dev/sdb2".to_owned())), "{line}");
            assert!(options.off, "{line}");
        }
    }

    #[test]
    fn what_is_garbled_is_named_and_the_default_holds() {
        let options = Options::parse(
            "root=sda1 rootdelay=soon cowflush=maybe cowflush.size=lots cowflush.sise=4M",
        );
        let kept = Options { complaints: options.complaints.clone(), ..Options::default() };
        assert_eq!(options, kept);
        assert_eq!(
            options.complaints,
            [
                "ignoring `root=sda1` on the kernel command line: it names no block device",
                "ignoring `rootdelay=soon` on the kernel command line: it is not a number of seconds",
                "ignoring `cowflush=maybe` on the kernel command line: it is none of on, off and always",
                "ignoring `cowflush.size=lots` on the kernel command line: it needs a size such as \
                 32M or a share of the RAM such as 40%",
                "ignoring `cowflush.sise=4M` on the kernel command line: it needs a key that this \
                 version knows",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_line_parses(line in ".{0,300}") {
            let _ = Options::parse(&line);
        }

        #[test]
        fn any_mix_of_words_parses(
            words in prop::collection::vec("(root|rw|cowflush\\.size|rootflags|\"|=|M|%| |[0-9]{1,20}){0,6}", 0..10)
        ) {
            let _ = Options::parse(words.join(" "));
        }
    }

    /// The document's table: what each row calls its key, and its default.
    fn documented() -> Vec<(&'static str, &'static str)> {
        let document = include_str!("../../docs/use/kernel-command-line.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
        let rows = rows.map(|row| {
            let mut cells = row.split(" | ");
            (cells.next().unwrap().trim_end_matches('`'), cells.next().unwrap().trim())
        });
        rows.collect()
    }

    /// The fields of [`Options`] that a line leaves other than the empty line does.
    fn changed(line: &str) -> Vec<&'static str> {
        let (now, before) = (Options::parse(line), Options::default());
        assert!(now.complaints.is_empty(), "{line}: {:?}", now.complaints);
        [
            ("root", now.root != before.root),
            ("types", now.types != before.types),
            ("flags", now.flags != before.flags),
            ("writable", now.writable != before.writable),
            ("wait_for_ever", now.wait_for_ever != before.wait_for_ever),
            ("delay", now.delay != before.delay),
            ("init", now.init != before.init),
            ("panic", now.panic != before.panic),
            ("off", now.off != before.off),
            ("vouched", now.vouched != before.vouched),
            ("insist", now.insist != before.insist),
            ("log", now.log != before.log),
            ("settings", now.settings != before.settings),
        ]
        .into_iter()
        .filter_map(|(name, changed)| changed.then_some(name))
        .collect()
    }

    #[test]
    fn every_key_of_the_readme_changes_what_it_names_and_has_the_default_that_is_said() {
        let none = Options::parse("BOOT_IMAGE=/vmlinuz quiet");
        assert_eq!(none, Options::default());
        assert_eq!(Options::default().config("").0, Config::default());
        for (keys, default) in documented() {
            let (words, back): (&[(&str, &str)], &str) = match keys {
                "root=" => (&[("root=/dev/sda1", "root")], ""),
                "rootfstype=`, `rootflags=" => (
                    &[("rootfstype=ext4", "types"), ("rootflags=noatime", "flags")],
                    "rootfstype=auto",
                ),
                "ro`, `rw" => (&[("rw", "writable")], "rw ro"),
                "rootwait`, `rootdelay=" => {
                    (&[("rootwait", "wait_for_ever"), ("rootdelay=3", "delay")], "rootdelay=0")
                }
                "init=" => (&[("init=/bin/ash", "init")], "init="),
                "panic=" => (&[("panic=10", "panic")], "panic=0"),
                "cowflush=" => (&[("cowflush=off", "off"), ("cowflush=on", "vouched")], ""),
                "cowflush.log=" => (
                    &[("cowflush.log=/dev/sda2", "log"), ("cowflush.log=none", "log")],
                    "cowflush.log=none cowflush.log=auto",
                ),
                "cowflush.merge=" => (&[("cowflush.merge=50%", "settings")], ""),
                "cowflush.size=" => (&[("cowflush.size=8M", "settings")], ""),
                "cowflush.KEY=" => (&[("cowflush.prune=off", "settings")], ""),
                _ => panic!("{keys} wants its words here"),
            };
            for (word, field) in words {
                assert_eq!(changed(word), [*field], "{word}");
            }
            assert_eq!(changed(back), [""; 0], "{back}");
            let said = match keys {
                "root=" | "cowflush.KEY=" | "init=" | "rootfstype=`, `rootflags=" => continue,
                "ro`, `rw" => {
                    if none.writable {
                        "`rw`"
                    } else {
                        "`ro`"
                    }
                }
                "rootwait`, `rootdelay=" => "30 s of patience, 0",
                "panic=" => "0",
                // Neither `on` nor `off`.
                "cowflush=" => "none",
                "cowflush.log=" => "`auto`",
                "cowflush.merge=" => "`75%`",
                "cowflush.size=" => "`40%`",
                _ => unreachable!(),
            };
            assert_eq!(default, said, "{keys}");
        }
        assert_eq!((none.delay, none.panic, none.log), (0, 0, LogChoice::Own));
        let config = Config::default();
        assert_eq!((config.merge, config.size), (75, Size::Percent(40)));
        assert_eq!(documented().len(), 11);
    }

    #[test]
    fn where_the_log_is_and_whether_the_stack_is_wanted_is_said_in_every_form() {
        let at = |text: &str| LogChoice::At(Reference::parse(text).unwrap());
        for text in ["/dev/sda2", "8:2", "UUID=ab", "LABEL=log", "PARTUUID=ab-01", "PARTLABEL=log"]
        {
            assert_eq!(Options::parse(format!("cowflush.log={text}")).log, at(text), "{text}");
        }
        let bad = Options::parse("cowflush.log=sda2");
        assert_eq!((bad.log, bad.complaints.len()), (LogChoice::Own, 1));
        for (text, off) in
            [("off", true), ("0", true), ("no", true), ("on", false), ("1", false), ("yes", false)]
        {
            assert_eq!(Options::parse(format!("cowflush={text}")).off, off, "{text}");
            for before in ["off", "on", "always"] {
                let last = Options::parse(format!("cowflush={before} cowflush={text}"));
                let expected = (off, !off, false);
                assert_eq!((last.off, last.vouched, last.insist), expected, "{before} {text}");
            }
        }
        let always = Options::parse("cowflush=off cowflush=always");
        assert_eq!((always.off, always.vouched, always.insist), (false, true, true));
        // "At once" is a second, garbage is never.
        assert_eq!(Options::parse("panic=-1").panic, 1);
        assert_eq!((Options::parse("panic=x").panic, Options::parse("rw=1").writable), (0, false));
        assert!(Options::parse("rw ro=1").writable);
        assert!(Options::parse("\0quiet rw\n\0").writable);
        // A complaint repeats at most 80 characters of a word.
        let long = Options::parse(format!("root={}", "x".repeat(500)));
        assert!(long.complaints[0].len() < 200, "{}", long.complaints[0]);
    }
}
