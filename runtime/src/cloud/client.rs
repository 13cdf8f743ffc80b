//! The client of a large model behind HTTPS: one question, one answer, under one deadline.

mod builder;
mod listener;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode, Url};

pub use self::builder::CloudClientBuilder;
use self::builder::Parts;
use self::listener::Listener;
use super::clock::{limited, unix_ms, until};
use super::dialect::{self, Reply};
use super::failure::{self, Failure};
use super::random::Random;
use super::retry::{Retry, RetryBudget, retry_after};
use super::{
    Attestation, BoxFuture, Clock, CloudAnswer, Dialect, Endpoint, LargeModel, OnText, Token, TokenProvider, Wanted,
    sse,
};
use crate::error::{Error, ErrorKind, Result};
use crate::privacy::{AuditLog, Departure, Redacted, Redactor, Vault};
use crate::request::{Deadline, Request};

/// Largest answer that is read, in bytes after decompression: a hundred times the longest a model writes.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Largest stream that is read, in bytes: servers wrap every token in a few hundred.
pub const MAX_STREAM_BYTES: usize = 16 * MAX_RESPONSE_BYTES;

/// Largest explanation that is read from an error answer, in bytes.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// How long the end of a body is waited for after its last event.
const LINGER: Duration = Duration::from_millis(50);

/// The header that lets a server recognise a repeated question, as OpenAI's and Stripe's clients name it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest idempotency key, in bytes: what Stripe and its imitators store.
const MAX_KEY: usize = 255;

/// A large model behind an HTTP API over TLS, in one of three [`Dialect`]s.
///
/// ```no_run
/// use margay::cloud::{CloudClient, Roots, Token, Wanted};
///
/// # fn main() -> margay::Result<()> {
/// let cloud = CloudClient::openai("https://api.example.com/v1", "large-model")
///     .roots(Roots::Bundled)
///     .token(|_: Wanted| async { Ok(Token::new(std::env::var("CLOUD_TOKEN")?)) })
///     .build()?;
/// # Ok(()) }
/// ```
///
/// Connections are kept and reused, redirects are not followed, environment variables are not read, and no
/// switch turns certificate verification off. One question keeps one idempotency key through all its attempts.
pub struct CloudClient {
    http: reqwest::Client,
    dialect: Dialect,
    endpoint: Endpoint,
    model: String,
    token: Option<Box<dyn TokenProvider>>,
    attestation: Option<Box<dyn Attestation>>,
    redactor: Option<Arc<dyn Redactor>>,
    audit: Option<Arc<dyn AuditLog>>,
    retry: Retry,
    retry_budget: RetryBudget,
    attempt_timeout: Duration,
    clock: Arc<dyn Clock>,
    random: Random,
}

impl CloudClient {
    /// Begins with the base address (`https://.../v1`) of a server that speaks OpenAI's API, and the model's name there.
    #[must_use]
    pub fn openai(endpoint: impl Into<String>, model: impl Into<String>) -> CloudClientBuilder {
        Self::builder(Dialect::OpenAi, endpoint, model)
    }

    /// Begins with the base address of a server that speaks Anthropic's API (theirs is `https://api.anthropic.com/v1`).
    #[must_use]
    pub fn anthropic(endpoint: impl Into<String>, model: impl Into<String>) -> CloudClientBuilder {
        Self::builder(Dialect::Anthropic, endpoint, model)
    }

    /// Begins with the base address of a server that speaks Gemini's API (theirs is
    /// `https://generativelanguage.googleapis.com/v1beta`).
    #[must_use]
    pub fn gemini(endpoint: impl Into<String>, model: impl Into<String>) -> CloudClientBuilder {
        Self::builder(Dialect::Gemini, endpoint, model)
    }

    /// Begins with a dialect, the server's base address and the model's name there.
    #[must_use]
    pub fn builder(dialect: Dialect, endpoint: impl Into<String>, model: impl Into<String>) -> CloudClientBuilder {
        CloudClientBuilder::new(dialect, endpoint.into().parse(), model.into())
    }

    /// Begins with a dialect, the server's base address, which was parsed already, and the model's name there.
    #[must_use]
    pub fn at(dialect: Dialect, endpoint: Endpoint, model: impl Into<String>) -> CloudClientBuilder {
        CloudClientBuilder::new(dialect, Ok(endpoint), model.into())
    }

