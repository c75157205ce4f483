//! Keeps this process in memory, with no more of it than it needs.

use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::error::{Doing, Result};

/// How much of the stack below the caller's frame stays mapped, in bytes: a flush needs some 24
/// KiB. The kernel extends the stack when that is not enough.
const STACK: usize = 28 << 10;

/// Locks all of this process in RAM, what it gets later as well. The binary may be on root, which
/// is suspended at times; reading a page of it then would never end.
pub fn all() -> Result<()> {
    ask!(keep_in_memory());
    shorten_stack();
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
        .doing(|| "lock memory")
        .map_err(|error| {
            error.advise("Free some memory, or raise the limit for locked memory (ulimit -l).")
        })
}

/// Unmaps stack that cowflush does not need: a process begins with 132 KiB of stack, four times
/// what cowflush ever needs, and locking it would take that much memory.
fn shorten_stack() {
    let here = 0u8;
    // SAFETY: sysconf only reads its argument.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    let maps = std::fs::read_to_string("/proc/self/maps");
    let (Ok(page), Ok(maps)) = (page, maps) else { return };
    let unused = unused_stack(&maps, (&raw const here).addr(), page);
    if let Some((begin, length)) = unused {
        // SAFETY: the range is whole pages of this thread's stack that end STACK bytes below a
        // variable of this frame, so nothing that is in use lies in it; cowflush has one thread.
        unsafe { libc::munmap(std::ptr::without_provenance_mut(begin), length) };
    }
}

/// Begin and length of the part of the stack that lies more than [`STACK`] bytes below `here`, from
/// the text of /proc/PID/maps; whole pages of `page` bytes.
fn unused_stack(maps: &str, here: usize, page: usize) -> Option<(usize, usize)> {
    let line = maps.lines().find(|line| line.ends_with("[stack]"))?;
    let (range, _) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    let (begin, end) = (number(begin)?, number(end)?);
    let needed = here.checked_sub(STACK)?;
    let needed = needed - needed.checked_rem(page)?;
    ((begin..end).contains(&here) && needed > begin).then(|| (begin, needed - begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_stack_does_not_use_is_found() {
        let maps = "08048000-080b0000 r-xp 00000000 08:01 7 /sbin/cowflush\n\
                    bffdf000-c0000000 rw-p 00000000 00:00 0          [stack]\n";
        assert_eq!(unused_stack(maps, 0xbfff_fabc, 4096), Some((0xbffd_f000, 0x19000)));
        assert_eq!(unused_stack(maps, 0xbffe_0000, 4096), None, "no more than is needed");
        assert_eq!(unused_stack(maps, 0x1000_0000, 4096), None, "another stack");
        for bad in ["", "[stack]", "x-y rw-p [stack]", "c0000000 [stack]"] {
            assert_eq!(unused_stack(bad, 0xbfff_fabc, 4096), None, "{bad:?}");
        }
        assert_eq!(unused_stack(maps, 0xbfff_fabc, 0), None);
    }
}
