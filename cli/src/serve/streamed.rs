//! An answer as server-sent events, from the first piece to `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use margay::{Error, Result};

use super::model::{Piece, Pieces, Reply};
use super::routes::{Admitted, Served, headers, note};
use super::wire::Refusal;
use super::wire::answer::Head;

/// A stream with what there is to say of it before it begins. An error that comes before the first piece is a plain one, with
/// a status of its own.
pub(super) async fn respond(
    served: Arc<Served>,
    mut pieces: Pieces,
    head: Head,
    admitted: Admitted,
    settled: bool,
) -> Result<Response, Refusal> {
    let patience = served.options().patience;
    let first = match tokio::time::timeout(patience, pieces.next()).await {
        Err(_) => return Err(late(patience)),
        Ok(Some(Err(error))) => return Err(error.into()),
        Ok(first) => first,
    };
    // A device's answer that was held back is whole by now.
    let second = if settled { pieces.next().now_or_never().flatten() } else { None };
    let mut response = Response::new(Body::empty());
    match (&first, &second) {
        (Some(Ok(Piece::End(reply))), _) | (_, Some(Ok(Piece::End(reply)))) => {
            headers(response.headers_mut(), &reply.account);
        }
        (Some(Ok(Piece::Text { origin, .. })), _) if settled || *origin == "cloud" => {
            response.headers_mut().insert("x-margay-origin", HeaderValue::from_static(origin));
        }
        _ => {}
    }
    let events = Events {
        served,
        ahead: first.into_iter().chain(second).collect(),
        pieces: Some(pieces),
        ready: head.opening().map(frame).into_iter().collect(),
        head,
        _admitted: admitted,
    };
    let body = Body::from_stream(stream::unfold(events, |mut events| async {
        Some((Ok::<_, Infallible>(events.next().await?), events))
    }));
    *response.body_mut() = body;
    let kind = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((StatusCode::OK, kind, response).into_response())
}

pub(super) fn late(patience: Duration) -> Refusal {
    Error::new(margay::ErrorKind::Deadline, format!("no answer within {patience:?}")).into()
}

struct Events {
    served: Arc<Served>,
    /// Pieces that were looked at already.
    ahead: VecDeque<Result<Piece>>,
    /// Dropped with this when the client goes, which ends the work for it.
    pieces: Option<Pieces>,
    ready: VecDeque<Bytes>,
    head: Head,
    _admitted: Admitted,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let piece = match self.ahead.pop_front() {
                Some(piece) => Some(piece),
                None => self.pieces.as_mut()?.next().await,
            };
            match piece {
                Some(Ok(Piece::Text { text, tokens, .. })) => {
                    self.ready.push_back(frame(self.head.more(&text, &tokens)))
                }
                Some(Ok(Piece::Superseded(reason))) => self.ready.push_back(frame(self.head.superseded(reason))),
                Some(Ok(Piece::End(reply))) => self.end(&reply),
                Some(Err(error)) => self.break_off(error.into()),
                None => self.pieces = None,
            }
        }
    }

    fn end(&mut self, reply: &Reply) {
        note(&self.served, &reply.account);
        self.ready.extend(self.head.closing(reply).into_iter().map(frame));
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.pieces = None;
    }

    /// The status is out: the error is an event, and nothing says that the answer is whole.
    fn break_off(&mut self, refusal: Refusal) {
        tracing::info!(status = refusal.status().as_u16(), "an answer broke off");
        self.ready.push_back(frame(refusal.body().to_string().into_bytes()));
        self.pieces = None;
    }
}

/// One event: JSON has no line breaks of its own.
fn frame(json: Vec<u8>) -> Bytes {
    [b"data: ".as_slice(), &json, b"\n\n"].concat().into()
}
