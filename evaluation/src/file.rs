//! Files that are either wholly there or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Writes a file through a temporary one in the same folder: flushed to disk, then renamed over `path`.
///
/// # Errors
/// What `write` returns, or [`ErrorKind::Io`]; the temporary file is gone and an older file is untouched then.
pub(crate) fn write_atomically(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<()>) -> Result<()> {
    let io = |source: io::Error| Error::new(ErrorKind::Io, "cannot write").at_path(path).with_source(source);
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666)); // as any new file: the umask decides
    }
    let mut temporary = builder.prefix(".margay-").tempfile_in(folder).map_err(io)?;
    let mut buffer = BufWriter::new(temporary.as_file_mut());
    write(&mut buffer).map_err(|error| error.at_path(path))?;
    buffer.flush().map_err(io)?;
    drop(buffer);
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(path).map_err(|error| io(error.error))?;
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().ok(); // makes the rename itself durable where the system allows it
    }
    Ok(())
}
