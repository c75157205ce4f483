//! What commands that flush say about the result.

use crate::error::{Exit, Result};
use crate::flush::session::{Outcome, Session};
use crate::notes::run_dir;
use crate::output::{put, syslog};
use crate::pure::report::json::Object;
use crate::pure::report::record::Record;
use crate::pure::stack::Stack;
use crate::sys::block;

/// Counts a failed flush in the notes.
pub fn counted<T>(result: Result<T>) -> Result<T> {
    result.inspect_err(|error| {
        if error.exit_code().is_failure() {
            run_dir::note_failure();
        }
    })
}

/// The name of the card.
pub fn card(stack: &Stack) -> String {
    stack.card().map_or_else(String::new, |(card, _)| block::name(card))
}

/// Prints what a flush has done, on standard output and in the log. `did` and `nothing` are the
/// words for a flush, and for nothing to flush.
pub fn print(
    session: Session<'_>,
    outcome: &Outcome,
    json: bool,
    did: &str,
    nothing: &str,
) -> Result<Exit> {
    let stack = session.stack()?;
    let (card, log) = (card(&stack), stack.log_partition());
    // The reader of the output may be slow, or wait for root; the next flush must not wait for the
    // reader.
    drop(session);
    let record = outcome.record();
    let complaints = outcome.complaints();
    let mut text = match record {
        Some(record) => {
            let to = match log {
                Some(log) if record.logged.0 > 0 => format!("the log on {}", block::name(log)),
                _ => card.clone(),
            };
            let mut text = format!("{did} to {to}: {record}");
            if record.logged.0 > 0 && record.merged.0 > 0 {
                text.push_str(&format!("; merged {} into {card}", record.merged));
            }
            text
        }
        // Where something is wrong, it does not say that nothing was left to do.
        None if outcome.incomplete().is_some() => String::new(),
        None => nothing.to_owned(),
    };
    text.push_str(&complaints);
    let text = text.trim_start();
    if json && (record.is_some() || !complaints.is_empty()) {
        syslog::notice(text);
    } else if record.is_some() || !complaints.is_empty() {
        log_once(text);
    }
    if outcome.exit().is_failure() {
        run_dir::note_failure();
    }
    if json {
        let json = Object::new()
            .text("card", &card)
            .flag("complete", outcome.incomplete().is_none())
            .text("refused", outcome.refused().unwrap_or_default())
            .object("flush", record.map(Record::to_json));
        put(std::io::stdout(), &format!("{}\n", json.end()));
    } else {
        put(std::io::stdout(), &format!("{text}\n"));
    }
    Ok(outcome.exit())
}

/// Logs what is printed as well, unless printing puts it into the log.
pub fn log_once(text: &str) {
    if !syslog::has(std::io::stdout()) {
        syslog::notice(text);
    }
}
