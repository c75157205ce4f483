//! Gives the flush log in an image file a UUID, random number and time that depend on root's content.
//!
//! Those of `cowflush log format` are random; with these the same root gives the same image.
//!
//!   log-header FILE UUID NUMBER TIME      32 and 16 hexadecimal digits; seconds since 1970

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use cowflush::pure::chunks::CHUNK_BYTES;
use cowflush::pure::flushlog::records::{Header, RECORD_BYTES};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [path, uuid, number, time] => match change(path, uuid, number, time) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(why) => eprintln!("{path}: {why}"),
        },
        _ => eprintln!("usage: log-header FILE UUID NUMBER TIME"),
    }
    ExitCode::FAILURE
}

fn change(
    path: &str,
    uuid: &str,
    number: &str,
    time: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let uuid = u128::from_str_radix(uuid, 16)?.to_be_bytes();
    let (id, made) = (u64::from_str_radix(number, 16)?, time.parse()?);
    let file = File::options().read(true).write(true).open(path)?;
    let chunk = CHUNK_BYTES as u64;
    // Both copies, before and after the ring
    let last = (file.metadata()?.len() / chunk).saturating_sub(1);
    for at in [0, last] {
        let at = at.saturating_mul(chunk);
        let mut record = [0; RECORD_BYTES];
        file.read_exact_at(&mut record, at)?;
        let mut header = Header::decode(&record)
            .map_err(|defect| format!("no header of a flush log: {defect:?}"))?;
        (header.uuid, header.start.id, header.life.made) = (uuid, id, made);
        file.write_all_at(&header.encode(), at)?;
    }
    Ok(())
}
