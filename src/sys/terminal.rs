//! The terminal that a command writes to.

use std::fs::File;
use std::io::{self, IsTerminal, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt;

/// Standard error, if it is a terminal. Writes never wait for a reader, since a flush must not.
pub fn standard_error() -> Option<File> {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        // A model has no terminal.
        return None;
    }
    stderr().is_terminal().then(|| open_unhurried("/proc/self/fd/2").ok()).flatten()
}

/// The machine's console, if it has one. Writes never wait: a serial line that does not take its
/// characters must not hold up a shutdown.
pub fn console() -> Option<File> {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        // A model has no console.
        return None;
    }
    open_unhurried("/dev/console").ok()
}

/// Opens a terminal without blocking: its reader may be gone, or have stopped it with Ctrl-S, and
/// then the write is dropped. Other processes that have the terminal open are not affected.
fn open_unhurried(path: &str) -> io::Result<File> {
    File::options().write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path)
}

/// Columns of standard output's terminal; `None` when it is not a terminal, or does not know.
pub fn width() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `size` is.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ as _, &raw mut size) };
    // A serial line doesn't know and says 0.
    (told == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A pipe without a reader stands for the terminal: it fills up in the same way.
    #[test]
    fn a_terminal_that_takes_nothing_holds_nobody_up() {
        let pipe = std::env::temp_dir().join(format!("cowflush-terminal-{}", std::process::id()));
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&pipe, mode).unwrap();
        // Linux lets a FIFO be opened for both.
        let reader = File::options().read(true).write(true).open(&pipe).unwrap();
        let mut terminal = open_unhurried(pipe.to_str().unwrap()).unwrap();
        let mut taken = 0_usize;
        while terminal.write_all(&[b'x'; 4096]).is_ok() {
            taken += 1;
            assert!(taken < 10_000, "it takes everything");
        }
        drop(reader);
        std::fs::remove_file(&pipe).unwrap();
    }
}
