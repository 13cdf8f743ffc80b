//! One kind of exception for each kind of failure.

use std::error::Error as _;

use margay::{Error, ErrorKind};

/// Declares the exceptions beside the kinds that they stand for.
macro_rules! errors {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        /// Why a call failed. `detail` is one line for people, which names the file, field or address and holds no secret.
        #[derive(Debug, Clone, thiserror::Error, uniffi::Error)]
        pub enum MargayError {
            $(
                $(#[$doc])*
                #[error("{detail}")]
                $kind {
                    /// What went wrong, in one line for people.
                    detail: String,
                    /// What was handed out of an answer before this ended it.
                    partial_text: Option<String>,
                },
            )+
            /// A kind that this interface does not know.
            #[error("{detail}")]
            Unknown {
                /// What went wrong, in one line for people.
                detail: String,
                /// What was handed out of an answer before this ended it.
                partial_text: Option<String>,
            },
        }

        impl MargayError {
            fn new(kind: ErrorKind, detail: String, partial_text: Option<String>) -> Self {
                match kind {
                    $(ErrorKind::$kind => Self::$kind { detail, partial_text },)+
                    _ => Self::Unknown { detail, partial_text },
                }
            }
        }
    };
}

errors! {
    /// ONNX Runtime's library is missing, too old or does not load.
    Library,
    /// A file could not be read or written.
    Io,
    /// A bundle is not what it claims.
    Bundle,
    /// A digest does not match: a file was changed, or a policy belongs to another model.
    Digest,
    /// A bundle's signature is wrong, missing, or by a key that is not trusted.
    Signature,
    /// The request or an option cannot be served as it stands: the caller's mistake.
    InvalidRequest,
    /// Prompt and answer do not fit the model's context.
    ContextOverflow,
    /// ONNX Runtime failed while running the graph.
    Inference,
    /// The request's deadline passed.
    Deadline,
    /// The caller cancelled the request.
    Cancelled,
    /// The cloud could not be reached. Safe to retry later.
    Connect,
    /// The cloud's certificate was refused, or the TLS handshake failed.
    Tls,
    /// The cloud says who we are is not good enough (401, 403), or there is no token.
    Unauthorized,
    /// The cloud refused the request (another 4xx).
    Rejected,
    /// The cloud is asking us to slow down (429).
    RateLimited,
    /// The cloud failed (5xx).
    Server,
    /// The cloud's answer is not one.
    Malformed,
    /// The cloud's answer ended before it was complete.
    Truncated,
    /// Asking the cloud would cost more than is left of the budget.
    Budget,
    /// As many requests as may wait for an engine do.
    QueueFull,
    /// Model or request need more memory than the options allow.
    Memory,
    /// An execution provider that is required is missing or does not run the model.
    Provider,
    /// A configuration is malformed or makes no sense.
    Configuration,
    /// A store on disk is damaged, held by another process or of another version.
    Store,
}

impl From<Error> for MargayError {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), with_causes(&error), error.partial_text().map(str::to_owned))
    }
}

/// An error's line, and those of its causes that say something new.
pub(crate) fn with_causes(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        cause = error.source();
    }
    line
}

/// The caller's mistake, in words.
pub(crate) fn invalid(detail: &'static str) -> MargayError {
    Error::new(ErrorKind::InvalidRequest, detail).into()
}

/// What a callback of the app fails with; exceptions of any other kind arrive as this one too.
#[derive(Debug, Clone, thiserror::Error, uniffi::Error)]
pub enum CallbackError {
    /// It could not do its work.
    #[error("{detail}")]
    Failed {
        /// Why, in one line for people; it may hold no secret.
        detail: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for CallbackError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Failed { detail: error.reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_exception_of_its_name() {
        for kind in ErrorKind::ALL {
            let error = MargayError::from(Error::new(kind, "it broke off").with_partial_text("so far"));
            assert!(format!("{error:?}").starts_with(&format!("{kind:?} ")), "{error:?}");
            assert_eq!(error.to_string(), "it broke off");
        }
    }
}
