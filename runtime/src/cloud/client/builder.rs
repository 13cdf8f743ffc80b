//! What a client is made of, and what is checked then.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::CloudClient;
use crate::cloud::retry::Retry;
use crate::cloud::tls::{self, Identity, Roots, SpkiPin};
use crate::cloud::{Attestation, Clock, Dialect, Endpoint, Proxy, SystemClock, Token, TokenProvider, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::privacy::{AuditLog, Redactor};

/// What a [`CloudClient`] is made of; see [`CloudClient::openai`] and its siblings.
pub struct CloudClientBuilder {
    pub(super) dialect: Dialect,
    endpoint: Result<Endpoint>,
    pub(super) model: String,
    pub(super) token: Option<Box<dyn TokenProvider>>,
    static_key: bool,
    allow_static_key: bool,
    pub(super) attestation: Option<Box<dyn Attestation>>,
    pub(super) redactor: Option<Arc<dyn Redactor>>,
    pub(super) audit: Option<Arc<dyn AuditLog>>,
    roots: Roots,
    pins: Vec<SpkiPin>,
    identity: Option<Identity>,
    proxy: Option<Proxy>,
    pub(super) retry: Retry,
    pub(super) retry_ratio: f64,
    connect_timeout: Duration,
    pub(super) attempt_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    seed: Option<[u8; 32]>,
}

/// A builder that was found whole, with what it takes to send.
pub(super) struct Parts {
    pub(super) http: reqwest::Client,
    pub(super) endpoint: Endpoint,
    pub(super) seed: [u8; 32],
    pub(super) builder: CloudClientBuilder,
}

impl CloudClientBuilder {
    pub(super) fn new(dialect: Dialect, endpoint: Result<Endpoint>, model: String) -> Self {
        Self {
            dialect,
            endpoint,
            model,
            token: None,
            static_key: false,
            allow_static_key: false,
            attestation: None,
            redactor: None,
            audit: None,
            roots: Roots::default(),
            pins: Vec::new(),
            identity: None,
            proxy: None,
            retry: Retry::default(),
            retry_ratio: 0.2,
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(120),
            clock: Arc::new(SystemClock),
            seed: None,
        }
    }

    /// Sends what this provider gives in the header that the dialect has for it. Without one, no such header is sent.
    #[must_use]
    pub fn token(mut self, provider: impl TokenProvider + 'static) -> Self {
        self.token = Some(Box::new(provider));
        self.static_key = false;
        self
    }

    /// Sends the same key every time, for as long as the process lives. Refused unless
    /// [`CloudClientBuilder::allow_static_key`] says that this is meant: in an app on other people's devices it never is.
    #[must_use]
    pub fn static_key(mut self, key: Token) -> Self {
        let key = Arc::new(key);
        let provider = move |_: Wanted| {
            let key = Arc::clone(&key);
            async move { Ok(key.again()) }
        };
        self.token = Some(Box::new(provider));
        self.static_key = true;
        self
    }

    /// Whether a key that never changes may be used; not unless said.
    #[must_use]
    pub fn allow_static_key(mut self, allow: bool) -> Self {
        self.allow_static_key = allow;
        self
    }

    /// Sends a header by which the server can tell that app and device are genuine, made for every attempt anew.
    #[must_use]
    pub fn attestation(mut self, attestation: impl Attestation + 'static) -> Self {
        self.attestation = Some(Box::new(attestation));
        self
    }

    /// Takes personal data out of every message on its way, and puts it back into the answer. Without one, messages
    /// leave as they are.
    #[must_use]
    pub fn redactor(mut self, redactor: impl Redactor + 'static) -> Self {
        self.redactor = Some(Arc::new(redactor));
        self
    }

    /// Puts every body that leaves on record, before it does.
    #[must_use]
    pub fn audit(mut self, audit: Arc<dyn AuditLog>) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Whose certificates are believed; [`Roots::Bundled`] unless said.
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Self {
        self.roots = roots;
        self
    }

    /// Believes only servers whose own certificate has one of these public keys, on top of what `roots` asks. Give the next
    /// key too, or a change of the server's key shuts the app out.
    #[must_use]
    pub fn pins(mut self, pins: impl IntoIterator<Item = SpkiPin>) -> Self {
        self.pins = pins.into_iter().collect();
        self
    }

    /// Shows this certificate to servers that ask for one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Goes through this proxy; directly unless said, whatever the environment says. TLS is with the server all the same.
    #[must_use]
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// How failed exchanges are repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How many repetitions there may be for each question, over all of this client's; 0.2 unless said, and ten on top. When a
    /// server is down, a fleet that tries everything three times keeps it down.
    #[must_use]
    pub fn retry_ratio(mut self, ratio: f64) -> Self {
        self.retry_ratio = ratio;
        self
    }

    /// Longest wait for a connection, TLS handshake included; 10 seconds unless said.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest wait for one exchange, and in a stream for its beginning and for each next piece; 120 seconds unless said. It
    /// is what ends a request without a deadline.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The clock behind waits, timeouts and deadlines; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes jitter and idempotency keys repeat exactly, for tests. Unless said, the operating system gives the seed.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the endpoint is not plain `https://`, the model has no name, or there is a static key
    /// that was not allowed; [`ErrorKind::Tls`] if the roots are none, or are the platform's and it has none ready.
    pub fn build(mut self) -> Result<CloudClient> {
        let taken = || Err(Error::new(ErrorKind::InvalidRequest, "the client has no endpoint"));
        let endpoint = std::mem::replace(&mut self.endpoint, taken())?;
        let invalid = |why| Error::new(ErrorKind::InvalidRequest, why);
        if self.model.is_empty() {
            return Err(invalid("the large model has no name"));
        }
        if self.static_key && !self.allow_static_key {
            return Err(invalid("a static key is given, and `allow_static_key` does not say that it is meant"));
        }
        if !self.retry_ratio.is_finite() || self.retry_ratio < 0.0 {
            return Err(invalid("the retry ratio is no number from zero up"));
        }
        let failed =
            |error| Error::new(ErrorKind::Tls, "no HTTPS client with this TLS configuration").with_source(error);
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&self.roots, &self.pins, self.identity.as_ref())?)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.connect_timeout);
        if let Some(proxy) = &self.proxy {
            http = http.proxy(proxy.to_reqwest()?);
        }
        let http = http.build().map_err(failed)?;
        let seed = self.seed.map_or_else(tls::random_seed, Ok)?;
        Ok(CloudClient::new(Parts { http, endpoint, seed, builder: self }))
    }
}

impl fmt::Debug for CloudClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudClientBuilder")
            .field("dialect", &self.dialect)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}
