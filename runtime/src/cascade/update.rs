//! The device's answer now, the large model's later.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use margay_policy::Verdict;

use super::OnCloudFailure;
use super::query::Parts;
use crate::answer::{Answer, Origin};
use crate::cloud::BoxFuture;
use crate::error::Result;
use crate::request::Request;
use crate::telemetry::traced;

/// The better answer to come: a future of an [`Answer`] with [`Origin::Cloud`], or [`Origin::Queued`] and a ticket if the cloud
/// cannot be asked now and there is an outbox. Its errors are the cloud's. Dropped, it cancels the request.
#[must_use = "the large model is asked only when this is awaited"]
pub struct Update(BoxFuture<'static, Result<Answer>>);

impl Future for Update {
    type Output = Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Update")
    }
}

pub(super) async fn answer_now(parts: &Arc<Parts>, request: Request) -> Result<(Answer, Option<Update>)> {
    let mut update = None;
    let now = traced(async {
        let draft = parts.device.draft(&request, false, None).await?;
        parts.deferral_rate.observe(matches!(draft.decision.verdict, Verdict::Defer(_)));
        Ok(match draft.decision.verdict {
            Verdict::Keep => draft.into_answer(Origin::Local, None),
            Verdict::Abstain(reason) => draft.into_answer(Origin::Abstained, Some(reason)),
            Verdict::Defer(reason) => {
                let (parts, request, again) = (Arc::clone(parts), request.clone(), draft.clone());
                let later = async move { parts.defer(&request, again, reason, OnCloudFailure::Fail, None).await };
                update = Some(Update(Box::pin(traced(later))));
                draft.into_answer(Origin::Local, Some(reason))
            }
        })
    });
    let now = now.await?;
    Ok((now, update))
}
