//! The routes, and who may use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use margay::cloud::LargeModel;
use margay::{Deadline, Error, ErrorKind};

use super::Options;
use super::wire::{self, Completion, Question, Refusal};

/// Largest request that is read, in bytes: more text than any served model's context holds.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

struct Served {
    model: Arc<dyn LargeModel>,
    options: Options,
    since: u64,
    answers: AtomicU64,
}

pub(super) fn router(model: Arc<dyn LargeModel>, options: Options) -> Router {
    let served = Arc::new(Served { model, options, since: wire::unix_time(), answers: AtomicU64::new(0) });
    let guarded = Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&served), authorize));
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .merge(guarded)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such path") })
        .method_not_allowed_fallback(|| async { Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method") })
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(served)
}

async fn complete(State(served): State<Arc<Served>>, body: Result<Bytes, BytesRejection>) -> Result<Response, Refusal> {
    let body = body.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
    let question = Question::read(&body)?;
    let Options { model, patience, .. } = &served.options;
    if question.model != *model {
        let message = format!("the model `{}` is not served here; `{model}` is", question.model);
        return Err(Refusal::new(StatusCode::NOT_FOUND, message).code("model_not_found"));
    }
    let (messages, max_tokens) = question.accept()?;
    let mut request = margay::Request::messages(messages).deadline(Deadline::after(*patience));
    request.max_tokens = max_tokens.unwrap_or(request.max_tokens);
    let late = |_| Error::new(ErrorKind::Deadline, format!("no answer within {patience:?}"));
    let answer = tokio::time::timeout(*patience, served.model.answer(&request)).await.map_err(late)??;
    let number = served.answers.fetch_add(1, Ordering::Relaxed);
    Ok(Json(Completion::new(number, model, answer)).into_response())
}

async fn models(State(served): State<Arc<Served>>) -> impl IntoResponse {
    Json(wire::models(&served.options.model, served.since))
}

async fn authorize(State(served): State<Arc<Served>>, request: Request, next: Next) -> Result<Response, Refusal> {
    if let Some(token) = &served.options.token {
        let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer "));
        if !sent.is_some_and(|sent| same(sent.as_bytes(), token.as_bytes())) {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong");
            return Err(refusal.code("invalid_api_key"));
        }
    }
    Ok(next.run(request).await)
}

/// Whether both are equal, in a time that tells nothing about where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}
