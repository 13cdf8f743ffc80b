//! Files that are there after a power cut: a new one is on the disk only when its folder is.

use std::fs;
use std::io;
use std::path::Path;

/// The folder that a file or folder is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the folder of `path` is on the disk. Only Unix lets a program ask for it.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    sync(folder_of(path))
}

/// Waits until `root` and every folder in it are on the disk.
pub(crate) fn sync_tree(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync(root)
}

fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
