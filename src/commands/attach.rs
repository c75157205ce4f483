//! `cowflush attach`: for the initramfs of a distribution, which mounts root by itself.

use std::path::PathBuf;

use argh::FromArgs;

use crate::boot::bringup;
use crate::boot::messages::BootMessages;
use crate::boot::stacking::Prior;
use crate::commands::asked::boot_options;
use crate::error::{Exit, Result};
use crate::output::put;
use crate::pure::cmdline::Options;
use crate::pure::disk::reference::Reference;

/// Boot, for the initramfs of a distribution: find the card, build the stack, and print the device
/// to mount as root. Without a stack that is the plain card.
#[derive(FromArgs)]
#[argh(subcommand, name = "attach")]
pub struct Arguments {
    /// take the stack away again and use the plain card, since root can't be mounted on the stack
    #[argh(switch)]
    pub plain: bool,
    /// only if a flush log knows ROOT and no device does, since a merge that was cut short has torn
    /// it
    #[argh(switch)]
    pub by_log: bool,
    /// where root is, in place of the kernel command line's root=
    #[argh(positional)]
    pub root: Option<String>,
}

/// Does all that `init` does before it mounts root, and prints what to mount instead. `root` is
/// what the initramfs has made of `root=`, a device that is there. With `plain`, since the
/// initramfs can't mount the stack that it was given, it takes the stack away and merges the flush
/// log into the card. With `by_log`, since no device has the name, it does the same as without, but
/// only if a flush log knows which partition is meant, and prints nothing otherwise.
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
