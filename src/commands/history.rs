//! `cowflush history`.

use cowflush::error::{Exit, Result};
use cowflush::ops::run_dir;
use cowflush::report::history;
use cowflush::report::json::Object;
use cowflush::report::record::Record;
use cowflush::sys::terminal;

use crate::put;

/// Version of the JSON: it changes when a key changes its meaning or goes.
const JSON_VERSION: u64 = 1;

/// Shows the last flushes, the newest last.
pub fn run(json: bool) -> Result<Exit> {
    let records = run_dir::history();
    let width = terminal::width();
    let text = if json {
        let object = Object::new().number("version", JSON_VERSION);
        object.list("flushes", records.iter().map(Record::to_json)).end() + "\n"
    } else if records.is_empty() && width.is_some() {
        "no flush since boot\n".to_owned()
    } else {
        history::table(&records, width)
    };
    put(std::io::stdout(), &text);
    Ok(Exit::Done)
}
