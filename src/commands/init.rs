//! `cowflush init`: PID 1 of the initramfs.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use argh::FromArgs;

use crate::boot::messages::{self, BootMessages};
use crate::boot::stacking::Prior;
use crate::boot::{bringup, loading, mounting, rescue, stacking, switch_root};
use crate::commands::asked::boot_options;
use crate::error::{self, Error, Exit, Result};
use crate::pure::cmdline::Options;
use crate::sys::process;

/// Boot: find the card, build the stack, start the real init. The kernel runs this as /init of
/// an initramfs, where every argument is the real init's.
#[derive(FromArgs)]
#[argh(subcommand, name = "init")]
pub struct Arguments {}

/// Where root is mounted before it becomes the root.
const ROOT: &str = "/sysroot";

/// The arguments for the real init, if this program was started as init: by the kernel under the
/// name `init`, or by the subcommand.
pub fn asked_for<'a>(program: &OsStr, arguments: &'a [OsString]) -> Option<&'a [OsString]> {
    if Path::new(program).file_name().is_some_and(|name| name == "init") {
        return Some(arguments);
    }
    arguments.split_first().filter(|(first, _)| *first == "init").map(|(_, rest)| rest)
}

/// Whether this is certainly the process that the kernel started from its initramfs; see
/// [`process`].
pub fn is_the_machines() -> bool {
    process::may_be_the_machines() && {
        let mounted = mounting::proc();
        let first = process::is_the_machines();
        if mounted && !first {
            let _ = nix::mount::umount("/proc");
        }
        first
    }
}

/// Refuses to run as init: this is not the machine's first process.
pub fn refuse() -> Result<Exit> {
    Err(Error::new("run init", "this is not the init of an initramfs")
        .advise("It is for an initramfs, where the kernel starts it as /init.")
        .exit(Exit::Usage))
}

/// Boots, whatever happens. `arguments` are the words of the kernel command line that the kernel
/// left for init.
pub fn run(arguments: Vec<OsString>) -> ! {
    mounting::kernel_filesystems();
    messages::attach();
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    // First of all: the card's driver may be one of the modules.
    let mut loaded = BootMessages::default();
    loading::load(&line, &mut loaded);
    let mut typed: Vec<String> = Vec::new();
    loop {
        let mut log = loaded.clone();
        let mut options = boot_options();
        // Words that are typed replace those of the boot loader.
        typed.iter().for_each(|words| options.add(words));
        for complaint in &options.complaints {
            log.error(&format!("{complaint}."));
        }
        let error = match mount(&options, &mut log) {
            Ok(init) => {
                let error = switch_root::run(Path::new(ROOT), init, arguments, &mut log);
                log.error(&error.to_string());
                stranded(options.panic, &mut log);
            }
            Err(error) => error,
        };
        log.error(&error.to_string());
        log.error("root cannot be mounted; this is the rescue prompt.");
        let _ = nix::mount::umount(ROOT);
        if let Err(error) = stacking::dismantle() {
            log.error(&error.to_string());
        }
        typed.push(rescue::ask(options.panic));
    }
}

/// Mounts root. Returns the init to start on it.
fn mount<'a>(options: &'a Options, log: &mut BootMessages) -> error::Result<&'a str> {
    let root = Path::new(ROOT);
    bringup::root(options, Prior::Nothing, log, &mut |device, found| {
        mounting::root(device, root, found, options, options.writable)
    })?;
    switch_root::find_init(root, options.init.as_deref(), log)
}

/// Stays at a prompt after the switch to the new root failed: the initramfs is gone, so nothing
/// else can be tried.
fn stranded(panic: u64, log: &mut BootMessages) -> ! {
    loop {
        log.error(
            "root is in use, so no words can be tried any more, only `list`, `sh`, `reboot` and `poweroff`. What `sh` changes \
             stays in RAM until `cowflush flush`, if root is on the stack.",
        );
        rescue::ask(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Option<Vec<String>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let rest = asked_for(&words[0], &words[1..])?;
        Some(rest.iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn init_is_what_was_started_as_init_and_every_other_command_is_that_command() {
        for (words, arguments) in [
            (&["/init"][..], Some(&[][..])),
            (&["init", "single", "init"], Some(&["single", "init"])),
            (&["/sbin/init", "flush"], Some(&["flush"])),
            (&["/usr/sbin/cowflush", "init", "single"], Some(&["single"])),
            (&["cowflush"], None),
            (&["cowflush", "flush"], None),
            (&["cowflush", "recover", "init", "x"], None),
            (&["/bin/sh", "-c", "init"], None),
            (&["/init.old"], None),
            (&["", ""], None),
        ] {
            let arguments =
                arguments.map(|all| all.iter().map(|word| (*word).to_owned()).collect());
            assert_eq!(asked(words), arguments, "{words:?}");
        }
    }

    /// The program that runs the tests may be in a container, but is not its first process.
    #[test]
    fn a_test_is_no_init() {
        assert!(!is_the_machines());
    }
}
