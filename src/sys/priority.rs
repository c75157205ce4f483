//! Scheduling and memory privileges of this process.

/// Lets this process run before ordinary ones, or like them again. Without the permission nothing
/// changes.
///
/// For polls of the COW and for a seal, which take milliseconds and must not wait for a busy
/// program. Not for the long parts of a flush, which compute checksums.
pub fn realtime(on: bool) {
    ask!(priority());
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

/// Tells the kernel that this process frees memory by writing: when it needs memory it then never
/// waits for writes to root, which may be suspended. Older kernels don't have this call.
pub fn io_flusher() {
    ask!(priority());
    // SAFETY: this prctl takes numbers only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// Exempts this process from the OOM killer: killing it would end the flush that frees memory.
/// Without the permission the flush goes on all the same.
pub fn exempt_from_oom_killer() {
    ask!(priority());
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Leaves the folder that this process was started in: in a folder on root it would wait for root.
pub fn leave_root() {
    ask!(priority());
    let _ = std::env::set_current_dir("/proc");
}
