//! Pins: digests of the public keys that a server may have (RFC 7469, section 2.4), checked after everything else.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) in a server's own certificate.
///
/// Written `sha256/` and 44 characters of base64, as RFC 7469, curl's `--pinnedpubkey` (with two slashes) and Android's
/// network security configuration do. `openssl x509 -pubkey -noout < cert.pem | openssl pkey -pubin -outform der |
/// openssl dgst -sha256 -binary | openssl base64` makes one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiPin([u8; 32]);

impl SpkiPin {
    /// The pin of a public key in DER.
    #[must_use]
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }
}

impl FromStr for SpkiPin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A digest may begin with a slash of its own; then it is 44 characters with it.
        let rest = text.strip_prefix("sha256/").unwrap_or_default();
        let digits = if rest.len() == 45 { rest.strip_prefix('/').unwrap_or(rest) } else { rest };
        let digest = BASE64.decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
        digest.map(Self).ok_or_else(|| {
            Error::new(ErrorKind::InvalidRequest, format!("`{text}` is no pin: `sha256/` and 44 characters of base64"))
        })
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiPin({self})")
    }
}

/// A verifier behind which the server's key must be a pinned one.
#[derive(Debug)]
pub(super) struct Pinned {
    chain: Arc<dyn ServerCertVerifier>,
    pins: Vec<SpkiPin>,
}

impl Pinned {
    pub(super) fn new(chain: Arc<dyn ServerCertVerifier>, pins: Vec<SpkiPin>) -> Self {
        Self { chain, pins }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        if self.pins.contains(&SpkiPin::of(&key)) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_written_as_everybody_writes_them() {
        // The first example of RFC 7469, section 2.1.5, and the digest of the empty text:
        // python3 -c "import hashlib,base64; print(base64.b64encode(hashlib.sha256(b'').digest()).decode())"
        for text in [
            "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse::<SpkiPin>().unwrap().to_string(), text);
            assert_eq!(text.replacen('/', "//", 1).parse::<SpkiPin>().unwrap().to_string(), text);
        }
        assert_eq!(SpkiPin::of(b"").to_string(), "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        for wrong in [
            "",
            "sha256/",
            "d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "sha256/d6qz",
            "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmN=",
            "sha256/é6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
        ] {
            assert_eq!(wrong.parse::<SpkiPin>().unwrap_err().kind(), ErrorKind::InvalidRequest, "{wrong}");
        }
    }
}
