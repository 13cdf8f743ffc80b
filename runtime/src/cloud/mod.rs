//! The large model behind HTTPS: one trait, one client, and what both need to fail in an orderly way.
//!
//! Nothing here knows the device or the verdict: [`crate::Cascade`] decides whether to ask, this module asks.
//! Every exchange ends by the request's [`crate::Deadline`] or its [`crate::Cancel`], retries included.

mod clock;
mod failure;
mod openai;
mod random;
mod retry;
mod tls;
mod token;
mod url;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::answer::{Money, Tokens};
use crate::error::Result;
use crate::request::Request;

pub(crate) use self::clock::limited;
pub use self::clock::{Clock, SystemClock};
pub use self::openai::{MAX_RESPONSE_BYTES, OpenAiClient, OpenAiClientBuilder};
pub use self::retry::Retry;
pub use self::tls::Roots;
pub use self::token::{Token, TokenProvider, Wanted};
pub use self::url::Endpoint;
#[cfg(feature = "stores")]
pub(crate) use self::{clock::unix_ms, random::Random, tls::random_seed};

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
}

impl<M: LargeModel + ?Sized> LargeModel for Arc<M> {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        (**self).answer(request)
    }
}

/// What a large model said.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloudAnswer {
    /// The text of the answer.
    pub text: String,
    /// Why it ends where it ends, in the server's word: `stop`, `length` ...
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
        Self { text: text.into(), finish_reason: None, usage: None, cost: None, attempts: 1 }
    }
}
