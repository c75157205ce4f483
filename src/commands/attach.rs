//! `cowflush attach`: for the initramfs of a distribution, which mounts root by itself.

use std::path::PathBuf;

use crate::commands::boot_options;
use crate::put;
use cowflush::boot::bringup;
use cowflush::boot::messages::BootMessages;
use cowflush::boot::stacking::Prior;
use cowflush::error::{Exit, Result};
use cowflush::pure::cmdline::Options;
use cowflush::pure::disk::reference::Reference;

/// Does all that `init` does before it mounts root, and prints what to mount instead. `root` is what
/// the initramfs has made of `root=`, a device that is there. `plain` is for when the initramfs can't
/// use what it was told of before: the stack is taken away, and the card gets what is in the flush log.
/// `by_log` is for when nothing is called so: it does what is done anyway, but only where a flush log knows which
/// partition is meant, and says nothing where none does.
pub fn run(root: Option<&str>, plain: bool, by_log: bool) -> Result<Exit> {
    let (mut options, mut log) = (boot_options(), BootMessages::default());
    if let Some(root) = root {
        options.root = Reference::parse(root);
    }
    if by_log && !options.root.as_ref().is_some_and(bringup::is_known_by_log) {
        return Ok(Exit::NotActive);
    }
    for complaint in &options.complaints {
        log.error(&format!("{complaint}."));
    }
    let prior = if plain { Prior::StackTried } else { Prior::CardFound };
    match device(&options, prior, &mut log) {
        Ok(device) => put(std::io::stdout(), &format!("{}\n", device.display())),
        Err(error) => {
            log.error(&error.to_string());
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

fn device(options: &Options, prior: Prior, log: &mut BootMessages) -> Result<PathBuf> {
    let mut device = PathBuf::new();
    bringup::root(options, prior, log, &mut |path, _| {
        path.clone_into(&mut device);
        Ok(if options.writable { "rw" } else { "ro" })
    })?;
    Ok(device)
}
