//! Whether root may be put on the stack: what is written there stays in RAM, so something on root
//! must flush it.

use crate::error::{Error, Result};

/// Where the program is looked for, on root.
pub const PROGRAMS: [&std::ffi::CStr; 3] =
    [c"/usr/sbin/cowflush", c"/sbin/cowflush", c"/usr/local/sbin/cowflush"];

/// Folders of root with a link of that name for each service that is switched on: OpenWrt's,
/// sysvinit's for the shutdown, systemd's and OpenRC's.
pub const SERVICES: [&str; 8] = [
    "etc/rc.d",
    "etc/rc0.d",
    "etc/rc6.d",
    "etc/systemd/system/sysinit.target.wants",
    "etc/systemd/system/multi-user.target.wants",
    "etc/runlevels/sysinit",
    "etc/runlevels/boot",
    "etc/runlevels/default",
];

/// Pairs of files of root that are as good as a service. systemd calls the second of a pair at each
/// shutdown, whatever is switched on; the last pair is a board's own.
pub const CALLERS: [[&str; 2]; 3] = [
    ["usr/lib/systemd/systemd", "usr/lib/systemd/system-shutdown/cowflush"],
    ["lib/systemd/systemd", "lib/systemd/system-shutdown/cowflush"],
    ["", "usr/sbin/flusher"],
];

/// Whether a file is on root. Unclear is not the same as missing. Where one of several files will
/// do, the greatest value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The file is certainly not there.
    Missing,
    /// The file may be there: on a filesystem that is not mounted yet, or behind what can't be
    /// read.
    Unclear,
    /// The file is there.
    There,
}

/// Refuses a root that nothing would flush. `vouched`: the owner says that something calls the
/// program, in a way that the boot can't see.
pub fn judge(program: Seen, service: Seen, vouched: bool) -> Result<()> {
    let (cause, advice) = if program == Seen::Missing {
        (
            "there is no program cowflush on it that can be started, so nothing could flush it",
            "If it was removed, make the initramfs anew without it.",
        )
    } else if service == Seen::Missing && !vouched {
        (
            "no service on it is switched on that would flush it",
            "If the system calls cowflush in a way of its own, say so: cowflush=on on the kernel command line.",
        )
    } else {
        return Ok(());
    };
    Err(Error::new("put root on the stack", cause).advise(advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Seen::{Missing, There, Unclear};

    #[test]
    fn only_what_is_certainly_missing_keeps_root_off_the_stack() {
        for program in [There, Missing, Unclear] {
            for service in [There, Missing, Unclear] {
                for vouched in [false, true] {
                    let refused = program == Missing || service == Missing && !vouched;
                    let judged = judge(program, service, vouched);
                    assert_eq!(judged.is_err(), refused, "{program:?} {service:?} {vouched}");
                }
            }
        }
        assert_eq!(
            judge(Missing, There, true).unwrap_err().to_string(),
            "cannot put root on the stack: there is no program cowflush on it that can be started, so nothing could flush \
             it. If it was removed, make the initramfs anew without it."
        );
        assert_eq!(
            judge(There, Missing, false).unwrap_err().to_string(),
            "cannot put root on the stack: no service on it is switched on that would flush it. If the system calls cowflush \
             in a way of its own, say so: cowflush=on on the kernel command line."
        );
    }

    #[test]
    fn one_of_two_will_do() {
        assert!(Missing < Unclear && Unclear < There);
    }
}
