//! The kernel command line.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::cmdline::{LogChoice, Options};
use cowflush::pure::disk::reference::Reference;
use cowflush::pure::policy::cow_memory::{self, Room, SMALLEST};
use cowflush::pure::units::Bytes;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the kernel command line.
pub fn check(data: &[u8]) {
    let mut options = Options::parse(data);
    // Words typed at the rescue prompt are added.
    let mut corrected = options.clone();
    corrected.add("cowflush=off root=/dev/typed");
    assert!(corrected.off && corrected.root == Reference::parse("/dev/typed"));

    for complaint in &options.complaints {
        // The kernel log takes about a kilobyte per line.
        assert!(complaint.len() < 900, "{complaint}");
    }
    let (config, complaints) = options.config("");
    assert_eq!(complaints, [""; 0], "what was taken from the line is good");
    let room = Room { available: Bytes(200 << 20), ..Room::default() };
    let limit = config.size.limit(Bytes(256 << 20), &room);
    assert!(cow_memory::device(limit) <= limit && limit >= SMALLEST);

    // Options that were understood and written again are understood in the same way; and the rest
    // of a line is init's.
    options.complaints.clear();
    let written = write(&options);
    assert_eq!(Options::parse(&written), options, "{written}");
    assert_eq!(Options::parse(format!("{written} -- rw cowflush=off root=/dev/x")), options);
}

fn write(options: &Options) -> String {
    let Options {
        root,
        types,
        flags,
        writable,
        wait_for_ever,
        delay,
        init,
        panic,
        off,
        vouched,
        insist,
        log,
        settings,
        complaints: _,
    } = options;
    let log = match log {
        LogChoice::Own => "auto".to_owned(),
        LogChoice::At(reference) => reference.to_string(),
        LogChoice::None => "none".to_owned(),
    };
    let mut line = format!(
        "rootfstype={} \"rootflags={flags}\" rootdelay={delay} panic={panic} \
         cowflush.log=\"{log}\"",
        types.iter().map(|kind| format!("\"{kind}\"")).collect::<Vec<_>>().join(","),
    );
    for (set, word) in [
        (writable, "rw"),
        (wait_for_ever, "rootwait"),
        (off, "cowflush=off"),
        (vouched, "cowflush=on"),
        (insist, "cowflush=always"),
    ] {
        if *set {
            line.push_str(&format!(" {word}"));
        }
    }
    for (key, value) in settings {
        line.push_str(&format!(" \"cowflush.{key}={value}\""));
    }
    for (key, value) in [("root", root.as_ref().map(ToString::to_string)), ("init", init.clone())] {
        if let Some(value) = value {
            line.push_str(&format!(" {key}=\"{value}\""));
        }
    }
    line
}
