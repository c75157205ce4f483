//! How this process is scheduled.

/// Lets this process run before ordinary ones, or like them again. One that may not goes on as it
/// is.
///
/// For looking at the COW's level and for a seal: that takes milliseconds, and must not wait for a
/// busy program. Not for the long parts of a flush, which compute checksums.
pub fn realtime(on: bool) {
    let policy = if on { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    // SAFETY: all zeros is a valid `sched_param`; sched_setscheduler reads it.
    unsafe {
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = i32::from(on);
        libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameter);
    }
}

/// PR_SET_IO_FLUSHER of include/uapi/linux/prctl.h, since 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that this process frees memory by writing: it then never waits for writes to
/// root to get memory, which may be suspended. Older kernels don't know it.
pub fn io_flusher() {
    // SAFETY: this prctl takes numbers only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// Asks the kernel never to choose this process when memory is short: with it would go the
/// flush that frees memory. Not being allowed to is no reason not to flush.
pub fn exempt_from_oom_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}
