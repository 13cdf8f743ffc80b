//! The large model behind HTTPS: one trait, one client, and what both need to fail in an orderly way.
//!
//! Nothing here knows the device or the verdict: [`crate::Cascade`] decides whether to ask, this module asks.
//! Every exchange ends by the request's [`crate::Deadline`] or its [`crate::Cancel`], retries included.

mod attestation;
mod cache;
mod client;
mod clock;
mod connectivity;
mod dialect;
mod failover;
mod failure;
mod proxy;
mod random;
mod retry;
pub mod sse;
mod tls;
mod token;
mod url;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::answer::{Money, Tokens};
use crate::error::Result;
use crate::request::Request;
use crate::tool::ToolCall;

pub use self::attestation::{Attestation, AttestationHeader};
pub use self::cache::Cached;
pub use self::client::{CloudClient, CloudClientBuilder, MAX_RESPONSE_BYTES, MAX_STREAM_BYTES};
pub(crate) use self::clock::limited;
pub use self::clock::{Clock, SystemClock};
pub use self::connectivity::{Connectivity, Probe};
pub use self::dialect::Dialect;
pub use self::failover::{Failover, Hedged};
pub use self::proxy::Proxy;
pub use self::retry::Retry;
pub use self::tls::{Identity, Roots, SpkiPin};
pub use self::token::{Token, TokenProvider, Wanted};
pub use self::url::Endpoint;
#[cfg(feature = "stores")]
pub(crate) use self::{clock::unix_ms, clock::until, random::Random, tls::random_seed};

/// A boxed future: what an async method of a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A model too large for the device, wherever it runs.
///
/// It takes a bare [`Request`]. A request that must stay on the device has another type, and this does not compile:
///
/// ```compile_fail,E0308
/// async fn leak(cloud: &dyn margay::cloud::LargeModel, private: margay::LocalOnly<margay::Request>) {
///     let _ = cloud.answer(&private).await;
/// }
/// ```
///
/// while the same lines with a bare request do:
///
/// ```
/// async fn ask(cloud: &dyn margay::cloud::LargeModel, open: margay::Request) {
///     let _ = cloud.answer(&open).await;
/// }
/// ```
pub trait LargeModel: Send + Sync {
    /// Answers the whole conversation, or fails, by the request's deadline and at once when it is cancelled. A cascade
    /// waits no longer in any case: the future is dropped then.
    ///
    /// # Errors
    /// Any kind for which [`crate::Error::is_cloud`] holds, [`crate::ErrorKind::Deadline`],
    /// [`crate::ErrorKind::Cancelled`] or [`crate::ErrorKind::InvalidRequest`]; [`crate::ErrorKind::Budget`] if a budget
    /// stands before it, [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Store`] if nothing may leave without a record
    /// that cannot be written.
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>>;

    /// The same, with the text handed to `on_text` piece by piece as it comes; together the pieces are the answer's text.
    /// Unless implemented, the whole of it is the only piece.
    ///
    /// Once a piece was handed out nothing is tried again: whatever goes wrong then is the end of the answer.
    ///
    /// # Errors
    /// As [`LargeModel::answer`]. If a piece was handed out, [`crate::Error::partial_text`] has them all.
    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(async move {
            let answer = self.answer(request).await?;
            if !answer.text.is_empty() {
                on_text(&answer.text);
            }
            Ok(answer)
        })
    }
}

/// Takes the pieces of a streamed answer.
pub type OnText<'a> = &'a mut (dyn FnMut(&str) + Send);

impl<M: LargeModel + ?Sized> LargeModel for Arc<M> {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        (**self).answer(request)
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        (**self).stream(request, on_text)
    }
}

impl<M: LargeModel + ?Sized> LargeModel for Box<M> {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        (**self).answer(request)
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        (**self).stream(request, on_text)
    }
}

/// What a large model said.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloudAnswer {
    /// The text of the answer.
    pub text: String,
    /// Functions it asks for.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ends where it ends, in the server's word: `stop`, `end_turn`, `MAX_TOKENS` ...
    pub finish_reason: Option<String>,
    /// Tokens the server says it read and wrote; `None` if it did not say.
    pub usage: Option<Tokens>,
    /// What it cost, if a budget stands before the model.
    pub cost: Option<Money>,
    /// Exchanges it took, the successful one included.
    pub attempts: u32,
}

impl CloudAnswer {
    /// An answer that came on the first attempt, of unknown cost.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tool_calls: Vec::new(), finish_reason: None, usage: None, cost: None, attempts: 1 }
    }
}
