//! Writing files so that a reader sees the old content or the new, never a part.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Writes `bytes` beside `path`, flushes them to the disk and renames them into place.
///
/// # Errors
/// [`crate::ErrorKind::Io`]; what stood at `path` before still does, and nothing else is left behind.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(|e| Error::io("create a file in", folder, e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("replace", path, e.error))?;
    Ok(())
}
