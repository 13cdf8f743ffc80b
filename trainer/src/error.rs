//! The one error type of this crate: opaque, with a kind for programs and a message for people.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

/// Short form of [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in one line that names the file, line or field, with the cause behind it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Source>,
}

/// The kinds of failure, each with its cause and what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file could not be read or written (missing, no permission, disk full). Mend the file system and try again.
    Io,
    /// A data file is malformed. The message names file and line; mend the row.
    Data,
    /// An architecture, a recipe or an option contradicts itself. Mend the value the message names.
    Config,
    /// A checkpoint or an annotation cache is malformed or belongs to something else. Make it again.
    Checkpoint,
    /// The tokenizer could not be trained, read or applied.
    Tokenizer,
    /// Training left the finite numbers. Lower the learning rate; the message names the step and its rows.
    Diverged,
    /// The device failed in the middle of a step, most often for want of memory. The message names the step and its rows.
    Device,
    /// A server did not answer, or not what was asked. The message names the address; what was answered before is kept.
    Endpoint,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {action} {}: {source}", path.display())).with_source(source)
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
