//! What a build without the feature `parquet` says of such files.

use std::fs::File;
use std::io::Write;

use super::Table;
use crate::error::{Error, ErrorKind, Result};

/// Refuses: see the module.
pub(super) fn append(_table: &mut Table, _file: File) -> Result<()> {
    Err(refused())
}

/// Refuses: see the module.
pub(super) fn write(_table: &Table, _stream: impl Write) -> Result<()> {
    Err(refused())
}

fn refused() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "is Parquet, which this build cannot read or write: build it with the feature `parquet`",
    )
}
