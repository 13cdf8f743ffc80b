//! The address of a large model: HTTPS, without credentials, printable.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use crate::error::{Error, ErrorKind, Result};

/// Base address of a server, as its clients write it: `https://api.example.com/v1`.
///
/// `Display` and `Debug` show scheme, host, port and path; a query, where some gateways want keys, is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// The address below this one, e.g. `chat/completions`, with the same query.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }
}

impl Endpoint {
    /// Where its server listens.
    pub(super) fn host_and_port(&self) -> (String, u16) {
        // An IPv6 address stands in brackets, which is not what a resolver wants.
        let host = self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        (host, self.0.port_or_known_default().unwrap_or(443))
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &'static str| Error::new(ErrorKind::InvalidRequest, why);
        // The text itself stays out of the messages: it may hold a key.
        let url = Url::parse(text).map_err(|error| refuse("the endpoint is not a URL").with_source(error))?;
        if url.scheme() != "https" {
            return Err(refuse("the endpoint does not start with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("the endpoint holds credentials; give them through a token provider"));
        }
        if url.fragment().is_some() {
            return Err(refuse("the endpoint holds a fragment (#...), which no server would see"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.origin().ascii_serialization(), self.0.path())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_and_queries_kept_but_not_shown() {
        for base in ["https://example.com/v1?key=secret", "https://example.com/v1/?key=secret"] {
            let endpoint: Endpoint = base.parse().unwrap();
            assert_eq!(
                endpoint.join("chat/completions").as_str(),
                "https://example.com/v1/chat/completions?key=secret"
            );
            assert!(!format!("{endpoint} {endpoint:?}").contains("secret"));
        }
        let endpoint: Endpoint = "https://127.0.0.1:8443".parse().unwrap();
        assert_eq!(endpoint.join("models").as_str(), "https://127.0.0.1:8443/models");
        assert_eq!(endpoint.to_string(), "https://127.0.0.1:8443/");
    }

    #[test]
    fn what_is_not_plain_https_is_refused_without_being_quoted() {
        for bad in [
            "http://example.com/v1/secret",
            "https://me:secret@example.com/v1",
            "https://secret@example.com/v1",
            "https://example.com/v1#secret",
            "https://[secret",
            "example.com/secret",
            "",
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{bad}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{bad}: {error:?}");
        }
    }
}
