//! How much written data the page cache may hold.

use crate::units::decimal;

/// How much of written data the kernel may keep in the page cache, for all filesystems: when it
/// begins to write, and when it makes writers wait (vm.dirty_background_bytes, vm.dirty_bytes). 0
/// means that a share of the memory counts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLimits {
    /// Begins to write.
    pub background: u64,
    /// Makes writers wait.
    pub most: u64,
    /// The shares that count when these are 0, in percent.
    pub ratios: (u64, u64),
}

const VM: &str = "/proc/sys/vm";
const NAMES: [&str; 4] =
    ["dirty_background_bytes", "dirty_bytes", "dirty_background_ratio", "dirty_ratio"];

impl DirtyLimits {
    /// As they are now.
    pub fn now() -> Option<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("{VM}/{name}")).ok()?;
            decimal(text.trim())
        };
        let [a, b, c, d] = NAMES.map(read);
        Some(Self { background: a?, most: b?, ratios: (c?, d?) })
    }

    /// Sets them. What can't be set stays.
    pub fn set(&self) {
        let write = |name: &str, value: u64| {
            let _ = std::fs::write(format!("{VM}/{name}"), value.to_string());
        };
        let [background_bytes, bytes, background_ratio, ratio] = NAMES;
        // Setting one form makes the kernel drop the other.
        if self.most > 0 {
            write(background_bytes, self.background);
            write(bytes, self.most);
            write(background_bytes, self.background);
        } else {
            write(background_ratio, self.ratios.0);
            write(ratio, self.ratios.1);
        }
    }
}
