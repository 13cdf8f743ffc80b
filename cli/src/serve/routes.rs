//! The paths, and what each does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use margay::{Deadline, Tokens};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::guard::guard;
use super::model::{Account, Model, Question, Reply, TokenText};
use super::status::Status;
use super::wire::answer::{Head, Kind};
use super::wire::chat::ChatQuestion;
use super::wire::text::{TextAsked, TextQuestion};
use super::wire::{self, Form, Refusal};
use super::{Options, body, metrics, streamed};

/// Paths that are counted under their own names.
const PATHS: [&str; 7] =
    ["/", "/status", "/healthz", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions"];

/// What all requests share.
pub(super) struct Served {
    model: Model,
    options: Options,
    since: u64,
    answers: AtomicU64,
    admission: Arc<Semaphore>,
    status: Status,
}

/// The right to be answered, given back when the answer is out.
pub(super) struct Admitted(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

pub(super) fn router(model: Model, options: Options) -> Router {
    let served = Arc::new(Served {
        since: wire::unix_time(),
        answers: AtomicU64::new(0),
        admission: Arc::new(Semaphore::new(options.most_at_once)),
        status: Status::default(),
        model,
        options,
    });
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(one_model))
        .route("/metrics", get(numbers))
        .route("/status", get(status))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&served), guard));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok" }))
        .merge(guarded)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such path") })
        .method_not_allowed_fallback(|| async { Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method") })
        .layer(middleware::from_fn(logged))
        .with_state(served)
}

impl Served {
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    fn admit(&self) -> Result<Admitted, Refusal> {
        let most = self.options.most_at_once;
        let permit = Arc::clone(&self.admission).try_acquire_owned().map_err(|_| Refusal::busy(most))?;
        metrics::in_flight(self.in_flight());
        Ok(Admitted(permit))
    }

    fn in_flight(&self) -> usize {
        self.options.most_at_once - self.admission.available_permits()
    }

    fn head(&self, kind: Kind, form: Form) -> Head {
        Head::new(kind, self.answers.fetch_add(1, Ordering::Relaxed), &self.options.model, form)
    }

    fn check_model(&self, asked: &str) -> Result<(), Refusal> {
        let served = &self.options.model;
        if asked == served {
            return Ok(());
        }
        let message = format!("the model `{asked}` is not served here; `{served}` is");
        Err(Refusal::new(StatusCode::NOT_FOUND, message).code("model_not_found"))
    }

    /// The question with the server's own deadline, unless it brings an earlier one.
    fn limit(&self, mut question: Question) -> Question {
        let ours = Deadline::after(self.options.patience);
        let theirs = question.request.deadline;
        let earlier = theirs.instant().zip(ours.instant()).is_some_and(|(theirs, ours)| theirs < ours);
        question.request.deadline = if earlier { theirs } else { ours };
        question
    }

    async fn answer(&self, model: &Model, question: Question) -> Result<Reply, Refusal> {
        let patience = self.options.patience;
        tokio::time::timeout(patience, model.answer(question)).await.map_err(|_| streamed::late(patience))?
    }
}

async fn chat(State(served): State<Arc<Served>>, request: Request) -> Result<Response, Refusal> {
    let admitted = served.admit()?;
    let body = body::read(request.into_body()).await?;
    let question = ChatQuestion::read(&body)?;
    served.check_model(&question.model)?;
    let (question, form) = question.accept(served.options.max_tokens)?;
    let (question, mut head) = (served.limit(question), served.head(Kind::Chat, form));
    if form.streamed {
        let settled = question.mode == margay::Stream::Hold;
        let pieces = served.model.stream(question)?;
        return streamed::respond(served, pieces, head, admitted, settled).await;
    }
    let reply = served.answer(&served.model, question).await?;
    note(&served, &reply.account);
    Ok(whole(&mut head, &reply))
}

async fn text(State(served): State<Arc<Served>>, request: Request) -> Result<Response, Refusal> {
    let admitted = served.admit()?;
    let body = body::read(request.into_body()).await?;
    let question = TextQuestion::read(&body)?;
    served.check_model(&question.model)?;
    let TextAsked { question, form, prompt, echo, goes_on } = question.accept()?;
    let device = served.model.on_device().ok_or_else(|| {
        Refusal::invalid("only a small model goes on with a raw text, and there is none here; use /v1/chat/completions")
    })?;
    let (question, mut head) = (served.limit(question), served.head(Kind::Text, form));
    if form.streamed {
        return streamed::respond(served, device.stream(question)?, head, admitted, true).await;
    }
    let log_probabilities = question.log_probabilities;
    let mut reply = if goes_on { served.answer(&device, question).await? } else { Reply::empty() };
    if echo {
        let known = log_probabilities || !goes_on;
        let tokens = if known { prompt_tokens(&device, prompt.clone()).await? } else { Vec::new() };
        if !goes_on {
            reply.used = Some(Tokens { input: tokens.len() as u64, output: 0 });
        }
        reply.text.insert_str(0, &prompt);
        reply.tokens = Some(tokens.into_iter().chain(reply.tokens.take().unwrap_or_default()).collect());
    }
    note(&served, &reply.account);
    Ok(whole(&mut head, &reply))
}

/// How likely the device finds each token of a text, but the first.
async fn prompt_tokens(device: &Model, prompt: String) -> Result<Vec<TokenText>, Refusal> {
    let Some(engine) = device.engine().cloned() else { return Ok(Vec::new()) };
    let scored = tokio::task::spawn_blocking(move || {
        let ids = engine.encode(&prompt)?;
        let scores = engine.log_probabilities(&ids)?;
        let scores = std::iter::once(f32::NAN).chain(scores);
        let named = ids.iter().zip(scores).map(|(id, log_probability)| {
            Ok(TokenText { text: engine.token_text(*id)?, log_probability, alternatives: Vec::new() })
        });
        named.collect::<margay::Result<Vec<_>>>()
    });
    let broken = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "scoring the prompt broke off");
    Ok(scored.await.map_err(broken)??)
}

