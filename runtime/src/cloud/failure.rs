//! What went wrong with one exchange, told apart: reqwest wraps the cause four deep, the caller wants its name.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;

use super::Endpoint;
use crate::error::{Error, ErrorKind};

/// A failed exchange: the error, and what the retry needs to know about it.
pub(super) struct Failure {
    pub(super) error: Error,
    /// What the server's `Retry-After` asked for.
    pub(super) retry_after: Option<Duration>,
    /// Whether the server refused the token (401), so that a renewed one may do.
    pub(super) token_refused: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None, token_refused: false }
    }
}

/// No answer has begun: the connection, the handshake or the request failed.
pub(super) fn before_answer(error: reqwest::Error, endpoint: &Endpoint) -> Error {
    let error = error.without_url();
    let connecting = error.is_connect();
    let (kind, what) = if has_cause(&error, |cause| cause.is::<rustls::Error>()) {
        (ErrorKind::Tls, "could not be trusted")
    } else if has_cause(&error, |cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) {
        (ErrorKind::Malformed, "does not speak HTTP")
    } else if error.is_timeout() {
        (ErrorKind::Connect, "did not accept the connection in time")
    } else if error.is_connect() {
        (ErrorKind::Connect, "could not be reached")
    } else {
        (ErrorKind::Connect, "closed the connection before its answer began")
    };
    Error::new(kind, format!("{endpoint} {what}")).with_source(error).free_of_charge(connecting)
}

/// The headers had come, and `received` bytes of the body.
pub(super) fn within_answer(error: reqwest::Error, endpoint: &Endpoint, received: usize) -> Error {
    let error = error.without_url();
    let broken = |cause: &(dyn StdError + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
    };
    let (kind, what) = if has_cause(&error, |cause| cause.is::<rustls::Error>()) {
        (ErrorKind::Tls, "was tampered with")
    } else if has_cause(&error, broken) {
        (ErrorKind::Malformed, "is not what its headers say")
    } else {
        (ErrorKind::Truncated, "was cut")
    };
    Error::new(kind, format!("the answer of {endpoint} {what} after {received} bytes")).with_source(error)
}

/// The server answered, but not with a 200. `said` is its own explanation.
pub(super) fn refused(status: StatusCode, endpoint: &Endpoint, said: Option<&str>) -> Error {
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorized,
        StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimited,
        // The server gave up waiting; the request itself is as good as before.
        StatusCode::REQUEST_TIMEOUT => ErrorKind::Server,
        status if status.is_server_error() => ErrorKind::Server,
        status if status.is_success() || status.is_informational() => ErrorKind::Malformed,
        _ => ErrorKind::Rejected,
    };
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    let refused = matches!(kind, ErrorKind::Unauthorized | ErrorKind::RateLimited | ErrorKind::Rejected);
    Error::new(kind, format!("{endpoint} answered {status}{said}")).free_of_charge(refused)
}

/// Whether an error, or one of its causes, is of the `wanted` kind.
///
/// An [`io::Error`] hides the error it wraps from `source`, which is where rustls sits: that one is behind `get_ref`.
fn has_cause(error: &(dyn StdError + 'static), wanted: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if wanted(cause) {
            return true;
        }
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_kind() {
        let endpoint: Endpoint = "https://example.com/v1".parse().unwrap();
        for (status, kind) in [
            (204, ErrorKind::Malformed),
            (301, ErrorKind::Rejected),
            (400, ErrorKind::Rejected),
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Unauthorized),
            (404, ErrorKind::Rejected),
            (408, ErrorKind::Server),
            (413, ErrorKind::Rejected),
            (429, ErrorKind::RateLimited),
            (500, ErrorKind::Server),
            (503, ErrorKind::Server),
            (529, ErrorKind::Server),
        ] {
            let error = refused(StatusCode::from_u16(status).unwrap(), &endpoint, Some("because"));
            assert_eq!(error.kind(), kind, "{status}");
            assert!(error.to_string().starts_with(&format!("https://example.com/v1 answered {status} ")));
            assert!(error.to_string().ends_with(": because"));
        }
    }

    #[test]
    fn tls_is_found_behind_io_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);

        fn is_tls(error: &(dyn StdError + 'static)) -> bool {
            has_cause(error, |cause| cause.is::<rustls::Error>())
        }

        let tls = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_tls(&tls()));
        assert!(is_tls(&io::Error::other(tls())));
        assert!(is_tls(&Outer(io::Error::other(io::Error::other(tls())))));
        assert!(is_tls(&Outer(io::Error::other(Outer(io::Error::other(tls()))))));
        assert!(!is_tls(&Outer(io::Error::from(io::ErrorKind::ConnectionReset))));
        assert!(!is_tls(&Outer(io::Error::other("rustls"))));
    }
}
