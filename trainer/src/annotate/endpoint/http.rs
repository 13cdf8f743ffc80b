//! JSON over HTTP with retries. TLS by rustls with Mozilla's roots; plain HTTP only where it stays on this machine.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, Url};
use rustls::ClientConfig;
use rustls::crypto::ring;
use serde_json::Value;

use super::EndpointOptions;
use crate::error::{Error, ErrorKind, Result};

/// How often and how patiently a failed exchange is repeated: exponential, from `base` up to `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Exchanges at most, the first included.
    pub attempts: u32,
    /// The first wait.
    pub base: Duration,
    /// The longest wait; a server that asks for more is waited for this long.
    pub cap: Duration,
}

impl Default for Retry {
    /// Six attempts, waits from half a second to half a minute.
    fn default() -> Self {
        Self { attempts: 6, base: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
}

/// A client of one server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    base: Url,
    key: Option<String>,
    retry: Retry,
}

/// Largest answer read, in bytes: a prompt's log-probabilities are long, but not endless.
const MAX_ANSWER: usize = 64 << 20;

impl Http {
    pub(super) fn new(options: &EndpointOptions) -> Result<Self> {
        let refuse = |what: &str| Error::new(ErrorKind::Config, format!("--endpoint: {what}"));
        let mut base: Url = options.url.parse().map_err(|e| refuse(&format!("is not an address: {e}")))?;
        let local = match base.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if base.scheme() != "https" && !(base.scheme() == "http" && local) {
            return Err(refuse("must be https, or http on this machine"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| refuse(&format!("no TLS: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(options.timeout)
            .build()
            .map_err(|e| refuse(&format!("no client: {e}")))?;
        Ok(Self { client, base, key: options.key.clone(), retry: options.retry })
    }

    /// `path` below the address, or below the server's root if it begins with a slash.
    fn url(&self, path: &str) -> Result<Url> {
        self.base.join(path).map_err(|e| Error::new(ErrorKind::Config, format!("--endpoint: {e}")))
    }

    /// Whether a GET succeeds, at the first attempt.
    pub(super) async fn probe(&self, path: &str) -> Option<Value> {
        let request = self.authorised(self.client.get(self.url(path).ok()?));
        let answer = request.send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// Posts JSON and reads JSON, again where that may help.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = self.url(path)?;
        let bytes = body.to_string();
        let mut attempt = 1;
        loop {
            let failed = match self.once(&url, &bytes).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            if !failed.again || attempt >= self.retry.attempts {
                let message = format!("{url}: {} (attempt {attempt})", failed.what);
                return Err(Error::new(ErrorKind::Endpoint, message));
            }
            let doubled = self.retry.base.saturating_mul(1_u32 << (attempt - 1).min(16));
            let wait = failed.wait.unwrap_or(doubled).min(self.retry.cap);
            tracing::info!(%url, attempt, ?wait, why = failed.what, "asking again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn once(&self, url: &Url, body: &str) -> Result<Value, Failed> {
        let request = self.client.post(url.clone()).header("content-type", "application/json").body(body.to_owned());
        let sent = self.authorised(request).send().await;
        let mut answer = sent.map_err(|e| Failed { what: causes(&e), again: true, wait: None })?;
        let status = answer.status();
        let wait = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|e| Failed { what: causes(&e), again: true, wait: None })? {
            bytes.extend_from_slice(&part);
            if bytes.len() > MAX_ANSWER {
                let what = format!("the answer is over {MAX_ANSWER} bytes");
                return Err(Failed { what, again: false, wait: None });
            }
        }
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&bytes).chars().take(300).collect();
            let again = status.is_server_error()
                || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
            return Err(Failed { what: format!("{status}: {said}"), again, wait: wait.map(Duration::from_secs) });
        }
        let malformed = |e| Failed { what: format!("the answer is not JSON: {e}"), again: false, wait: None };
        serde_json::from_slice(&bytes).map_err(malformed)
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// One exchange that did not succeed.
struct Failed {
    what: String,
    again: bool,
    wait: Option<Duration>,
}

/// An error with its causes, which is where reqwest puts what happened.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
