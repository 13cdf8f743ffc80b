//! Files that are there after a power cut: a new one is on the disk only when its folder is.

use std::io;
use std::path::Path;

/// Waits until the folder of `path` is on the disk. Only Unix lets a program ask for it.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}
