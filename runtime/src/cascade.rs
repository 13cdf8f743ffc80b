//! The device first, the cloud when the device is unsure, both under one deadline.
//!
//! The device's half is a type of its own that holds no client: what goes only there cannot leave.

mod blocking;
mod builder;
mod device;
#[cfg_attr(not(feature = "stores"), path = "cascade/no_queue.rs")]
mod queue;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use margay_policy::guard::CircuitBreaker;
use margay_policy::{Reason, Verdict};
use tracing::{Instrument as _, Span, field};

use crate::answer::{Answer, Origin};
use crate::cloud::{Clock, CloudAnswer, LargeModel, limited};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{LocalOnly, Request};

use self::blocking::Blocking;
pub use self::builder::CascadeBuilder;
use self::device::{Device, Draft};
use self::queue::Queue;

/// A small model on the device with a large one behind it.
///
/// ```no_run
/// use margay::cloud::{OpenAiClient, Token, Wanted};
/// use margay::{Bundle, Cascade, DeviceOptions, Engine, OnCloudFailure, Request};
///
/// # async fn ask() -> margay::Result<()> {
/// let bundle = Bundle::open("small.bundle")?;
/// let cascade = Cascade::builder()
///     .engine(Engine::load(&bundle, DeviceOptions::default())?)
///     .policy(bundle.policy().cloned().unwrap())
///     .cloud(
///         OpenAiClient::builder("https://api.example.com/v1", "large-model")
///             .token(|_: Wanted| async { Ok(Token::new(std::env::var("CLOUD_TOKEN")?)) })
///             .build()?,
///     )
///     .on_cloud_failure(OnCloudFailure::FallBackToLocal)
///     .build()?;
/// let answer = cascade.answer(Request::user("wake me at six")).await?;
/// println!("{} ({}, {:?})", answer.text, answer.origin, answer.reason);
/// # Ok(()) }
/// ```
///
/// A breaker stands before the cloud: after repeated failures it is left alone for a while, and queries that would have
/// gone there are treated as [`OnCloudFailure`] says at once.
pub struct Cascade {
    device: Device,
    cloud: Box<dyn LargeModel>,
    queue: Queue,
    on_cloud_failure: OnCloudFailure,
    breaker: Mutex<CircuitBreaker>,
    /// Where the breaker's ticks begin.
    epoch: Instant,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
}

