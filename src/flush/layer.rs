//! Layers of the stack: how much one holds, and how it gets another table.

use super::errors::explain;
use crate::error::{Error, Result};
use crate::pure::dm::{Line, Target};
use crate::pure::stack::{Device, Name, PlanError, Stack};
use crate::pure::units::{Bytes, DevNo};
use crate::sys::dm::Control;

/// The device of that name, which a step needs.
pub fn named(stack: &Stack, name: Name) -> Result<Device> {
    let found = stack.device(name).copied();
    found.ok_or_else(|| {
        Error::new("go on with the flush", format!("{} is gone", name.text()))
            .advise("Did another tool remove it? Run `cowflush flush` again; all data are in RAM.")
    })
}

/// The data that a layer holds; 0 where the kernel does not say.
pub fn data(layer: Option<&Device>) -> Bytes {
    let usage = layer.and_then(Device::usage);
    usage.map_or(Bytes(0), |usage| usage.data().bytes())
}

/// Gives a layer another table, made of the origin, the COW and the chunk size of its present one.
pub fn replace(
    control: &Control,
    name: Name,
    layer: &Device,
    target: impl FnOnce(DevNo, DevNo, u32) -> Target,
) -> Result<()> {
    let (origin, cow, chunk) = match layer.target() {
        Some(
            Target::Snapshot { origin, cow, chunk } | Target::SnapshotMerge { origin, cow, chunk },
        ) => (origin, cow, chunk),
        _ => return Err(explain(PlanError::Foreign(name))),
    };
    let length = layer.length().unwrap_or_default();
    control.replace(name, &[Line::whole(length, target(origin, cow, chunk))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_device_that_another_tool_removed_is_named() {
        let error = named(&Stack::default(), Name::Sealed).unwrap_err();
        let said = "cannot go on with the flush: cowflush-sealed is gone. Did another tool";
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!(error.exit_code(), Exit::Failed);
    }
}
