//! Replaces files so that a reader finds the new file or the old one, never half of one.

use std::io;
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
