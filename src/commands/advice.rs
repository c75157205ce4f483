//! What `cowflush check` recommends of root's mount options, each with the effect that
//! docs/wear.md measured: erases of a CompactFlash's model over a router's day.

use super::check::Item;

/// Commits more seldom than this are as seldom as flushes, in seconds.
const SELDOM: u64 = 600;

/// Looks at root's line in /proc/mounts.
pub fn items(mounts: &str) -> Vec<Item> {
    let root = mounts.lines().rev().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        (place == "/").then_some((kind, options))
    });
    let Some((kind, options)) = root else { return Vec::new() };
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    let mut items = vec![if has("noatime") || has("ro") {
        Item::found("reads", "leave no time in inodes")
    } else {
        Item::note(
            "reads",
            "a file's first read of a day is a write, too",
            "Mount root with noatime.",
        )
    }];
    if matches!(kind, "ext3" | "ext4") {
        items.push(commits(options));
    }
    items
}

/// ext3 and ext4 name `commit=` only when it is not 5 seconds.
fn commits(options: &str) -> Item {
    let seconds = options.split(',').find_map(|option| option.strip_prefix("commit="));
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(5);
    let found = format!("every {seconds} s");
    if seconds >= SELDOM {
        return Item::found("journal commits", found);
    }
    Item::note(
        "journal commits",
        found,
        "Mount root with commit=1800: until a flush a commit reaches RAM only, and the journal's \
         blocks are flushed, too.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    fn states(mounts: &str) -> Vec<(&'static str, State)> {
        items(mounts).iter().map(|item| (item.name, item.state)).collect()
    }

    #[test]
    fn roots_options_are_judged() {
        let told =
            |options: &str| states(&format!("proc /proc proc rw 0 0\n/dev/x / {options} 0 0\n"));
        let (reads, commits) = ("reads", "journal commits");
        assert_eq!(told("ext4 rw,relatime"), [(reads, State::Note), (commits, State::Note)]);
        assert_eq!(
            told("ext4 rw,noatime,commit=60"),
            [(reads, State::Found), (commits, State::Note)]
        );
        assert_eq!(
            told("ext4 rw,noatime,commit=1800"),
            [(reads, State::Found), (commits, State::Found)]
        );
        assert_eq!(told("ext2 rw,relatime"), [(reads, State::Note)]);
        assert_eq!(told("xfs ro,relatime"), [(reads, State::Found)]);
    }

    #[test]
    fn what_is_no_root_says_nothing() {
        assert!(states("").is_empty());
        assert!(states("/dev/x /boot ext4 rw 0 0\nnonsense\n/dev/y /").is_empty());
    }

    #[test]
    fn the_last_mount_over_root_counts() {
        let mounts = "rootfs / rootfs rw 0 0\n/dev/x / ext4 rw,noatime,commit=900 0 0\n";
        assert!(states(mounts).iter().all(|(_, state)| *state == State::Found));
    }
}
