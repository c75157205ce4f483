//! A copy of this program in RAM.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::file;

/// The folder with the copy, where the one that was asked for is mounted noexec.
const FOLDER: &str = "bin";

/// Makes the copy in that folder, under that name, or renews it. Debian's initramfs mounts /run
/// noexec; there the copy lies in a tmpfs of its own, behind a link.
pub fn keep(folder: &Path, name: &str) -> io::Result<()> {
    ask!(keep_program());
    let mut folder = folder.to_owned();
    std::fs::create_dir_all(&folder)?;
    let flags = statvfs(&folder).map(|fs| fs.flags()).unwrap_or(FsFlags::empty());
    if flags.contains(FsFlags::ST_NOEXEC) {
        let link = folder.join(name);
        folder.push(FOLDER);
        if !link.is_symlink() {
            std::fs::create_dir_all(&folder)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), &folder, Some("tmpfs"), flags, Some("mode=0755,size=2M"))?;
            symlink(Path::new(FOLDER).join(name), link)?;
        }
    }
    // In one step: the old copy stays when there is no memory for another, and it may be running.
    file::replace(&folder.join(name), |path| std::fs::copy("/proc/self/exe", path).map(drop))
}
