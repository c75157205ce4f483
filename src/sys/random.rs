//! Random numbers.

use std::fs::File;
use std::io::Read;

use crate::error::{Doing, Result};

/// Eight bytes that are hard to guess. /dev/urandom never waits, not even early in a boot.
pub fn random() -> Result<u64> {
    ask!(random());
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .doing(|| "read /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}
