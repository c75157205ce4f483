//! The machine's console, where people watch a machine go down.

use std::fs::File;
use std::io::Write;

use super::kmsg;
use crate::sys::terminal;

/// The machine's console.
pub struct Console {
    console: Option<File>,
}

impl Console {
    /// Opens it. On a machine without a console nothing is shown.
    pub fn open() -> Self {
        Self { console: terminal::console() }
    }

    /// Writes a line to the console, and to the kernel's log at a level that the kernel does not
    /// show on the console.
    pub fn say(&self, text: &str) {
        if let Some(mut console) = self.console.as_ref() {
            let _ = console.write_all(format!("cowflush: {text}\r\n").as_bytes());
        }
        let level = if self.console.is_some() { kmsg::DEBUG } else { kmsg::ERROR };
        let _ = kmsg::say(level, text);
    }
}
