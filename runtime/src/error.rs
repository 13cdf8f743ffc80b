//! The one error type of this crate: opaque, with a kind for programs and a message for people.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Short form of [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in one line that names the file, field or address, with the cause behind it.
///
/// Programs look at [`Error::kind`]; people read the message. Secrets never appear in either.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Source>,
    free_of_charge: bool,
    partial: Option<String>,
}

/// The kinds of failure, each with its cause and what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// ONNX Runtime's library is missing, too old or does not load. Install it or set `ORT_DYLIB_PATH`.
    Library,
    /// A file could not be read or written (missing, no permission, disk full). Mend the file system and try again.
    Io,
    /// A bundle is not what it claims: malformed, incomplete, over a size cap. Get the bundle again.
    Bundle,
    /// A digest does not match: a file was changed, or a policy belongs to another model. Get the bundle again, or calibrate again.
    Digest,
    /// A bundle's signature is wrong, missing, or by a key that is not trusted. Get the bundle again from whom you trust.
    Signature,
    /// The request or an option cannot be served as it stands. The caller's mistake; do not retry unchanged.
    InvalidRequest,
    /// Prompt and answer do not fit the model's context. Shorten the prompt or ask for fewer tokens.
    ContextOverflow,
    /// ONNX Runtime failed while running the graph. The bundle or the execution provider is at fault.
    Inference,
    /// The request's deadline passed. Nothing is still running on its behalf.
    Deadline,
    /// The caller cancelled the request.
    Cancelled,
    /// The cloud could not be reached: refused, reset, unresolved, no route. Safe to retry later.
    Connect,
    /// The cloud's certificate was refused, or the TLS handshake failed. Do not retry; check roots and clock.
    Tls,
    /// The cloud says who we are is not good enough (401, 403). Refresh the token.
    Unauthorized,
    /// The cloud refused the request (another 4xx). Do not retry unchanged.
    Rejected,
    /// The cloud is asking us to slow down (429). Retry after the stated delay.
    RateLimited,
    /// The cloud failed (5xx). Retry with backoff.
    Server,
    /// The cloud's answer is not one: not JSON, a field missing, over a size cap. Report it to the provider.
    Malformed,
    /// The cloud's answer ended before it was complete. What of it was handed out is [`Error::partial_text`].
    Truncated,
    /// Asking the cloud would cost more than is left of the budget. Wait for the next period or raise the limit.
    Budget,
    /// The outbox has no room (drain it, acknowledge results or raise its caps), or as many requests as may wait for an
    /// engine do (ask again later).
    QueueFull,
    /// Model or request need more memory than the device's options allow. Shorten the request or raise the cap.
    Memory,
    /// An execution provider that is required is missing or does not run the model. Prefer it, or install it.
    Provider,
    /// A configuration file is malformed or makes no sense. The message has its path, line and column.
    Configuration,
    /// A store on disk (audit file, budget, outbox) is damaged, held by another process or of another version.
    /// It is left as it is.
    Store,
}

impl ErrorKind {
    /// Every kind, in the order of its code.
    pub const ALL: [Self; 24] = [
        Self::Library,
        Self::Io,
        Self::Bundle,
        Self::Digest,
        Self::Signature,
        Self::InvalidRequest,
        Self::ContextOverflow,
        Self::Inference,
        Self::Deadline,
        Self::Cancelled,
        Self::Connect,
        Self::Tls,
        Self::Unauthorized,
        Self::Rejected,
        Self::RateLimited,
        Self::Server,
        Self::Malformed,
        Self::Truncated,
        Self::Budget,
        Self::QueueFull,
        Self::Memory,
        Self::Provider,
        Self::Configuration,
        Self::Store,
    ];

    /// The number of this kind in other languages, from 1 to 99. It never changes, and none is used twice.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Library => 1,
            Self::Io => 2,
            Self::Bundle => 3,
            Self::Digest => 4,
            Self::Signature => 5,
            Self::InvalidRequest => 6,
            Self::ContextOverflow => 7,
            Self::Inference => 8,
            Self::Deadline => 9,
            Self::Cancelled => 10,
            Self::Connect => 11,
            Self::Tls => 12,
            Self::Unauthorized => 13,
            Self::Rejected => 14,
            Self::RateLimited => 15,
            Self::Server => 16,
            Self::Malformed => 17,
            Self::Truncated => 18,
            Self::Budget => 19,
            Self::QueueFull => 20,
            Self::Memory => 21,
            Self::Provider => 22,
            Self::Configuration => 23,
            Self::Store => 24,
        }
    }
}

impl Error {
    /// An error with a message of one line; for those who implement this crate's traits, and for their tests.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                source: None,
                free_of_charge: false,
                partial: None,
            }),
        }
    }

    /// The same error with its cause, which may hold no secret: it is printed with it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// The same error, certain to have cost nothing: no model read any of the request.
    #[must_use]
    pub fn free_of_charge(mut self, free: bool) -> Self {
        self.inner.free_of_charge = free;
        self
    }

    /// The same error, which came in the midst of an answer: what of it the caller has already.
    #[must_use]
    pub fn with_partial_text(mut self, text: impl Into<String>) -> Self {
        self.inner.partial = Some(text.into());
        self
    }

    /// What the caller was given of an answer before this ended it; `None` if that was nothing. Neither `Display` nor `Debug`
    /// show it.
    #[must_use]
    pub fn partial_text(&self) -> Option<&str> {
        self.inner.partial.as_deref()
    }

    /// Which kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the request's deadline passed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        self.kind() == ErrorKind::Deadline
    }

    /// Whether the caller cancelled the request.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether the failure lies beyond the device: in the network or the cloud.
    #[must_use]
    pub fn is_cloud(&self) -> bool {
        use ErrorKind::{Connect, Malformed, RateLimited, Rejected, Server, Tls, Truncated, Unauthorized};
        matches!(self.kind(), Connect | Tls | Unauthorized | Rejected | RateLimited | Server | Malformed | Truncated)
    }

    /// Whether the failed exchange is certain to have cost nothing. An answer that was cut, or never came, may be billed.
    #[must_use]
    pub fn is_free_of_charge(&self) -> bool {
        self.inner.free_of_charge
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use ErrorKind::{Connect, RateLimited, Server, Truncated};
        matches!(self.kind(), Connect | RateLimited | Server | Truncated)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_one_to_the_last_each_once() {
        let codes = ErrorKind::ALL.map(ErrorKind::code);
        assert_eq!(codes.as_slice(), (1..=24).collect::<Vec<_>>());
    }
}
