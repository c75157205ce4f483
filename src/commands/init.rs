//! `cowflush init`: PID 1 of the initramfs.

use std::ffi::OsString;
use std::path::Path;

use cowflush::boot::cmdline::Options;
use cowflush::boot::console::{self, Log};
use cowflush::boot::{bringup, handover, loading, mounting, rescue, stacking};
use cowflush::error::Error;

use crate::commands::boot_options;

/// Where root is mounted before it becomes the root.
const ROOT: &str = "/sysroot";

/// Boots, whatever happens. `arguments` are the words of the kernel command line that the kernel
/// left for init.
pub fn run(arguments: Vec<OsString>) -> ! {
    mounting::kernel_filesystems();
    console::attach();
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    // Before anything is looked for: the card's driver may be one of them.
    let mut loaded = Log::default();
    loading::load(&line, &mut loaded);
    let mut typed: Vec<String> = Vec::new();
    loop {
        let mut log = loaded.clone();
        let mut options = boot_options();
        // What is typed replaces what the boot loader gave.
        typed.iter().for_each(|words| options.add(words));
        for complaint in &options.complaints {
            log.error(&format!("{complaint}."));
        }
        let error = boot(&options, arguments.clone(), &mut log);
        log.error(&error.to_string());
        log.error("root cannot be mounted; this is the rescue prompt.");
        let _ = nix::mount::umount(ROOT);
        stacking::dismantle();
        typed.push(rescue::ask(options.panic));
    }
}

/// Mounts root and becomes its init. Returns only on failure.
fn boot(options: &Options, arguments: Vec<OsString>, log: &mut Log) -> Error {
    let root = Path::new(ROOT);
    let mounted = bringup::root(options, bringup::Before::Nothing, log, &mut |device, found| {
        mounting::root(device, root, found, options)
    });
    match mounted {
        Ok(()) => handover::run(root, options.init.as_deref(), arguments, log),
        Err(error) => error,
    }
}
