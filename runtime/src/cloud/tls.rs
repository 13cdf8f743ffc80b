//! Whom the client trusts: rustls with the ring provider, chosen roots, nothing that turns verification off.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, ErrorKind, Result};

/// Whose certificates are believed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Roots {
    /// Mozilla's list, compiled in. The same on every platform, and it needs no initialisation on Android.
    #[default]
    Bundled,
    /// Only the authorities in this PEM text, e.g. a company's own.
    Pem(Vec<u8>),
}

/// A client configuration for TLS 1.2 and 1.3 that offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// [`ErrorKind::Tls`] if the PEM text holds no authority, or one that is not.
pub(super) fn client_config(roots: &Roots) -> Result<ClientConfig> {
    let refuse = |why| Error::new(ErrorKind::Tls, why);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("no TLS version in common with the ring provider").with_source(error))?
        .with_root_certificates(store(roots)?)
        .with_no_client_auth();
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

fn store(roots: &Roots) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    match roots {
        Roots::Bundled => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::Pem(pem) => {
            let refuse = |why| Error::new(ErrorKind::Tls, why);
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
    use super::*;

    #[test]
    fn bundled_roots_are_a_full_list() {
        assert!(store(&Roots::Bundled).unwrap().len() > 100);
    }

    #[test]
    fn roots_that_are_none_are_refused() {
        let wrapped = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n";
        for pem in ["", "hello", wrapped, cut] {
            let error = client_config(&Roots::Pem(pem.into())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tls, "{pem}");
        }
    }
}
