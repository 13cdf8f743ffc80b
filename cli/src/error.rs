//! What a command can fail with; printed with its causes, exit code 1.

use std::path::Path;

/// Short form of [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Data, training or annotation.
    #[error(transparent)]
    Trainer(#[from] margay_trainer::Error),
    /// Export or its verification.
    #[error(transparent)]
    Exporter(#[from] margay_exporter::Error),
    /// The runtime, on the device or towards the cloud.
    #[error(transparent)]
    Runtime(#[from] margay::Error),
    /// Measures, tables or reports.
    #[error(transparent)]
    Evaluation(#[from] margay_evaluation::Error),
    /// The server.
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    /// The certificate authority of a run.
    #[error(transparent)]
    Authority(#[from] crate::authority::AuthorityError),
    /// A file or socket.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, on which file or address.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Things that `margay doctor` looked at and that will not work.
    #[error("{0} of these will not work")]
    Unhealthy(usize),
    /// What the command is to do makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    pub(crate) fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: format!("{action} {}", path.display()), source }
    }
}