fn whole(head: &mut Head, reply: &Reply) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "application/json")], head.whole(reply)).into_response();
    headers(response.headers_mut(), &reply.account);
    response
}

/// The account's four facts, for those who do not read bodies.
pub(super) fn headers(headers: &mut HeaderMap, account: &Account) {
    let number = |number: Option<f32>| number.map(|number| number.to_string());
    for (name, value) in [
        ("x-margay-origin", Some(account.origin.to_owned())),
        ("x-margay-score", number(account.score)),
        ("x-margay-threshold", number(account.threshold)),
        ("x-margay-reason", account.reason.map(str::to_owned)),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
}

/// Remembers how an answer came about, never what it says.
pub(super) fn note(served: &Served, account: &Account) {
    served.status.note(account);
    let Account { origin, score, threshold, reason, .. } = account;
    tracing::info!(target: "margay::answers", origin, score, threshold, reason, seconds = account.seconds.total, "answered");
}

async fn models(State(served): State<Arc<Served>>) -> impl IntoResponse {
    Json(wire::models(&served.options.model, served.since))
}

async fn one_model(State(served): State<Arc<Served>>, Path(name): Path<String>) -> Result<impl IntoResponse, Refusal> {
    served.check_model(&name)?;
    Ok(Json(wire::model(&name, served.since)))
}

async fn numbers(State(served): State<Arc<Served>>) -> Result<impl IntoResponse, Refusal> {
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "nothing is counted here");
    let handle = served.options.metrics.clone().ok_or_else(missing)?;
    metrics::in_flight(served.in_flight());
    handle.run_upkeep();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()))
}

async fn status(State(served): State<Arc<Served>>) -> Result<impl IntoResponse, Refusal> {
    let waiting = served.model.engine().map(|engine| engine.waiting());
    let mut report = served.status.report(&served.options.model, served.since, served.in_flight(), waiting);
    if let Some(budget) = served.model.account().cloned() {
        report.cost_today = Some(super::status::cost_today(budget).await?);
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(report)))
}

async fn page() -> impl IntoResponse {
    // Everything is in the page: nothing is fetched from anywhere else, and nobody may put it in a frame.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(super::status::PAGE))
}

/// Writes a line for every request: what was asked of which path, never what was said.
async fn logged(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.uri().path();
    let counted = PATHS.into_iter().find(|known| *known == path).unwrap_or("other");
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics::answered(counted, status, started);
    let took: Duration = started.elapsed();
    tracing::info!(target: "margay::access", %method, path = counted, status, ?took, "request");
    response
}
