//! Control groups: whether the memory behind a loop device can count against a process's memory
//! limit.
//!
//! The kernel counts it where it knows both which group sent a request (blkio) and which group owns
//! a page (memory): `loop_queue_rq` in drivers/block/loop.c.

/// Whether this kernel can count so. Whether a group has a limit can change at any time.
pub fn count_loop_pages() -> bool {
    #[cfg(test)]
    if super::kernel::model().is_some() {
        return false;
    }
    let listed = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let delegated = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_default();
    counts(&listed, &delegated)
}

/// Whether both controllers are enabled. `listed` has a line for each controller: name, hierarchy,
/// groups, whether it is enabled. Newer kernels leave out controllers that have no version 1, often
/// memory. `delegated` has a line for each file that can be delegated; memory has one there.
fn counts(listed: &str, delegated: &str) -> bool {
    let enabled = |name: &str| {
        let line =
            listed.lines().find(|line| line.split_ascii_whitespace().next() == Some(name))?;
        Some(line.split_ascii_whitespace().nth(3) == Some("1"))
    };
    let memory = || delegated.lines().any(|file| file.starts_with("memory."));
    enabled("blkio").unwrap_or(false) && enabled("memory").unwrap_or_else(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";
    const DELEGATED: &str = "cgroup.procs\nmemory.oom.group\n";

    #[test]
    fn both_controllers_are_needed() {
        let listed = |lines: &str| format!("{HEAD}{lines}");
        let both = listed("cpu\t0\t70\t1\nblkio\t0\t70\t1\nmemory\t0\t70\t1\n");
        assert!(counts(&both, "") && counts(&both, DELEGATED));
        for lines in [
            "",
            "cpu 0 70 1\n",
            "blkio 0 70 1\n",
            "memory 0 70 1\n",
            "blkio 0 70 1\nmemory 0 70 0\n",
            "blkio 0 70 0\nmemory 0 70 1\n",
        ] {
            assert!(!counts(&listed(lines), ""), "{lines}");
        }
        assert!(!counts("", ""), "a kernel without cgroups");
    }

    #[test]
    fn memory_that_is_not_listed_is_seen_by_its_files() {
        let listed = format!("{HEAD}blkio\t0\t70\t1\n");
        assert!(counts(&listed, DELEGATED));
        assert!(!counts(&listed, "cgroup.procs\n"));
        // A controller that is disabled on the kernel's command line still has files.
        let off = format!("{listed}memory\t0\t70\t0\n");
        assert!(!counts(&off, DELEGATED));
    }
}
