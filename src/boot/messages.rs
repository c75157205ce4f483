//! The boot's messages, for the kernel log, which the console shows, and for a note.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use crate::output::kmsg;

/// Collects the messages for the note in /run/cowflush.
#[derive(Clone, Default)]
pub struct BootMessages {
    lines: Vec<String>,
}

impl BootMessages {
    /// Logs information.
    pub fn info(&mut self, text: &str) {
        self.say(kmsg::NOTICE, text);
    }

    /// Logs an error, which the console shows even with `quiet`.
    pub fn error(&mut self, text: &str) {
        self.say(kmsg::ERROR, text);
    }

    fn say(&mut self, level: u8, text: &str) {
        let text = kmsg::fitting(text);
        // Without /dev/kmsg the message goes to the console directly.
        if kmsg::say(level, &text).is_err() {
            let _ = writeln!(std::io::stderr(), "cowflush: {text}");
        }
        self.lines.push(text);
    }

    /// All messages, one on each line.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("message={line}\n")).collect()
    }
}

/// Makes the console standard input, output and error: an initramfs without /dev/console starts
/// PID 1 with none of them.
pub fn attach() {
    if let Ok(console) = File::options().read(true).write(true).open("/dev/console") {
        let fd = console.as_fd();
        // An error is ignored: there is no place to report it to.
        let _ = nix::unistd::dup2_stdin(fd);
        let _ = nix::unistd::dup2_stdout(fd);
        let _ = nix::unistd::dup2_stderr(fd);
    }
}
