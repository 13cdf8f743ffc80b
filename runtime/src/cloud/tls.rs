//! Whom the client trusts: rustls with the ring provider, chosen roots, nothing that turns verification off.

mod pin;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use self::pin::Pinned;
pub use self::pin::SpkiPin;
use crate::error::{Error, ErrorKind, Result};

/// Whose certificates are believed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Roots {
    /// Mozilla's list, compiled in. The same on every platform, and it needs no initialisation on Android.
    #[default]
    Bundled,
    /// The operating system's, with what its owner or their employer added. On Android the app must have initialised
    /// `rustls-platform-verifier` before; if not, building the client fails with [`ErrorKind::Tls`].
    Platform,
    /// Only the authorities in this PEM text, e.g. a company's own.
    Pem(Vec<u8>),
}

/// The client's own certificate, for servers that ask for one. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    /// The certificate, with those between it and the authority after it, and its private key, both PEM.
    #[must_use]
    pub fn pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { chain: chain.into(), key: key.into() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity([redacted])")
    }
}

/// A client configuration for TLS 1.2 and 1.3 that offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// [`ErrorKind::Tls`] if the PEM text holds no authority, or one that is not; if the platform has none ready; if the
/// identity's certificate and key are none or do not belong together.
pub(super) fn client_config(roots: &Roots, pins: &[SpkiPin], identity: Option<&Identity>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut verifier = verifier(roots, &provider)?;
    if !pins.is_empty() {
        verifier = Arc::new(Pinned::new(verifier, pins.to_vec()));
    }
    // "Dangerous" is that the verifier is ours to choose; both of them check the whole chain.
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("no TLS version in common with the ring provider").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.chain).collect();
            let chain = chain.map_err(|error| refuse("the client's certificate is not PEM text").with_source(error))?;
            // rustls does not quote the key, but it is not given the chance to.
            let key = PrivateKeyDer::from_pem_slice(&identity.key);
            let key = key.map_err(|_| refuse("the client's private key is not one in PEM text"))?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| refuse("the client's certificate and key do not do").with_source(error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Random bytes from the operating system.
///
/// # Errors
/// [`ErrorKind::Io`] if it has none to give.
pub(crate) fn random_seed() -> Result<[u8; 32]> {
    let CryptoProvider { secure_random, .. } = ring::default_provider();
    let mut seed = [0; 32];
    secure_random
        .fill(&mut seed)
        .map_err(|_| Error::new(ErrorKind::Io, "the operating system gives no random numbers"))?;
    Ok(seed)
}

fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::Tls, why)
}

fn verifier(roots: &Roots, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    if let Roots::Platform = roots {
        let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider))
            .map_err(|error| refuse("the platform gives no certificate authorities").with_source(error))?;
        check_ready(&verifier)?;
        return Ok(Arc::new(verifier));
    }
    let store = Arc::new(store(roots)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider)).build();
    Ok(verifier.map_err(|error| refuse("the roots hold no certificate").with_source(error))?)
}

/// Android's verifier panics in the midst of a handshake when the app has not initialised it: it is asked about a certificate
/// that is none here, where a panic can be told apart from a refusal.
fn check_ready(verifier: &dyn ServerCertVerifier) -> Result<()> {
    let name =
        ServerName::try_from("localhost").map_err(|error| refuse("`localhost` is no name").with_source(error))?;
    let nothing = CertificateDer::from(Vec::new());
    let asked =
        catch_unwind(AssertUnwindSafe(|| verifier.verify_server_cert(&nothing, &[], &name, &[], UnixTime::now())));
    match asked {
        Ok(_) => Ok(()),
        Err(_) => Err(refuse("the platform's verifier is not initialised; do that first, or use the bundled roots")),
    }
}

fn store(roots: &Roots) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    match roots {
        Roots::Bundled | Roots::Platform => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::Pem(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| refuse("the roots are not PEM text").with_source(error))?;
                store.add(certificate).map_err(|error| {
                    refuse("the roots hold something that is not a certificate authority").with_source(error)
                })?;
            }
            if store.is_empty() {
                return Err(refuse("the roots hold no certificate"));
            }
        }
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
    use rustls::{DigitallySignedStruct, SignatureScheme};

    use super::*;

    /// What Android's verifier does without initialisation.
    #[derive(Debug)]
    struct Uninitialised;

    impl ServerCertVerifier for Uninitialised {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            panic!("Expect rustls-platform-verifier to be initialized")
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            unreachable!("no handshake here")
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            unreachable!("no handshake here")
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::new()
        }
    }

    #[test]
    fn bundled_roots_are_a_full_list() {
        assert!(store(&Roots::Bundled).unwrap().len() > 100);
    }

    #[test]
    fn a_platform_without_its_verifier_is_a_typed_error() {
        let error = check_ready(&Uninitialised).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(error.to_string().contains("not initialised"), "{error}");
        check_ready(&*verifier(&Roots::Bundled, &Arc::new(ring::default_provider())).unwrap()).unwrap();
    }

    #[test]
    fn roots_that_are_none_are_refused() {
        let wrapped = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n";
        for pem in ["", "hello", wrapped, cut] {
            let error = client_config(&Roots::Pem(pem.into()), &[], None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tls, "{pem}");
        }
    }

    #[test]
    fn identities_that_are_none_are_refused_and_never_shown() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["client".to_owned()]).unwrap().self_signed(&key).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let identity = |chain: &str, key: &str| Identity::pem(chain, key);
        let config = |identity: &Identity| client_config(&Roots::Bundled, &[], Some(identity));
        assert!(config(&identity(&certificate.pem(), &key.serialize_pem())).is_ok());
        for wrong in [
            identity("", &key.serialize_pem()),
            identity(&certificate.pem(), ""),
            identity(&certificate.pem(), "planted"),
            identity(&certificate.pem(), &other.serialize_pem()),
        ] {
            let error = config(&wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tls);
            assert!(!format!("{error:?} {wrong:?}").contains("planted"));
        }
    }
}
