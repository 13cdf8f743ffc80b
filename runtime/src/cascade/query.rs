//! The life of one query: draft, verdict, and what follows when the device is unsure.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use margay_policy::guard::{BreakerState, CircuitBreaker};
use margay_policy::{Reason, Verdict};

use super::OnCloudFailure;
use super::device::{Device, Draft};
use super::outlet::Outlet;
use super::queue::Queue;
use crate::answer::{Answer, Origin};
use crate::cloud::{Clock, CloudAnswer, Connectivity, LargeModel, limited};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Deadline, LocalOnly, Request};
use crate::telemetry::{self, DeferralRate};

/// What a cascade is made of.
pub(super) struct Parts {
    pub(super) device: Device,
    pub(super) cloud: Box<dyn LargeModel>,
    pub(super) queue: Queue,
    pub(super) on_cloud_failure: OnCloudFailure,
    pub(super) breaker: Mutex<CircuitBreaker>,
    pub(super) connectivity: Option<Arc<dyn Connectivity>>,
    pub(super) deferral_rate: DeferralRate,
    /// For queries that bring none.
    pub(super) deadline: Option<Duration>,
    /// Where the breaker's ticks begin.
    pub(super) epoch: Instant,
    pub(super) clock: Arc<dyn Clock>,
}

impl Parts {
    /// The request with a deadline, if it brings none and there is one for such.
    pub(super) fn limited(&self, request: Request) -> Request {
        match self.deadline {
            Some(after) if request.deadline == Deadline::NEVER => request.deadline(Deadline::after(after)),
            _ => request,
        }
    }

    /// The whole life, with its text going to `outlet` on the way.
    pub(super) async fn answer(&self, request: &Request, outlet: Option<&Arc<Outlet>>) -> Result<Answer> {
        let early = outlet.filter(|outlet| outlet.is_optimistic());
        let draft = self.device.draft(request, !self.must_end_here(), early).await?;
        self.deferral_rate.observe(matches!(draft.decision.verdict, Verdict::Defer(_)));
        match draft.decision.verdict {
            Verdict::Keep => Ok(draft.into_answer(Origin::Local, None)),
            Verdict::Abstain(reason) => Ok(draft.into_answer(Origin::Abstained, Some(reason))),
            Verdict::Defer(reason) => self.defer(request, draft, reason, self.on_cloud_failure, outlet).await,
        }
    }

    pub(super) async fn answer_local(&self, request: LocalOnly<Request>) -> Result<Answer> {
        let keep_unsure = self.on_cloud_failure == OnCloudFailure::FallBackToLocal;
        self.device.answer(request, keep_unsure).await
    }

