//! The arguments of the `cowflush` command.
#![cfg_attr(not(test), no_main)]

use argh::FromArgs;
use cowflush::commands::log::LogCommand;
use cowflush::commands::{Cli, Command};

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the arguments, one per line. None holds a zero byte: the kernel ends them with one
/// (and argh takes it for any subcommand).
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<&str> = text.split_terminator(['\n', '\0']).collect();
    match Cli::from_args(&["cowflush"], &words) {
        Ok(cli) => {
            let written = write(&cli.command);
            let again: Vec<&str> = written.iter().map(String::as_str).collect();
            // Every word but `--` comes from the input; a number has several spellings.
            for word in again.iter().filter(|word| split_number(word).count() == 1) {
                assert!(*word == "--" || words.contains(word), "{words:?}: {again:?}");
            }
            // A command that was understood and written again is understood in the same way.
            let again: Vec<&str> = written.iter().flat_map(|word| split_number(word)).collect();
            let read = Cli::from_args(&["cowflush"], &again).map(|cli| write(&cli.command));
            assert_eq!(read.ok(), Some(written), "{words:?}");
        }
        Err(early) => {
            // Help or a complaint: a user must see something.
            assert!(!early.output.trim_end().is_empty(), "{words:?}");
            let alone = [
                "flush", "merge", "stop", "start", "status", "history", "check", "daemon", "hold",
                "release", "discard", "log", "attach", "version",
            ];
            assert!(!matches!(words[..], [word] if alone.contains(&word)), "{words:?}");
        }
    }
}

/// Splits `--erase-block=4096` into the two words that argh needs.
fn split_number(word: &str) -> impl Iterator<Item = &str> {
    let split = ["--erase-block", "--within"]
        .into_iter()
        .find_map(|option| Some([option, word.strip_prefix(option)?.strip_prefix('=')?]));
    split.into_iter().flatten().chain(split.is_none().then_some(word))
}

/// The arguments that ask for `command`.
fn write(command: &Command) -> Vec<String> {
    let mut line = Line::default();
    match command {
        Command::Flush(o) => {
            line.say("flush").switch("--direct", o.direct).switch("--json", o.json)
        }
        Command::Merge(o) => line.say("merge").switch("--json", o.json),
        Command::Stop(o) => {
            line.say("stop").switch("--json", o.json).switch("--shutdown", o.shutdown);
            if let Some(seconds) = o.within {
                line.say(&format!("--within={seconds}"));
            }
            &mut line
        }
        Command::Start(_) => line.say("start"),
        Command::Status(o) => {
            line.say("status").switch("--watch", o.watch).switch("--json", o.json)
        }
        Command::History(o) => line.say("history").switch("--json", o.json),
        Command::Daemon(_) => line.say("daemon"),
        Command::Hold(_) => line.say("hold"),
        Command::Release(_) => line.say("release"),
        Command::Discard(o) => line.say("discard").switch("--now", o.now),
        Command::Check(o) => line.say("check").switch("--json", o.json),
        Command::Log(o) => {
            line.say("log").switch("--verify", o.verify).switch("--word", o.word);
            line.switch("--json", o.json);
            if let Some(LogCommand::Format(o)) = &o.command {
                let label = Some(&o.label).filter(|label| !label.is_empty());
                line.say("format").switch("--dry-run", o.dry_run);
                line.option("--root", o.root.as_ref().map(|path| path.display()));
                line.option("--label", label).option("--over", o.over.as_ref());
                if o.erase_block.0 > 0 {
                    line.say(&format!("--erase-block={}", o.erase_block.0));
                }
                if o.fill.0 > 0 {
                    line.say(&format!("--fill={}", o.fill.0));
                }
                line.say("--").say(&o.device.display().to_string());
            }
            &mut line
        }
        Command::Recover(o) => {
            line.say("recover").switch("--merge", o.merge).switch("--force", o.force);
            line.switch("--dry-run", o.dry_run).switch("--json", o.json);
            line.option("--export", o.export.as_ref().map(|path| path.display()));
            line.say("--").say(&o.root.display().to_string()).say(&o.log.display().to_string())
        }
        Command::Init(_) => line.say("init"),
        Command::Attach(o) => {
            line.say("attach").switch("--plain", o.plain).switch("--by-log", o.by_log);
            if let Some(root) = &o.root {
                line.say("--").say(root);
            }
            &mut line
        }
        Command::Version(_) => line.say("version"),
    };
    line.0
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn say(&mut self, word: &str) -> &mut Self {
        self.0.push(word.to_owned());
        self
    }

    fn switch(&mut self, name: &str, on: bool) -> &mut Self {
        if on { self.say(name) } else { self }
    }

    fn option(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        match value {
            Some(value) => self.say(name).say(&value.to_string()),
            None => self,
        }
    }
}
