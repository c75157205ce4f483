//! What `cowflush check` recommends of root's mount options, each with the effect that
//! docs/wear.md measured: erases of a CompactFlash's model over a router's day.

use super::item::Item;

/// Commits at this interval or longer are as rare as flushes, in seconds.
const SELDOM: u64 = 600;

/// Looks at root's line in /proc/mounts. `prune`: the journal's blocks don't reach the card.
pub fn items(mounts: &str, prune: bool) -> Vec<Item> {
    let root = mounts.lines().rev().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        (place == "/").then_some((kind, options))
    });
    let Some((kind, options)) = root else { return Vec::new() };
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    let mut items = vec![if has("noatime") || has("ro") {
        Item::found("reads", "are no writes")
    } else if has("relatime") {
        Item::found("reads", "are seldom writes; noatime would spare 3 % of a day's erases")
    } else {
        Item::note("reads", "are writes, too", "Mount root with noatime.")
    }];
    if matches!(kind, "ext3" | "ext4") {
        items.push(commits(options, prune));
    }
    items
}

/// Judges the interval of commits. ext3 and ext4 show `commit=` only when it is not 5 seconds.
fn commits(options: &str, prune: bool) -> Item {
    let seconds = options.split(',').find_map(|option| option.strip_prefix("commit="));
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(5);
    let found = format!("every {seconds} s");
    if seconds >= SELDOM || prune {
        return Item::found("journal commits", found);
    }
    Item::note(
        "journal commits",
        found,
        "Set prune=on, or mount root with commit=1800. Until a flush a commit reaches RAM only, but \
         without pruning the journal's blocks are flushed: a day then erases 2.7 times fewer blocks.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::item::State;
    use super::*;

    fn states(mounts: &str) -> Vec<(&'static str, State)> {
        items(mounts, false).iter().map(|item| (item.name, item.state)).collect()
    }

    #[test]
    fn roots_options_are_judged() {
        use State::{Found, Note};
        let judged = |kind_and_options: &str| -> Vec<State> {
            let mounts = format!("proc /proc proc rw 0 0\n/dev/x / {kind_and_options} 0 0\n");
            states(&mounts).iter().map(|(_, state)| *state).collect()
        };
        assert_eq!(judged("ext4 rw,relatime"), [Found, Note]);
        assert_eq!(judged("ext4 rw"), [Note, Note]);
        assert_eq!(judged("ext4 rw,noatime,commit=60"), [Found, Note]);
        assert_eq!(judged("ext3 rw,noatime,commit=1800"), [Found, Found]);
        assert_eq!(judged("ext2 rw,noatime"), [Found]);
        assert_eq!(judged("xfs ro"), [Found]);
        let pruned = items("/dev/x / ext4 rw,noatime 0 0\n", true);
        assert!(pruned.iter().all(|item| item.state == Found), "the journal is pruned");
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
