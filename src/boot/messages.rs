//! What the boot says: to the kernel log, which is also the console, and to a note.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use crate::output::kmsg;

/// Collects what was said, for the note in /run/cowflush.
#[derive(Clone, Default)]
pub struct BootMessages {
    lines: Vec<String>,
}

impl BootMessages {
    /// Something to know.
    pub fn info(&mut self, text: &str) {
        self.say(kmsg::NOTICE, text);
    }

    /// Something that went wrong: shown on the console even with `quiet`.
    pub fn error(&mut self, text: &str) {
        self.say(kmsg::ERROR, text);
    }

    fn say(&mut self, level: u8, text: &str) {
        let text = kmsg::fitting(text);
        // Without /dev/kmsg the console itself has to do.
        if kmsg::say(level, &text).is_err() {
            let _ = writeln!(std::io::stderr(), "cowflush: {text}");
        }
        self.lines.push(text);
    }

    /// Everything that was said, one line each.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("message={line}\n")).collect()
    }
}

/// Makes the console standard input, output and error: an initramfs without /dev/console starts
/// PID 1 with none of them.
pub fn attach() {
    if let Ok(console) = File::options().read(true).write(true).open("/dev/console") {
        let fd = console.as_fd();
        // A descriptor that can't be set stays as it was; there is nobody to tell.
        let _ = nix::unistd::dup2_stdin(fd);
        let _ = nix::unistd::dup2_stdout(fd);
        let _ = nix::unistd::dup2_stderr(fd);
    }
}
