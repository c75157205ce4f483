//! `cowflush history`.

use argh::FromArgs;

use crate::commands::log::show;
use crate::error::{Exit, Result};
use crate::flush::status;
use crate::notes::run_dir;
use crate::output::put;
use crate::pure::report::history;
use crate::pure::report::json::Object;
use crate::pure::report::record::Record;
use crate::sys::terminal;

/// Show the last flushes since boot: when, why, how much, how long, how long root waited.
#[derive(FromArgs)]
#[argh(subcommand, name = "history")]
pub struct Arguments {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Version of the JSON: it changes when a key changes its meaning or is removed.
const JSON_VERSION: u64 = 1;

/// Shows the last flushes, the newest last.
pub fn run(json: bool) -> Result<Exit> {
    let records = run_dir::history();
    let life = status::gather().log.and_then(|log| log.life);
    let width = terminal::width();
    let text = if json {
        let object = Object::new().number("version", JSON_VERSION);
        let object = object.list("flushes", records.iter().map(Record::to_json));
        object.object("life", life.map(|life| show::life_json(&life))).end() + "\n"
    } else if width.is_some() {
        let none = if records.is_empty() { "no flush since boot\n" } else { "" };
        // In a pipe each line is a flush, so the log's figures are left out.
        let life = life.map(|life| format!("\nflush log: {}\n", life.sentence()));
        history::table(&records, width) + none + &life.unwrap_or_default()
    } else {
        history::table(&records, width)
    };
    put(std::io::stdout(), &text);
    Ok(Exit::Done)
}
