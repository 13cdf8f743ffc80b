//! The way out through somebody else's machine, which sees where the connection goes and nothing of what it carries.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use crate::error::{Error, ErrorKind, Result};

/// An HTTP proxy that tunnels (`CONNECT`), with credentials or not. `Display` and `Debug` hide those.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Url,
    credentials: Option<(String, String)>,
}

impl Proxy {
    /// The same proxy, to which these are shown (RFC 7617).
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    pub(super) fn to_reqwest(&self) -> Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::https(self.url.clone())
            .map_err(|error| Error::new(ErrorKind::InvalidRequest, "the proxy is none").with_source(error))?;
        Ok(match &self.credentials {
            Some((user, password)) => proxy.basic_auth(user, password),
            None => proxy,
        })
    }
}

impl FromStr for Proxy {
    type Err = Error;

    /// `http://host:port`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &'static str| Error::new(ErrorKind::InvalidRequest, why);
        let url = Url::parse(text).map_err(|error| refuse("the proxy is not a URL").with_source(error))?;
        if url.scheme() != "http" {
            return Err(refuse("the proxy does not start with http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("the proxy's address holds credentials; give them apart"));
        }
        Ok(Self { url, credentials: None })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.origin().ascii_serialization())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}