/// What becomes of a query that the device is unsure of when the cloud fails or must not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnCloudFailure {
    /// The device's answer, with reason and error beside it. An answer that was stopped early is generated again, whole.
    #[default]
    FallBackToLocal,
    /// No answer: [`Origin::Abstained`] and an empty text, with reason and error beside it.
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
    /// [`ErrorKind::Deadline`] if there is not even a whole answer of the device by then; [`ErrorKind::Cancelled`].
    pub async fn answer(&self, request: Request) -> Result<Answer> {
        traced(self.answer_or_defer(request)).await
    }

    /// Answers on the device, sure or not. Needs a tokio runtime.
    ///
    /// # Errors
    /// What [`crate::Engine::generate`] fails with.
    pub async fn answer_local(&self, request: LocalOnly<Request>) -> Result<Answer> {
        let keep_unsure = self.on_cloud_failure == OnCloudFailure::FallBackToLocal;
        traced(self.device.answer(request, keep_unsure)).await
    }

    /// [`Cascade::answer`] for callers without a runtime; the first call starts one with a single thread.
    ///
    /// # Errors
    /// As [`Cascade::answer`]; [`ErrorKind::InvalidRequest`] on a thread that belongs to a tokio runtime.
    pub fn answer_blocking(&self, request: Request) -> Result<Answer> {
        self.blocking.run(self.answer(request))
    }

    async fn answer_or_defer(&self, request: Request) -> Result<Answer> {
        let draft = self.device.draft(&request).await?;
        match draft.decision.verdict {
            Verdict::Keep => Ok(draft.into_answer(Origin::Local, None)),
            Verdict::Abstain(reason) => Ok(draft.into_answer(Origin::Abstained, Some(reason))),
            Verdict::Defer(reason) => self.defer(&request, draft, reason).await,
        }
    }

    async fn defer(&self, request: &Request, draft: Draft, reason: Reason) -> Result<Answer> {
        let request = &*self.queue.keyed(request);
        if !self.breaker().permit(self.ticks()) {
            return self.without_cloud(request, draft, Reason::BreakerOpen, None).await;
        }
        let asked = self.clock.now();
        let outcome = limited(&*self.clock, request, self.cloud.answer(request)).await;
        let took = self.clock.now() - asked;
        self.report(&outcome);
        let mut answer = match outcome {
            Ok(CloudAnswer { text, usage, cost, attempts, .. }) => {
                let mut answer = draft.into_answer(Origin::Cloud, Some(reason));
                (answer.text, answer.usage.cloud, answer.cost, answer.attempts) = (text, usage, cost, attempts);
                answer
            }
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) if error.kind() == ErrorKind::Budget => {
                self.without_cloud(request, draft, Reason::OverBudget, Some(error)).await?
            }
            Err(error) => self.without_cloud(request, draft, reason, Some(error)).await?,
        };
        answer.timings.cloud = Some(took);
        Ok(answer)
    }

    /// The end of a query whose answer was to come from the cloud and does not.
    async fn without_cloud(
        &self,
        request: &Request,
        mut draft: Draft,
        reason: Reason,
        error: Option<Error>,
    ) -> Result<Answer> {
        if let Some(ticket) = self.queue.put(request, error.as_ref()).await {
            let mut answer = draft.into_answer(Origin::Queued, Some(reason));
            (answer.ticket, answer.cloud_error) = (Some(ticket), error);
            return Ok(answer);
        }
        let origin = match self.on_cloud_failure {
            OnCloudFailure::Fail => return Err(error.unwrap_or_else(breaker_open)),
            OnCloudFailure::Abstain => Origin::Abstained,
            OnCloudFailure::FallBackToLocal => {
                if let Err(again) = self.device.complete(request, &mut draft).await {
                    return Err(match error {
                        Some(error) => again.with_source(error),
                        None => again,
                    });
                }
                Origin::Local
            }
        };
        let mut answer = draft.into_answer(origin, Some(reason));
        answer.cloud_error = error;
        Ok(answer)
    }

    /// Tells the breaker what the outcome says about the cloud. A deadline that passes while it is silent counts
    /// against it; a request it refuses shows that it is there; one that was cancelled or never sent shows nothing.
    fn report(&self, outcome: &Result<CloudAnswer>) {
        match outcome.as_ref().map_err(Error::kind) {
            Err(ErrorKind::Cancelled | ErrorKind::Budget | ErrorKind::Store | ErrorKind::Io) => {}
            Ok(_) | Err(ErrorKind::Rejected | ErrorKind::Unauthorized | ErrorKind::InvalidRequest) => {
                self.breaker().succeed();
            }
            Err(_) => self.breaker().fail(self.ticks()),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the cascade was built.
    fn ticks(&self) -> u64 {
        let elapsed = self.clock.now().saturating_duration_since(self.epoch);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Cascade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cascade")
            .field("device", &self.device)
            .field("on_cloud_failure", &self.on_cloud_failure)
            .finish_non_exhaustive()
    }
}

fn breaker_open() -> Error {
    Error::new(ErrorKind::Connect, "the cloud has failed too often lately and is left alone for a while")
}

/// Runs a query in its span, and writes down how it ended: facts about the answer, never its text or the prompt's.
async fn traced(query: impl Future<Output = Result<Answer>>) -> Result<Answer> {
    let span = tracing::info_span!(
        "answer",
        origin = field::Empty,
        score = field::Empty,
        threshold = field::Empty,
        rule = field::Empty,
        reason = field::Empty,
        error = field::Empty,
    );
    let outcome = query.instrument(span.clone()).await;
    match &outcome {
        Ok(answer) => record(&span, answer),
        Err(error) => {
            span.record("error", field::debug(error.kind()));
        }
    }
    outcome
}

fn record(span: &Span, answer: &Answer) {
    span.record("origin", answer.origin.name());
    span.record("score", answer.score.map(|score| f64::from(score.value())));
    span.record("threshold", f64::from(answer.threshold.value()));
    span.record("rule", field::display(answer.rule));
    span.record("reason", answer.reason.map(Reason::as_str));
    span.record("error", answer.cloud_error.as_ref().map(|error| field::debug(error.kind())));
}