    /// Asks the large model; without its answer, `otherwise` says what becomes of the query.
    pub(super) async fn defer(
        &self,
        request: &Request,
        draft: Draft,
        reason: Reason,
        otherwise: OnCloudFailure,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Answer> {
        let request = &*self.queue.keyed(request);
        if let Some(closed) = self.closed() {
            return self.without_cloud(request, draft, (closed, None), otherwise, outlet).await;
        }
        let asked = self.clock.now();
        let (outcome, said) = self.ask(request, reason, outlet).await;
        let took = self.clock.now() - asked;
        self.report(&outcome);
        let mut answer = match outcome {
            Ok(cloud) => {
                let mut answer = draft.into_answer(Origin::Cloud, Some(reason));
                answer.text = if said.is_empty() { cloud.text } else { said };
                (answer.tool_calls, answer.finish_reason) = (cloud.tool_calls, cloud.finish_reason);
                (answer.usage.cloud, answer.cost, answer.attempts) = (cloud.usage, cloud.cost, cloud.attempts);
                answer
            }
            // Once text of the large model was handed out, this is the end of it.
            Err(error) if !said.is_empty() => return Err(error.with_partial_text(said)),
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => {
                let reason = if error.kind() == ErrorKind::Budget { Reason::OverBudget } else { reason };
                self.without_cloud(request, draft, (reason, Some(error)), otherwise, outlet).await?
            }
        };
        answer.timings.cloud = Some(took);
        Ok(answer)
    }

    /// One question to the large model, and what of its answer was handed out.
    async fn ask(
        &self,
        request: &Request,
        reason: Reason,
        outlet: Option<&Arc<Outlet>>,
    ) -> (Result<CloudAnswer>, String) {
        let Some(outlet) = outlet else {
            return (limited(&*self.clock, request, self.cloud.answer(request)).await, String::new());
        };
        let mut said = String::new();
        let mut on_text = |piece: &str| {
            if said.is_empty() {
                outlet.supersede(Some(reason));
            }
            said.push_str(piece);
            outlet.cloud(piece);
        };
        let outcome = limited(&*self.clock, request, self.cloud.stream(request, &mut on_text)).await;
        (outcome, said)
    }

    /// The end of a query whose answer was to come from the cloud and does not.
    async fn without_cloud(
        &self,
        request: &Request,
        mut draft: Draft,
        (reason, error): (Reason, Option<Error>),
        otherwise: OnCloudFailure,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Answer> {
        if let Some(ticket) = self.queue.put(request, error.as_ref()).await {
            let mut answer = draft.into_answer(Origin::Queued, Some(reason));
            (answer.ticket, answer.cloud_error) = (Some(ticket), error);
            return Ok(answer);
        }
        let origin = match otherwise {
            OnCloudFailure::Fail => return Err(error.unwrap_or_else(|| left_alone(reason))),
            OnCloudFailure::Abstain => Origin::Abstained,
            OnCloudFailure::FallBackToLocal => {
                if let Err(again) = self.device.complete(request, &mut draft, outlet).await {
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

    /// Why the large model is not to be asked now. Whoever is told nothing has the breaker's permit, and reports.
    fn closed(&self) -> Option<Reason> {
        if self.connectivity.as_ref().is_some_and(|connectivity| !connectivity.is_online()) {
            return Some(Reason::Offline);
        }
        (!self.breaker().permit(self.ticks())).then_some(Reason::BreakerOpen)
    }

    /// Whether the device's answer will be the answer, sure or not, so that it had better be whole.
    fn must_end_here(&self) -> bool {
        let offline = self.connectivity.as_ref().is_some_and(|connectivity| !connectivity.is_online());
        let closed = offline || self.breaker_state() == BreakerState::Open;
        closed && self.on_cloud_failure == OnCloudFailure::FallBackToLocal && self.queue.is_none()
    }

    /// Tells the breaker what the outcome says about the cloud. A deadline that passes while it is silent counts
    /// against it; a request it refuses shows that it is there; one that was cancelled or never sent shows nothing.
    fn report(&self, outcome: &Result<CloudAnswer>) {
        let kind = outcome.as_ref().map_err(Error::kind).err();
        if let Some(connectivity) = &self.connectivity {
            match kind {
                None => connectivity.report(true),
                Some(ErrorKind::Connect) => connectivity.report(false),
                Some(_) => {}
            }
        }
        match kind {
            Some(ErrorKind::Cancelled | ErrorKind::Budget | ErrorKind::Store | ErrorKind::Io) => {}
            None | Some(ErrorKind::Rejected | ErrorKind::Unauthorized | ErrorKind::InvalidRequest) => {
                self.breaker().succeed();
            }
            Some(_) => self.breaker().fail(self.ticks()),
        }
        telemetry::breaker(self.breaker_state());
    }

    pub(super) fn breaker_state(&self) -> BreakerState {
        self.breaker().state(self.ticks())
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

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cascade")
            .field("device", &self.device)
            .field("on_cloud_failure", &self.on_cloud_failure)
            .finish_non_exhaustive()
    }
}

fn left_alone(reason: Reason) -> Error {
    let message = match reason {
        Reason::Offline => "there is no way to the cloud",
        _ => "the cloud has failed too often lately and is left alone for a while",
    };
    Error::new(ErrorKind::Connect, message)
}
