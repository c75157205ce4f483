//! The last resort: a prompt on the console when root can't be mounted.

use std::io::{BufRead, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};

use crate::sys::devices;
use crate::sys::process::Program;

const HELP: &str = "\
Type words of the kernel command line to try again with them, for example
  root=/dev/sda1            another device
  cowflush=off              the card directly
or one of
  list                      the block devices and what they hold
  sh                        a shell, if the initramfs has one
  reboot, poweroff";

/// Asks until somebody types words to try again with. Reboots after `panic` seconds (0 is never)
/// without an answer, so that an unattended router comes back.
pub fn ask(panic: u64) -> String {
    say(HELP);
    if panic > 0 {
        say(&format!("Rebooting in {panic} s if nobody types."));
        let typed = wait_for_input(panic);
        if !typed {
            restart(RebootMode::RB_AUTOBOOT);
        }
    }
    loop {
        put("cowflush rescue> ");
        let mut line = String::new();
        match stdin().lock().read_line(&mut line) {
            // A console that is gone returns nothing, again and again.
            Ok(0) | Err(_) => std::thread::sleep(std::time::Duration::from_secs(1)),
            Ok(_) => {}
        }
        match line.trim() {
            "" => {}
            "help" => say(HELP),
            "list" => devices::candidates().iter().for_each(|found| say(&found.describe())),
            "sh" => shell(),
            "reboot" => restart(RebootMode::RB_AUTOBOOT),
            "poweroff" => restart(RebootMode::RB_POWER_OFF),
            words => return words.to_owned(),
        }
    }
}

fn wait_for_input(seconds: u64) -> bool {
    let stdin = stdin();
    let mut descriptors = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let millis = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    !matches!(poll(&mut descriptors, timeout), Ok(0))
}

fn shell() {
    if !Path::new("/bin/sh").exists() {
        say("This initramfs has no /bin/sh.");
        return;
    }
    match Program::start(c"/bin/sh", c"-sh") {
        Ok(shell) => _ = shell.wait(),
        Err(errno) => say(&format!("/bin/sh: {}", errno.desc())),
    }
}

fn restart(mode: RebootMode) {
    nix::unistd::sync();
    let Err(errno) = reboot(mode);
    say(&format!("That failed: {}.", errno.desc()));
}

fn say(text: &str) {
    put(text);
    put("\n");
}

fn put(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
    let _ = stdout().flush();
}
