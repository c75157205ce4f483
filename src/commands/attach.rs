//! `cowflush attach`: for the initramfs of a distribution, which mounts root by itself.

use std::path::PathBuf;

use cowflush::boot::bringup::{self, Before};
use cowflush::boot::cmdline::Options;
use cowflush::boot::console::Log;
use cowflush::boot::reference::Reference;
use cowflush::error::{Exit, Result};

use crate::commands::boot_options;
use crate::put;

/// Does all that `init` does before it mounts root, and prints what to mount instead. `root` is what
/// the initramfs has made of `root=`, a device that is there. `plain` is for when the initramfs can't
/// use what it was told of before: the stack is taken away, and the card gets what is in the flush log.
pub fn run(root: Option<&str>, plain: bool) -> Result<Exit> {
    let (mut options, mut log) = (boot_options(), Log::default());
    for complaint in &options.complaints {
        log.error(&format!("{complaint}."));
    }
    if let Some(root) = root {
        options.root = Reference::parse(root);
    }
    let before = if plain { Before::Tried } else { Before::Found };
    match device(&options, before, &mut log) {
        Ok(device) => put(std::io::stdout(), &format!("{}\n", device.display())),
        Err(error) => {
            log.error(&error.to_string());
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

fn device(options: &Options, before: Before, log: &mut Log) -> Result<PathBuf> {
    let mut device = PathBuf::new();
    bringup::root(options, before, log, &mut |path, _| {
        path.clone_into(&mut device);
        Ok(if options.writable { "rw" } else { "ro" })
    })?;
    Ok(device)
}