    /// The server's base address.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn new(parts: Parts) -> Self {
        let Parts { http, endpoint, seed, builder } = parts;
        Self {
            http,
            dialect: builder.dialect,
            endpoint,
            model: builder.model,
            token: builder.token,
            attestation: builder.attestation,
            redactor: builder.redactor,
            audit: builder.audit,
            retry: builder.retry,
            retry_budget: RetryBudget::new(builder.retry_ratio),
            attempt_timeout: builder.attempt_timeout,
            clock: builder.clock,
            random: Random::new(seed),
        }
    }

    /// The whole of one question, as it leaves and as it is answered.
    async fn ask(&self, request: &Request, on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        request.check()?;
        let Redacted { request, vault } = Redacted::new(self.redactor.as_deref(), request);
        let question = self.question(&request, &vault, on_text.is_some())?;
        let mut listener = on_text.map(|on_text| Listener::new(&vault, on_text));
        let conversing = self.converse(request.deadline, &question, listener.as_mut());
        let outcome = limited(&*self.clock, &request, conversing).await;
        let mut answer = match (outcome, &listener) {
            (Err(error), Some(listener)) if listener.has_spoken() => {
                return Err(error.with_partial_text(listener.said()));
            }
            (outcome, _) => outcome?,
        };
        answer.text = vault.restore(&answer.text);
        for call in &mut answer.tool_calls {
            call.arguments = vault.restore_json(&call.arguments);
        }
        Ok(answer)
    }

    fn question(&self, request: &Request, vault: &Vault, streamed: bool) -> Result<Question> {
        let key = request.idempotency_key.clone().unwrap_or_else(|| self.random.key());
        let fits = key.is_ascii() && !key.is_empty() && key.len() <= MAX_KEY;
        let header = HeaderValue::try_from(&key).ok().filter(|_| fits);
        let header = header.ok_or_else(|| {
            let message = format!("the idempotency key is not 1 to {MAX_KEY} printable ASCII characters");
            Error::new(ErrorKind::InvalidRequest, message)
        })?;
        let body = self.dialect.encode(&self.model, request, streamed)?;
        let url = self.dialect.url(&self.endpoint, &self.model, streamed);
        let said = request.messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n");
        Ok(Question { url, body, said, key, header, redactions: vault.counts().clone() })
    }

    /// Attempts until one succeeds, is not worth repeating, or the next would begin after the deadline.
    async fn converse(
        &self,
        deadline: Deadline,
        question: &Question,
        mut listener: Option<&mut Listener<'_>>,
    ) -> Result<CloudAnswer> {
        let (mut exchanges, mut failed, mut free) = (0, 0, true);
        let (mut wanted, mut renewed) = (Wanted::Current, false);
        self.retry_budget.deposit();
        loop {
            exchanges += 1;
            let failure = match self.exchange(question, wanted, listener.as_deref_mut()).await {
                Ok(answer) => {
                    return Ok(CloudAnswer { attempts: exchanges, ..answer });
                }
                Err(failure) => failure,
            };
            free &= failure.error.is_free_of_charge();
            if listener.as_ref().is_some_and(|listener| listener.has_spoken()) {
                return Err(failure.error);
            }
            if failure.token_refused && !renewed && self.token.is_some() {
                (wanted, renewed) = (Wanted::Renewed, true);
                continue;
            }
            (wanted, failed) = (Wanted::Current, failed + 1);
            let resume = self.resume(failed, &failure);
            let resume = resume.filter(|resume| deadline.instant().is_none_or(|end| *resume < end));
            match resume.filter(|_| self.retry_budget.withdraw()) {
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

    async fn exchange(
        &self,
        question: &Question,
        wanted: Wanted,
        listener: Option<&mut Listener<'_>>,
    ) -> Result<CloudAnswer, Failure> {
        match listener {
            None => {
                let whole = async {
                    let response = self.send(question, wanted).await?;
                    Ok(self.dialect.decode(&self.read(response).await?)?)
                };
                self.patient(whole).await
            }
            Some(listener) => {
                let response = self.patient(self.send(question, wanted)).await?;
                if is_event_stream(&response) {
                    return self.listen(response, listener).await;
                }
                let whole = async { Ok(self.dialect.decode(&self.read(response).await?)?) };
                let answer = self.patient(whole).await?;
                listener.hear(&answer.text);
                listener.end();
                Ok(answer)
            }
        }
    }

    /// `work`, given up on when the server stays silent.
    async fn patient<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let patience = self.clock.now().checked_add(self.attempt_timeout);
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = until(&*self.clock, patience) => Err(Error::new(
                ErrorKind::Server,
                format!("{} has been silent for {:?}", self.endpoint, self.attempt_timeout),
            ).into()),
        }
    }

    /// The headers of a 200.
    async fn send(&self, question: &Question, wanted: Wanted) -> Result<Response, Failure> {
        let token = self.ask_token(wanted).await?;
        let mut post = self
            .http
            .post(question.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(IDEMPOTENCY_KEY, question.header.clone())
            .body(question.body.clone());
        for (name, value) in self.dialect.headers() {
            post = post.header(*name, *value);
        }
        if let Some(token) = &token {
            let (name, before) = self.dialect.token_header();
            post = post.header(name, token.header(before)?);
        }
        if let Some(attestation) = &self.attestation {
            let digest = crate::bundle::digest::sha256_hexadecimal(&question.body);
            let header = attestation.header(digest).await.map_err(|error| {
                Error::new(ErrorKind::Unauthorized, "the attestation hook gave no header").with_source(error)
            })?;
            post = post.header(header.name()?, header.value()?);
        }
        self.put_on_record(question).await?;
        let response = post.send().await.map_err(|error| failure::before_answer(error, &self.endpoint))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(self.refused(response, token.as_ref(), question).await),
        }
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
                return Err(self.too_large(MAX_RESPONSE_BYTES));
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// A streamed body, handed out as it comes. The server may be silent for as long as one exchange may take, each time.
    async fn listen(&self, mut response: Response, listener: &mut Listener<'_>) -> Result<CloudAnswer, Failure> {
        let (mut parser, mut reply) = (sse::Parser::default(), Reply::default());
        let mut received = 0;
        while !reply.over {
            let chunk = self.patient(async {
                let chunk = response.chunk().await;
                Ok(chunk.map_err(|error| failure::within_answer(error, &self.endpoint, received))?)
            });
            let chunk = match chunk.await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // All of the answer is there; only counts may be missing.
                Err(_) if reply.complete => break,
                Err(failure) => return Err(failure),
            };
            received += chunk.len();
            if received > MAX_STREAM_BYTES {
                return Err(self.too_large(MAX_STREAM_BYTES).into());
            }
            for event in parser.feed(&chunk)? {
                let said = reply.text.len();
                self.dialect.absorb(&event, &mut reply)?;
                if reply.text.len() > MAX_RESPONSE_BYTES {
                    return Err(self.too_large(MAX_RESPONSE_BYTES).into());
                }
                listener.hear(reply.text.get(said..).unwrap_or_default());
            }
        }
        if !reply.complete {
            let message = format!("the answer of {} ends after {received} bytes, before it is complete", self.endpoint);
            return Err(Error::new(ErrorKind::Truncated, message).into());
        }
        listener.end();
        if reply.over {
            self.linger(response).await;
        }
        Ok(reply.into_answer())
    }

    /// Reads what the body still holds after its last event: then the connection can be used again.
    async fn linger(&self, mut response: Response) {
        let end = async { while let Ok(Some(_)) = response.chunk().await {} };
        tokio::select! {
            biased;
            () = end => {}
            () = until(&*self.clock, self.clock.now().checked_add(LINGER)) => {}
        }
    }

    fn too_large(&self, cap: usize) -> Error {
        Error::new(ErrorKind::Malformed, format!("the answer of {} is over {cap} bytes", self.endpoint))
    }

    /// What an answer other than 200 means; as much of its explanation as is there and bearable.
    async fn refused(&self, mut response: Response, token: Option<&Token>, question: &Question) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_REFUSAL_BYTES {
                break;
            }
        }
        let said = dialect::refusal(&body).map(|said| dialect::unquoted(&said, &question.said));
        let said = said.map(|said| token.map_or_else(|| said.clone(), |token| token.redact(&said)));
        Failure {
            error: failure::refused(status, &self.endpoint, said.as_deref()),
            retry_after,
            token_refused: status == StatusCode::UNAUTHORIZED,
        }
    }
}

/// Whether a server asked for a stream gives one. Some answer whole whatever they are asked for.
fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("text/event-stream"))
}

impl LargeModel for CloudClient {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, None))
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.ask(request, Some(on_text)))
    }
}

impl fmt::Debug for CloudClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudClient")
            .field("dialect", &self.dialect)
            .field("endpoint", &self.endpoint)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// What every attempt sends, byte for byte.
struct Question {
    url: Url,
    body: Vec<u8>,
    /// The texts in the body: what a server may quote in its complaints, and we must not.
    said: String,
    key: String,
    header: HeaderValue,
    redactions: BTreeMap<String, u64>,
}
