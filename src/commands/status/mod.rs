//! `cowflush status`.

mod json;
pub mod text;

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use argh::FromArgs;

use self::json::to_json;
use self::text::{to_line, to_text};
use crate::error::{Exit, Result};
use crate::flush::status;

/// Show what is in RAM, what reached the card and what is at risk.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Arguments {
    /// print as JSON; docs/json.md documents the keys
    #[argh(switch)]
    pub json: bool,
    /// go on every second until Ctrl-C; in a pipe, one line a second
    #[argh(switch)]
    pub watch: bool,
}

/// Shows the report; fails with `NotActive` when root is not on a stack. `watch` goes on every
/// second until Ctrl-C, or until the reader of the output is gone.
pub fn run(json: bool, watch: bool) -> Result<Exit> {
    let screen = watch && !json && std::io::stdout().is_terminal();
    loop {
        let report = status::gather();
        let text = match (json, watch, screen) {
            (true, _, _) => to_json(&report).end() + "\n",
            // Moves the cursor home, clears behind each line and below the text, and so avoids
            // flicker.
            (_, _, true) => format!("\x1b[H{}\x1b[J", to_text(&report).replace('\n', "\x1b[K\n")),
            (_, true, _) => to_line(&report),
            _ => to_text(&report),
        };
        let written = std::io::stdout().write_all(text.as_bytes());
        if report.mode.is_none() && report.unknown.is_none() {
            return Ok(Exit::NotActive);
        }
        if !watch && report.unknown.is_some() {
            return Ok(Exit::Failed);
        }
        if !watch || written.is_err() {
            return Ok(Exit::Done);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
