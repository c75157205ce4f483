//! `cowflush init`: PID 1 of the initramfs.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::Path;

use cowflush::boot::cmdline::Options;
use cowflush::boot::console::{self, Log};
use cowflush::boot::{bringup, handover, loading, mounting, rescue, stacking};
use cowflush::error;
use nix::sys::statfs::statfs;
use nix::unistd::getpid;

use crate::commands::boot_options;

/// Where root is mounted before it becomes the root.
const ROOT: &str = "/sysroot";

/// The arguments for the real init, if this program was started as one: by the kernel under the name `init`, or by
/// the subcommand.
pub fn asked_for<'a>(program: &OsStr, arguments: &'a [OsString]) -> Option<&'a [OsString]> {
    if Path::new(program).file_name().is_some_and(|name| name == "init") {
        return Some(arguments);
    }
    arguments.split_first().filter(|(first, _)| *first == "init").map(|(_, rest)| rest)
}

/// Whether this is certainly the process that the kernel started from its initramfs. What `init` does to a card must
/// never be done by process 1 of a container, whose root may be in RAM as well.
pub fn is_the_machines() -> bool {
    // In this order: the namespace can be told only with /proc, which an initramfs begins without.
    getpid().as_raw() == 1 && is_in_ram() && {
        let mounted = mounting::proc();
        let first = is_first_namespace(
            std::fs::read_link("/proc/self/ns/pid").map_err(|error| error.kind()),
            Path::new("/proc/self/stat").exists(),
        );
        if mounted && !first {
            let _ = nix::mount::umount("/proc");
        }
        first
    }
}

/// RAMFS_MAGIC and TMPFS_MAGIC of include/uapi/linux/magic.h: what the kernel's rootfs is.
fn is_in_ram() -> bool {
    statfs("/")
        .is_ok_and(|root| [0x8584_58f6_u32, 0x0102_1994].contains(&(root.filesystem_type().0 as _)))
}

/// PROC_PID_INIT_INO of include/linux/proc_ns.h (PID_NS_INIT_INO of include/uapi/linux/nsfs.h since 6.18): the
/// namespace that the kernel's own init is in. Every container has another one, and no other process 1 is in this.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Judges the answer to which namespace of processes this one is in. A kernel that is built without them has nothing
/// to tell, but tells other things of a process (`proc_works`).
fn is_first_namespace(namespace: Result<std::path::PathBuf, ErrorKind>, proc_works: bool) -> bool {
    match namespace {
        Ok(name) => name.as_os_str() == FIRST_NAMESPACE,
        Err(kind) => kind == ErrorKind::NotFound && proc_works,
    }
}

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
        let error = match mount(&options, &mut log) {
            Ok(init) => {
                let error = handover::run(Path::new(ROOT), init, arguments, &mut log);
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

/// Mounts root. Returns what shall be its init.
fn mount<'a>(options: &'a Options, log: &mut Log) -> error::Result<&'a str> {
    let root = Path::new(ROOT);
    bringup::root(options, bringup::Before::Nothing, log, &mut |device, found| {
        mounting::root(device, root, found, options)
    })?;
    handover::find_init(root, options.init.as_deref(), log)
}

/// Root is the root already, and what this began with is gone: nothing of that can be taken back, so nothing else can
/// be tried.
fn stranded(panic: u64, log: &mut Log) -> ! {
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

    #[test]
    fn only_the_first_namespace_of_processes_is_the_machines_and_what_is_not_known_is_not() {
        for works in [false, true] {
            assert!(is_first_namespace(Ok(FIRST_NAMESPACE.into()), works));
            for other in
                ["pid:[4026532201]", "pid:[40265318360]", "pid:[402653183]", "mnt:[4026531836]", ""]
            {
                assert!(!is_first_namespace(Ok(other.into()), works), "{other}");
            }
            for kind in [ErrorKind::PermissionDenied, ErrorKind::InvalidInput, ErrorKind::Other] {
                assert!(!is_first_namespace(Err(kind), works), "{kind}");
            }
        }
        assert!(is_first_namespace(Err(ErrorKind::NotFound), true), "a kernel without namespaces");
        assert!(!is_first_namespace(Err(ErrorKind::NotFound), false), "no /proc");
    }

    /// Whatever runs the tests may be in a container, but is not its first process.
    #[test]
    fn a_test_is_no_init() {
        assert!(!is_the_machines());
    }
}
