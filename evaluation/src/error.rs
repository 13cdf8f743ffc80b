//! The one error type of this crate: opaque, with a kind for programs and a message for people.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Short form of [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in one line that names the file, row and column where there is one, with the cause behind it.
///
/// Programs look at [`Error::kind`]; people read the message.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    path: Option<PathBuf>,
    row: Option<u64>,
    column: Option<String>,
    source: Option<Source>,
}

/// The kinds of failure, each with its cause and what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file could not be read or written (missing, no permission, disk full). Mend the file system and try again.
    Io,
    /// The header (CSV) or an object (JSON Lines) lacks a required column, or has one that is unknown or given twice.
    /// Mend the table.
    Columns,
    /// A field is not what its column asks for: not a number, not finite, out of range, empty. Mend the table.
    Value,
    /// Two rows speak of the same query and model. Mend the table.
    Duplicate,
    /// A query has a row for one model of a cascade but not for the other, or two tables are not about the same
    /// queries.
    MissingPair,
    /// An optional field is empty that the question asked needs, e.g. `score` for a deferral curve. Record it.
    MissingValue,
    /// A field, record or table is over its size cap. It is not an outcome table, or must be split.
    TooLarge,
    /// An argument makes no sense (no queries, a level outside (0, 1), a rate outside [0, 1]). The caller's mistake.
    Invalid,
    /// A plot or a page could not be made. A fault of this crate: report it.
    Report,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner { kind, message: message.into(), path: None, row: None, column: None, source: None }),
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    pub(crate) fn at_path(mut self, path: &Path) -> Self {
        self.inner.path = Some(path.to_owned());
        self
    }

    pub(crate) fn at_row(mut self, row: u64) -> Self {
        self.inner.row = Some(row);
        self
    }

    pub(crate) fn at_column(mut self, column: impl Into<String>) -> Self {
        self.inner.column = Some(column.into());
        self
    }

    /// Which kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The file at fault, if it was read from or written to one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The row at fault, counted as a spreadsheet does: a CSV's header is row 1. In JSON Lines, the line.
    #[must_use]
    pub fn row(&self) -> Option<u64> {
        self.inner.row
    }

    /// The column at fault.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        self.inner.column.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, path, row, column, .. } = &*self.inner;
        if let Some(path) = path {
            write!(f, "{}: ", path.display())?;
        }
        match (row, column) {
            (Some(row), Some(column)) => write!(f, "row {row}, column `{column}`: ")?,
            (Some(row), None) => write!(f, "row {row}: ")?,
            (None, Some(column)) => write!(f, "column `{column}`: ")?,
            (None, None) => {}
        }
        f.write_str(message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, path, row, column, source } = &*self.inner;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("message", message)
            .field("path", path)
            .field("row", row)
            .field("column", column)
            .field("source", source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
