//! Reading a body: so much, so long, and no more.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::StreamExt as _;

use super::wire::Refusal;

/// Largest request that is read, in bytes: more text than any served model's context holds.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Longest wait for a whole body.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much more of a body that is too large is read and thrown away: a client that is cut off while it sends sees a broken
/// connection instead of the refusal.
const MAX_THROWN_AWAY: usize = 256 << 20;

/// # Errors
/// [`Refusal`] for a body that is too large, too slow or cut.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    let slow = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, whole(body)).await.map_err(slow)?
}

async fn whole(body: Body) -> Result<Bytes, Refusal> {
    let mut pieces = body.into_data_stream();
    let (mut kept, mut length) = (Vec::new(), 0_usize);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Refusal::invalid(format!("the body broke off: {error}")))?;
        length += piece.len();
        if length <= MAX_REQUEST_BYTES {
            kept.extend_from_slice(&piece);
        } else if length > MAX_THROWN_AWAY {
            break;
        } else {
            kept = Vec::new();
        }
    }
    if length > MAX_REQUEST_BYTES {
        let message = format!("the body has more than {MAX_REQUEST_BYTES} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(kept.into())
}
