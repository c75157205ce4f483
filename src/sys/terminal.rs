//! The terminal that a command writes to.

use std::io::{IsTerminal, stdout};

/// Columns of the terminal that standard output is; `None` when it is none, or doesn't tell.
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
