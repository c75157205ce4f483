//! Keeps a flash card's root filesystem in a RAM copy-on-write layer and flushes it on demand.

fn main() {
    println!("cowflush {}", env!("CARGO_PKG_VERSION"));
}
