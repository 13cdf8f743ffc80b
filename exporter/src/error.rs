//! The one error type of this crate: opaque, with a kind for programs and a message for people.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

/// Short form of [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in one line that names the file or tensor, with the cause behind it.
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
    /// The checkpoint is not a whole model. Get or train it again.
    Checkpoint,
    /// The bundle cannot be opened or run. The cause says why.
    Bundle,
    /// A file of texts is malformed. The message names file and line; mend them.
    Data,
    /// The model cannot be stored in the bits asked for without losing more than was allowed. Allow more, or take more bits.
    Quality,
    /// A key file is not one or is open to others, or a bundle is signed and there is no key to sign it again.
    Key,
    /// The exported graph computes something else than the trainer. Nothing was written; report it.
    Mismatch,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn with_source(self, source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    pub(crate) fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Self { source: Some(source.into()), ..Self::new(ErrorKind::Io, format!("cannot {action} {}", path.display())) }
    }

    /// Which kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<margay_trainer::Error> for Error {
    fn from(error: margay_trainer::Error) -> Self {
        let kind = if error.kind() == margay_trainer::ErrorKind::Io { ErrorKind::Io } else { ErrorKind::Checkpoint };
        Self { source: Some(error.into()), ..Self::new(kind, "cannot read the checkpoint") }
    }
}

impl From<margay::Error> for Error {
    fn from(error: margay::Error) -> Self {
        let kind = if error.kind() == margay::ErrorKind::Io { ErrorKind::Io } else { ErrorKind::Bundle };
        Self { source: Some(error.into()), ..Self::new(kind, "the bundle does not run") }
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
