//! Files that are either wholly there or not at all.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// Reads a JSON document of at most `max_bytes` bytes; `what` it should be goes into messages.
///
/// # Errors
/// [`ErrorKind::Io`], [`ErrorKind::TooLarge`], [`ErrorKind::Value`], all with the path.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, max_bytes: u64, what: &str) -> Result<T> {
    let io = |source: io::Error| Error::new(ErrorKind::Io, "cannot read").at_path(path).with_source(source);
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > max_bytes {
        let message = format!("is over the cap of {max_bytes} bytes");
        return Err(Error::new(ErrorKind::TooLarge, message).at_path(path));
    }
    serde_json::from_reader(BufReader::new(file.take(max_bytes)))
        .map_err(|source| Error::new(ErrorKind::Value, format!("is not {what}")).at_path(path).with_source(source))
}

/// Writes a JSON document; the file is wholly there or not at all.
///
/// # Errors
/// [`ErrorKind::Io`] with the path.
pub(crate) fn write_json(path: &Path, document: &impl Serialize) -> Result<()> {
    write_atomically(path, |file| {
        let io = |source: io::Error| Error::new(ErrorKind::Io, "cannot write").with_source(source);
        serde_json::to_writer_pretty(&mut *file, document).map_err(|source| io(source.into()))?;
        file.write_all(b"\n").map_err(io)
    })
}

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
