//! Loads the modules that the initramfs carries.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::messages::BootMessages;
use crate::error::{Doing, Error};
use crate::pure::modules;

/// Loads the modules in the order of their list. If one can't be loaded, the boot says which and
/// goes on: the card's driver may be another. `line` is the kernel command line.
pub fn load(line: &[u8], log: &mut BootMessages) {
    // Without a list, all drivers are built in.
    let Ok(list) = std::fs::read(modules::LIST) else { return };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut idle = Vec::new();
    for path in modules::paths(&list) {
        let name = modules::name(path);
        let opened =
            File::open(OsStr::from_bytes(path)).doing(|| format!("open the module {name}"));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                let error = error.advise("The initramfs is incomplete: build it anew.");
                log.error(&error.to_string());
                continue;
            }
        };
        // A line with a NUL in it is garbled: the module's own defaults hold.
        let parameters = CString::new(modules::parameters(&name, line)).unwrap_or_default();
        let Err(errno) = finit_module(file, &parameters, ModuleInitFlags::empty()) else {
            continue;
        };
        match load_failure(&name, errno, release.trim_end()) {
            LoadFailure::Loaded => {}
            LoadFailure::NoHardware => idle.push(name),
            LoadFailure::Failed(error) => log.error(&error.to_string()),
            LoadFailure::NoModules(error) => return log.error(&error.to_string()),
        }
    }
    if !idle.is_empty() {
        log.info(&format!("nothing here is for these modules: {}.", idle.join(", ")));
    }
}

/// What the kernel's refusal of a module means.
#[derive(Debug)]
enum LoadFailure {
    /// The module is there already.
    Loaded,
    /// The module finds no hardware for itself, as happens with a list for several machines.
    NoHardware,
    /// This kernel loads no modules, so the next one would fail as well.
    NoModules(Error),
    /// Anything else.
    Failed(Error),
}

/// Why the kernel, which is of this `release`, refused a module.
fn load_failure(name: &str, errno: Errno, release: &str) -> LoadFailure {
    let failed = |cause| Error::new(format!("load the module {name}"), cause);
    let cause = match errno {
        Errno::EEXIST => return LoadFailure::Loaded,
        Errno::ENODEV => return LoadFailure::NoHardware,
        Errno::ENOSYS => {
            let error = failed("this kernel can load no modules");
            return LoadFailure::NoModules(
                error.advise("Boot one that can, or build the drivers into it."),
            );
        }
        Errno::ENOEXEC => "it is damaged, or was made for another kernel",
        Errno::ENOENT => "another module that it needs is not loaded, or is of another kernel",
        Errno::EINVAL => "it was made for another kernel, or does not take its parameters",
        Errno::EPERM | Errno::ENOKEY | Errno::EKEYREJECTED | Errno::EBADMSG => {
            "its signature is none that this kernel takes"
        }
        other => {
            return LoadFailure::Failed(
                failed(other.desc()).advise("The kernel's own words are in dmesg."),
            );
        }
    };
    LoadFailure::Failed(
        failed(cause).advise(format!(
            "Build the initramfs anew, with the modules of this kernel, {release}."
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_module_why_and_what_to_do() {
        let said = |errno| match load_failure("ext4", errno, "6.1.0-57-amd64") {
            LoadFailure::Failed(error) | LoadFailure::NoModules(error) => error.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            said(Errno::ENOEXEC),
            "cannot load the module ext4: it is damaged, or was made for another kernel. Build the \
             initramfs anew, with the modules of this kernel, 6.1.0-57-amd64."
        );
        for (errno, why) in [
            (
                Errno::ENOENT,
                "cannot load the module ext4: another module that it needs is not loaded, or is of another kernel.",
            ),
            (
                Errno::EINVAL,
                "cannot load the module ext4: it was made for another kernel, or does not take its parameters.",
            ),
            (
                Errno::EKEYREJECTED,
                "cannot load the module ext4: its signature is none that this kernel takes.",
            ),
        ] {
            assert!(said(errno).starts_with(why), "{}", said(errno));
            assert!(said(errno).ends_with("this kernel, 6.1.0-57-amd64."), "{}", said(errno));
        }
        let said_so = "cannot load the module ext4: this kernel can load no modules.";
        assert!(said(Errno::ENOSYS).starts_with(said_so), "{}", said(Errno::ENOSYS));
        let said_so = "cannot load the module ext4: Out of memory. The kernel's own words";
        assert!(said(Errno::ENOMEM).starts_with(said_so), "{}", said(Errno::ENOMEM));
        assert_eq!(said(Errno::EEXIST), "Loaded");
        assert_eq!(said(Errno::ENODEV), "NoHardware");
        assert!(matches!(load_failure("x", Errno::ENOSYS, ""), LoadFailure::NoModules(_)));
    }
}
