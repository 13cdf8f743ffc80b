//! The client of an OpenAI-compatible server: one question, one answer, under one deadline.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode, Url};

use super::clock::{limited, unix_ms, until};
use super::failure::{self, Failure};
use super::random::Random;
use super::retry::{Retry, retry_after};
use super::{
    BoxFuture, Clock, CloudAnswer, Endpoint, LargeModel, Roots, SystemClock, Token, TokenProvider, Wanted, tls, wire,
};
use crate::error::{Error, ErrorKind, Result};
use crate::privacy::{AuditLog, Departure, Redacted, Redactor};
use crate::request::{Deadline, Request};

/// Largest answer that is read, in bytes after decompression: a hundred times the longest a model writes.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Largest explanation that is read from an error answer, in bytes.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// The header that lets a server recognise a repeated question, as OpenAI's and Stripe's clients name it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest idempotency key, in bytes: what Stripe and its imitators store.
const MAX_KEY: usize = 255;

/// A large model behind `POST {endpoint}/chat/completions`.
///
/// ```no_run
/// use margay::cloud::{OpenAiClient, Roots, Token, Wanted};
///
/// # fn main() -> margay::Result<()> {
/// let cloud = OpenAiClient::builder("https://api.example.com/v1", "large-model")
///     .roots(Roots::Bundled)
///     .token(|_: Wanted| async { Ok(Token::new(std::env::var("CLOUD_TOKEN")?)) })
///     .build()?;
/// # Ok(()) }
/// ```
///
/// Connections are kept and reused, redirects are not followed, environment variables are not read, and no
/// switch turns certificate verification off. One question keeps one idempotency key through all its attempts.
pub struct OpenAiClient {
    http: reqwest::Client,
    endpoint: Endpoint,
    url: Url,
    model: String,
    token: Option<Box<dyn TokenProvider>>,
    redactor: Option<Box<dyn Redactor>>,
    audit: Option<Arc<dyn AuditLog>>,
    retry: Retry,
    attempt_timeout: Duration,
    clock: Arc<dyn Clock>,
    random: Random,
}

impl OpenAiClient {
    /// Begins with the server's base address (`https://.../v1`) and the model's name there.
    #[must_use]
    pub fn builder(endpoint: impl Into<String>, model: impl Into<String>) -> OpenAiClientBuilder {
        OpenAiClientBuilder {
            endpoint: endpoint.into(),
            model: model.into(),
            token: None,
            redactor: None,
            audit: None,
            roots: Roots::default(),
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(120),
            clock: Arc::new(SystemClock),
            seed: None,
        }
    }

    /// The server's base address.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Attempts until one succeeds, is not worth repeating, or the next would begin after the deadline.
    async fn converse(&self, deadline: Deadline, question: Question) -> Result<CloudAnswer> {
        let (mut exchanges, mut failed, mut free) = (0, 0, true);
        let (mut wanted, mut renewed) = (Wanted::Current, false);
        loop {
            exchanges += 1;
            let failure = match self.attempt(&question, wanted).await {
                Ok(answer) => {
                    return Ok(CloudAnswer { attempts: exchanges, ..answer });
                }
                Err(failure) => failure,
            };
            free &= failure.error.is_free_of_charge();
            if failure.token_refused && !renewed && self.token.is_some() {
                (wanted, renewed) = (Wanted::Renewed, true);
                continue;
            }
            (wanted, failed) = (Wanted::Current, failed + 1);
            let resume = self.resume(failed, &failure);
            match resume.filter(|resume| deadline.instant().is_none_or(|end| *resume < end)) {
                Some(resume) => self.clock.sleep_until(resume).await,
                None => return Err(failure.error.free_of_charge(free)),
            }
        }
    }

    /// When the next attempt may begin, if there is to be one.
    fn resume(&self, failed: u32, failure: &Failure) -> Option<Instant> {
        if !failure.error.is_transient() {
            return None;
        }
        let wait = self.retry.wait(failed, failure.retry_after, self.random.unit())?;
        self.clock.now().checked_add(wait)
    }

    /// One exchange, which gives up on a server that stays silent.
    async fn attempt(&self, question: &Question, wanted: Wanted) -> Result<CloudAnswer, Failure> {
        let patience = self.clock.now().checked_add(self.attempt_timeout);
        tokio::select! {
            biased;
            outcome = self.exchange(question, wanted) => outcome,
            () = until(&*self.clock, patience) => Err(Error::new(
                ErrorKind::Server,
                format!("{} has not answered within {:?}", self.endpoint, self.attempt_timeout),
            ).into()),
        }
    }

