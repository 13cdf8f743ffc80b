//! The device first, the cloud when the device is unsure, both under one deadline.
//!
//! The device's half is a type of its own that holds no client: what goes only there cannot leave.

mod blocking;
mod builder;
mod device;
mod model;
mod outlet;
mod query;
#[cfg_attr(not(feature = "stores"), path = "cascade/no_queue.rs")]
mod queue;
mod stream;
mod update;

use std::fmt;
use std::sync::Arc;

use margay_policy::guard::BreakerState;

use crate::answer::Answer;
use crate::error::Result;
use crate::request::{LocalOnly, Request};
use crate::telemetry::traced;

use self::blocking::Blocking;
pub use self::builder::CascadeBuilder;
use self::outlet::Outlet;
use self::query::Parts;
pub use self::stream::{AnswerStream, BlockingStream, Stream, StreamEvent};
pub use self::update::Update;

/// A small model on the device with a large one behind it. Clones share everything.
///
/// ```no_run
/// use margay::cloud::{CloudClient, Token, Wanted};
/// use margay::{Bundle, Cascade, DeviceOptions, Engine, OnCloudFailure, Request, Stream, StreamEvent};
///
/// # async fn ask() -> margay::Result<()> {
/// let bundle = Bundle::open("small.bundle")?;
/// let cascade = Cascade::builder()
///     .engine(Engine::load(&bundle, DeviceOptions::default())?)
///     .policy(bundle.policy().cloned().unwrap())
///     .cloud(
///         CloudClient::openai("https://api.example.com/v1", "large-model")
///             .token(|_: Wanted| async { Ok(Token::new(std::env::var("CLOUD_TOKEN")?)) })
///             .build()?,
///     )
///     .on_cloud_failure(OnCloudFailure::FallBackToLocal)
///     .build()?;
/// let answer = cascade.answer(Request::user("wake me at six")).await?;
/// println!("{} ({}, {:?})", answer.text, answer.origin, answer.reason);
///
/// let mut events = cascade.stream(Request::user("and at seven"), Stream::Optimistic);
/// while let Some(event) = events.next().await {
///     match event? {
///         StreamEvent::Token { text, .. } => print!("{text}"),
///         StreamEvent::Superseded { .. } => println!(" ... no, wait:"),
///         StreamEvent::Done(answer) => println!(" ({})", answer.origin),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
///
/// A breaker stands before the cloud: after repeated failures it is left alone for a while, and queries that would have
/// gone there are treated as [`OnCloudFailure`] says at once.
#[derive(Clone)]
pub struct Cascade {
    parts: Arc<Parts>,
    blocking: Arc<Blocking>,
}

/// What becomes of a query that the device is unsure of when the cloud fails or must not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnCloudFailure {
    /// The device's answer, with reason and error beside it. An answer that was stopped early is generated again, whole.
    #[default]
    FallBackToLocal,
    /// No answer: [`crate::Origin::Abstained`] and an empty text, with reason and error beside it.
    Abstain,
    /// The error itself. A [`LocalOnly`] request has none to give and abstains.
    Fail,
}

impl Cascade {
    /// Begins without anything; engine, policy and cloud are required.
    #[must_use]
    pub fn builder() -> CascadeBuilder {
        CascadeBuilder::default()
    }

    /// Answers on the device if it is sure enough, else in the cloud. Needs a tokio runtime.
    ///
    /// Dropping the future cancels the request: generation stops within one decode step, the exchange with the cloud at once.
    ///
    /// # Errors
    /// What [`crate::Engine::generate`] fails with; what the cloud fails with under [`OnCloudFailure::Fail`];
    /// [`crate::ErrorKind::Deadline`] if there is not even a whole answer of the device by then;
    /// [`crate::ErrorKind::Cancelled`].
    pub async fn answer(&self, request: Request) -> Result<Answer> {
        let request = self.parts.limited(request);
        traced(self.parts.answer(&request, None)).await
    }

    /// The same answer as it comes. Its errors are those of [`Cascade::answer`], and one more: once some of the large model's
    /// text was handed out there is no other answer in its place, and the error holds it as
    /// [`crate::Error::partial_text`].
    pub fn stream(&self, request: Request, mode: Stream) -> AnswerStream {
        let request = self.parts.limited(request);
        let outlet = Arc::new(Outlet::new(mode));
        let (parts, events) = (Arc::clone(&self.parts), Arc::clone(&outlet));
        let driver = async move {
            let answer = traced(parts.answer(&request, Some(&events))).await?;
            events.settle(&answer.text, answer.origin, answer.reason);
            Ok(answer)
        };
        AnswerStream::new(outlet, Box::pin(driver))
    }

    /// The device's answer at once, sure or not, and a better one later if it is not sure: the large model is asked when the
    /// [`Update`] is awaited. Needs a tokio runtime.
    ///
    /// # Errors
    /// What [`crate::Engine::generate`] fails with.
    pub async fn answer_now(&self, request: Request) -> Result<(Answer, Option<Update>)> {
        update::answer_now(&self.parts, self.parts.limited(request)).await
    }

    /// Answers on the device, sure or not. Needs a tokio runtime.
    ///
    /// # Errors
    /// What [`crate::Engine::generate`] fails with.
    pub async fn answer_local(&self, request: LocalOnly<Request>) -> Result<Answer> {
        traced(self.parts.answer_local(request.map(|request| self.parts.limited(request)))).await
    }

    /// [`Cascade::answer`] for callers without a runtime; the first call starts one with a single thread.
    ///
    /// # Errors
    /// As [`Cascade::answer`]; [`crate::ErrorKind::InvalidRequest`] on a thread that belongs to a tokio runtime.
    pub fn answer_blocking(&self, request: Request) -> Result<Answer> {
        self.blocking.run(self.answer(request))
    }

    /// [`Cascade::answer_local`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Cascade::answer_local`]; [`crate::ErrorKind::InvalidRequest`] on a thread that belongs to a tokio runtime.
    pub fn answer_local_blocking(&self, request: LocalOnly<Request>) -> Result<Answer> {
        self.blocking.run(self.answer_local(request))
    }

    /// [`Cascade::stream`] for callers without a runtime.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`] on a thread that belongs to a tokio runtime.
    pub fn stream_blocking(&self, request: Request, mode: Stream) -> Result<BlockingStream> {
        let runtime = self.blocking.handle()?;
        Ok(BlockingStream::new(self.stream(request, mode), runtime, Arc::clone(&self.blocking)))
    }

    /// What the breaker before the large model lets through now.
    #[must_use]
    pub fn breaker_state(&self) -> BreakerState {
        self.parts.breaker_state()
    }
}

impl fmt::Debug for Cascade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}
