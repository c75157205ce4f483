//! `cowflush check`: what this kernel, memory and card can do.

mod advice;
mod card;
mod item;
mod kernel;
mod loaders;
mod memory;

use std::path::Path;

use argh::FromArgs;

use self::item::{Item, State};
use crate::commands::asked::config;
use crate::error::{Error, Exit, Result};
use crate::flush::status;
use crate::output::put;
use crate::pure::report::json::Object;
use crate::sys::dm::Control;

/// Say what this kernel, memory and card can do, and what to do about what is missing.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Arguments {
    /// print as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Checks everything; exits with `Missing` when cowflush could not work here.
pub fn run(json: bool) -> Result<Exit> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("check this machine", "only root may ask device-mapper")
            .advise("Run this as root."));
    }
    let control = Control::open();
    let mut items = kernel::device_mapper(&control);
    items.push(kernel::loop_devices());
    items.push(kernel::tmpfs());
    let config = config();
    items.push(memory::ram(&config));
    items.push(memory::limits(control.as_ref().ok()));
    items.extend(card::items(control.as_ref().ok()));
    items.extend(memory::swap(control.as_ref().ok()));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    items.extend(advice::items(&mounts, config.prune));
    items.extend(loaders::items(&|path| std::fs::read_to_string(path).ok(), &|path| {
        Path::new(path).exists()
    }));
    items.extend(status::restless().map(|(_, _, found)| {
        Item::note(
            "changes",
            found,
            "If it need not be kept so soon, leave it out, by its path with a ! before it behind the others: \
             urgent=/etc,!/etc/FILE; the same in merge-on.",
        )
    }));
    let (complete, exit) = verdict(&items);
    if json {
        let object =
            Object::new().flag("complete", complete).list("items", items.iter().map(Item::to_json));
        put(std::io::stdout(), &format!("{}\n", object.end()));
    } else {
        put(std::io::stdout(), &to_text(&items, complete));
    }
    Ok(exit)
}

/// Whether cowflush can work here, and the exit code.
fn verdict(items: &[Item]) -> (bool, Exit) {
    let complete = items.iter().all(|item| item.state != State::Missing);
    (complete, if complete { Exit::Done } else { Exit::Missing })
}

fn to_text(items: &[Item], complete: bool) -> String {
    let mut text = String::new();
    for Item { name, state, found, advice } in items {
        text.push_str(&format!("{:<8} {name:<16} {found}\n", state.word()));
        if !advice.is_empty() {
            text.push_str(&format!("{:25} -> {advice}\n", ""));
        }
    }
    text.push_str(if complete {
        "cowflush can work here.\n"
    } else {
        "cowflush cannot work here yet.\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_that_is_missing_is_enough_and_notes_are_none() {
        let items = |states: &[State]| -> Vec<Item> {
            let item = |state: &State| Item { state: *state, ..Item::found("x", "y") };
            states.iter().map(item).collect()
        };
        for states in [&[][..], &[State::Found], &[State::Found, State::Note, State::Note]] {
            assert_eq!(verdict(&items(states)), (true, Exit::Done));
        }
        for place in 0..3 {
            let mut states = [State::Found, State::Note, State::Found];
            states[place] = State::Missing;
            let items = items(&states);
            assert_eq!(verdict(&items), (false, Exit::Missing));
            assert!(
                to_text(&items, false).contains("missing")
                    && to_text(&items, false).contains("cannot work")
            );
        }
    }

    #[test]
    fn a_kernel_without_device_mapper_is_not_enough() {
        let error = || Error::new("open /dev/mapper/control", "No such file or directory");
        assert_eq!(verdict(&kernel::device_mapper(&Err(error()))), (false, Exit::Missing));
    }
}
