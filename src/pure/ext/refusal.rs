//! Why the reader of the filesystem refuses to prune.

use crate::pure::chunks::Unreadable;

/// Why nothing is pruned, as a sentence about root's filesystem.
pub type Refusal = &'static str;

impl From<Unreadable> for Refusal {
    fn from(_: Unreadable) -> Self {
        "root's metadata can't be read"
    }
}
