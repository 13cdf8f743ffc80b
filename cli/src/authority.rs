//! A certificate authority for one run on one machine.
//!
//! It signs a single certificate, for loopback, and is gone: its key is never written anywhere and does not
//! outlive [`Authority::new`]. Name constraints keep it from vouching for anybody else even so.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;

/// How long the certificates are valid; a run is over long before.
const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// How far in the past validity begins, for clocks that were just set back.
const CLOCK_SLACK: Duration = Duration::from_secs(5 * 60);

/// What is left of an authority once it has signed: its own certificate, and a server that it vouches for.
#[derive(Debug, Clone)]
pub struct Authority {
    pem: String,
    server: Arc<ServerConfig>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be served.
    #[error("cannot serve the certificate: {0}")]
    Tls(#[from] rustls::Error),
}

impl Authority {
    /// Makes an authority and, signed by it, a server for `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// [`AuthorityError`] if the operating system gives no random numbers.
    pub fn new() -> Result<Self, AuthorityError> {
        let mut params = valid_now(CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, "Margay, for one run");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("localhost".into()),
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(Ipv4Addr::LOCALHOST.octets(), 32)),
            ],
            excluded_subtrees: Vec::new(),
        });
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let mut params = valid_now(CertificateParams::new(names)?);
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;

        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { pem: issuer.pem(), server: Arc::new(server) })
    }

    /// The authority's own certificate, PEM: what a client trusts.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS 1.2 and 1.3 with the signed certificate, offering HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

fn valid_now(mut params: CertificateParams) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + VALIDITY).into();
    params
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    /// Shakes hands in memory: a client that trusts `trusted` and wants `name`, against `server`.
    fn shake_hands(trusted: &Authority, server: &Authority, name: &'static str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap())?;
        let mut server = ServerConnection::new(server.server_config())?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn its_own_clients_trust_it_on_loopback_only() {
        let authority = Authority::new().unwrap();
        for name in ["localhost", "127.0.0.1"] {
            shake_hands(&authority, &authority, name).unwrap();
        }
        for name in ["example.com", "127.0.0.2"] {
            let refused = shake_hands(&authority, &authority, name).unwrap_err();
            assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{name}: {refused}");
        }
    }

    #[test]
    fn nobody_else_s_clients_trust_it() {
        let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        let refused = shake_hands(&other, &authority, "localhost").unwrap_err();
        assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    }

    #[test]
    fn no_private_key_is_shown() {
        let authority = Authority::new().unwrap();
        assert_eq!(authority.pem().matches("-----BEGIN").count(), 1);
        assert!(!format!("{} {authority:?}", authority.pem()).contains("PRIVATE KEY"));
    }
}
