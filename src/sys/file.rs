//! Text files: notes and others, which a reader finds as the new one or the old one, never half of
//! one; and those of the kernel.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Reads a text file.
pub fn read(path: &Path) -> io::Result<String> {
    ask!(text(path));
    std::fs::read_to_string(path)
}

/// Replaces a text file in one step, and makes its folder.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    ask!(put_text(path, text));
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    replace(path, |path| std::fs::write(path, text))
}

/// As [`write`], in a folder that other users may write to: a file of the unfinished one's name that
/// one of them has made in between is not written to.
pub fn write_among_others(path: &Path, text: &str) -> io::Result<()> {
    ask!(put_text(path, text));
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    replace(path, |path| File::create_new(path)?.write_all(text.as_bytes()))
}

/// Writes to a file of the kernel's, such as one of /sys, which is there or not.
pub fn set(path: &Path, value: &str) -> io::Result<()> {
    ask!(put_text(path, value));
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// The inode of what `path` leads to; `None` where there is nothing.
pub fn inode(path: &Path) -> Option<u64> {
    ask!(inode(path));
    std::fs::metadata(path).ok().map(|found| found.ino())
}

/// Removes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    ask!(remove_text(path));
    std::fs::remove_file(path)
}

/// Replaces a file in one step: `write` fills another file beside it, which then takes its name. If
/// that fails the old file stays, and the unfinished one is removed, since it would take memory
/// that may be short.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = unfinished(path).ok_or(io::ErrorKind::InvalidInput)?;
    // What has this name is removed and not written through: it may be another user's link.
    let _ = std::fs::remove_file(&unfinished);
    write(&unfinished)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .inspect_err(|_| _ = std::fs::remove_file(&unfinished))
}

/// The unfinished file's path: in the same folder, with a name that no collector of metrics reads.
fn unfinished(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!(".{name}.unfinished")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_stays_and_no_link_is_followed() {
        let folder = std::env::temp_dir().join(format!("cowflush-file-{}", std::process::id()));
        let (path, victim) = (folder.join("x.prom"), folder.join("victim"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, unfinished(&path).unwrap()).unwrap();
        replace(&path, |path| fs::write(path, "one")).unwrap();
        replace(&path, |path| fs::write(path, "two")).unwrap();
        replace(&path, |path| {
            fs::write(path, "half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        replace(Path::new("/"), |_| panic!("nothing is written there")).unwrap_err();
        fs::remove_dir_all(&folder).unwrap();
    }
}