    async fn exchange(&self, question: &Question, wanted: Wanted) -> Result<CloudAnswer, Failure> {
        let token = self.ask_token(wanted).await?;
        self.put_on_record(question).await?;
        let mut post = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(IDEMPOTENCY_KEY, question.header.clone())
            .body(question.body.clone());
        if let Some(token) = &token {
            post = post.header(AUTHORIZATION, token.header()?);
        }
        let response = post.send().await.map_err(|error| failure::before_answer(error, &self.endpoint))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, token.as_ref()).await);
        }
        Ok(wire::decode(&self.read(response).await?)?)
    }

    /// Writes the departure down, if that is asked for, before there is one.
    async fn put_on_record(&self, question: &Question) -> Result<()> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let (audit, redactions) = (Arc::clone(audit), question.redactions.clone());
        let (endpoint, key) = (self.endpoint.to_string(), question.key.clone());
        let departure = Departure::new(unix_ms(&*self.clock), endpoint, key, &question.body, redactions);
        let recorded = tokio::task::spawn_blocking(move || audit.record(&departure)).await;
        recorded.map_err(|error| Error::new(ErrorKind::Io, "the audit log broke off").with_source(error))?
    }

    async fn ask_token(&self, wanted: Wanted) -> Result<Option<Token>> {
        let Some(provider) = &self.token else {
            return Ok(None);
        };
        let token = provider.token(wanted).await.map_err(|error: Box<dyn StdError + Send + Sync>| {
            Error::new(ErrorKind::Unauthorized, "the token provider gave no token").with_source(error)
        })?;
        Ok(Some(token))
    }

    /// The whole body, refused as soon as it is too large.
    async fn read(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|error| failure::within_answer(error, &self.endpoint, body.len()))?;
            let Some(chunk) = chunk else { return Ok(body) };
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                let message = format!("the answer of {} is over {MAX_RESPONSE_BYTES} bytes", self.endpoint);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// What an answer other than 200 means; as much of its explanation as is there and bearable.
    async fn refused(&self, mut response: Response, token: Option<&Token>) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_REFUSAL_BYTES {
                break;
            }
        }
        let said = wire::refusal(&body);
        let said = said.map(|said| token.map_or_else(|| said.clone(), |token| token.redact(&said)));
        Failure {
            error: failure::refused(status, &self.endpoint, said.as_deref()),
            retry_after,
            token_refused: status == StatusCode::UNAUTHORIZED,
        }
    }
}

impl LargeModel for OpenAiClient {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async move {
            request.check()?;
            let Redacted { request, vault } = Redacted::new(self.redactor.as_deref(), request);
            let key = request.idempotency_key.clone().unwrap_or_else(|| self.random.key());
            let question = Question::new(wire::encode(&self.model, &request)?, key, vault.counts().clone())?;
            let mut answer = limited(&*self.clock, &request, self.converse(request.deadline, question)).await?;
            answer.text = vault.restore(&answer.text);
            Ok(answer)
        })
    }
}

impl fmt::Debug for OpenAiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiClient")
            .field("endpoint", &self.endpoint)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// What every attempt sends, byte for byte.
struct Question {
    body: Vec<u8>,
    key: String,
    header: HeaderValue,
    redactions: BTreeMap<String, u64>,
}

impl Question {
    fn new(body: Vec<u8>, key: String, redactions: BTreeMap<String, u64>) -> Result<Self> {
        let header = HeaderValue::try_from(&key).ok().filter(|_| !key.is_empty() && key.len() <= MAX_KEY);
        let header = header.ok_or_else(|| {
            let message = format!("the idempotency key is not 1 to {MAX_KEY} printable ASCII characters");
            Error::new(ErrorKind::InvalidRequest, message)
        })?;
        Ok(Self { body, key, header, redactions })
    }
}

/// What an [`OpenAiClient`] is made of; see [`OpenAiClient::builder`].
pub struct OpenAiClientBuilder {
    endpoint: String,
    model: String,
    token: Option<Box<dyn TokenProvider>>,
    redactor: Option<Box<dyn Redactor>>,
    audit: Option<Arc<dyn AuditLog>>,
    roots: Roots,
    retry: Retry,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    clock: Arc<dyn Clock>,
    seed: Option<[u8; 32]>,
}

impl OpenAiClientBuilder {
    /// Sends `Authorization: Bearer` with what this provider gives. Without one, no such header is sent.
    #[must_use]
    pub fn token(mut self, provider: impl TokenProvider + 'static) -> Self {
        self.token = Some(Box::new(provider));
        self
    }

    /// Takes personal data out of every message on its way, and puts it back into the answer. Without one, messages
    /// leave as they are.
    #[must_use]
    pub fn redactor(mut self, redactor: impl Redactor + 'static) -> Self {
        self.redactor = Some(Box::new(redactor));
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

    /// How failed exchanges are repeated.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Longest wait for a connection, TLS handshake included; 10 seconds unless said.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest wait for one exchange; 120 seconds unless said. It is what ends a request without a deadline.
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
    /// [`ErrorKind::InvalidRequest`] if the endpoint is not plain `https://`, [`ErrorKind::Tls`] if the roots are none.
    pub fn build(self) -> Result<OpenAiClient> {
        let endpoint: Endpoint = self.endpoint.parse()?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&self.roots)?)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.connect_timeout)
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Tls, "no HTTPS client with this TLS configuration").with_source(error)
            })?;
        let seed = self.seed.map_or_else(tls::random_seed, Ok)?;
        Ok(OpenAiClient {
            http,
            url: endpoint.join("chat/completions"),
            endpoint,
            model: self.model,
            token: self.token,
            redactor: self.redactor,
            audit: self.audit,
            retry: self.retry,
            attempt_timeout: self.attempt_timeout,
            clock: self.clock,
            random: Random::new(seed),
        })
    }
}

impl fmt::Debug for OpenAiClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiClientBuilder").field("model", &self.model).finish_non_exhaustive()
    }
}
