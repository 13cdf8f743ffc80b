//! What a command can fail with; printed with its causes, exit code 1.

use std::path::Path;

use margay::ErrorKind;

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
    /// What to do about it, where there is one answer.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let Self::Runtime(error) = self else { return None };
        match error.kind() {
            ErrorKind::Library => Some("`margay doctor` says where the library is looked for"),
            ErrorKind::Bundle | ErrorKind::Digest => {
                Some("get the bundle again, or make it again; `margay bundle verify` checks every byte")
            }
            ErrorKind::Signature => {
                Some("get the bundle again from whom you trust; `margay bundle inspect` says who signed it")
            }
            ErrorKind::ContextOverflow => Some("shorten the prompt, or ask for fewer tokens"),
            ErrorKind::Provider => Some("`margay devices` lists what there is"),
            ErrorKind::Configuration => Some("`margay config example` prints one that is right"),
            ErrorKind::Tls => Some("check `roots`, pins and the clock; `margay doctor --config FILE` looks at them"),
            ErrorKind::Unauthorized => Some("check `token`; `margay doctor --config FILE` looks at it"),
            ErrorKind::Connect => Some("check the endpoint, the network and `proxy`"),
            ErrorKind::Store => Some("is another process using it? each needs its own file"),
            ErrorKind::Memory => Some("shorten the request, or raise --memory-cap"),
            _ => None,
        }
    }

    pub(crate) fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: format!("{action} {}", path.display()), source }
    }
}
