//! Proof that app and device are genuine, as App Attest and Play Integrity give it: a header bound to the body.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;

use reqwest::header::{HeaderName, HeaderValue};

use super::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

/// A header that proves something. `Debug` hides its value.
pub struct AttestationHeader {
    name: String,
    value: String,
}

impl AttestationHeader {
    /// A header of this name.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    pub(super) fn name(&self) -> Result<HeaderName> {
        HeaderName::try_from(&self.name)
            .map_err(|_| Error::new(ErrorKind::InvalidRequest, "the attestation header's name is none"))
    }

    pub(super) fn value(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::try_from(&self.value).map_err(|_| {
            Error::new(ErrorKind::InvalidRequest, "the attestation holds characters that a header cannot carry")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for AttestationHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttestationHeader({}: [redacted])", self.name)
    }
}

/// Where attestations come from. An async closure will do.
pub trait Attestation: Send + Sync {
    /// The header for a body with this SHA-256, in lower-case hexadecimal digits: the nonce that binds the proof to it.
    ///
    /// # Errors
    /// Whatever keeps the platform from giving one; the request then fails with [`ErrorKind::Unauthorized`] and this error
    /// as its source, before anything is sent.
    fn header(&self, body_sha256: String) -> BoxFuture<'_, Result<AttestationHeader, Box<dyn StdError + Send + Sync>>>;
}

impl<F, Answer> Attestation for F
where
    F: Fn(String) -> Answer + Send + Sync,
    Answer: Future<Output = Result<AttestationHeader, Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    fn header(&self, body_sha256: String) -> BoxFuture<'_, Result<AttestationHeader, Box<dyn StdError + Send + Sync>>> {
        Box::pin(self(body_sha256))
    }
}
