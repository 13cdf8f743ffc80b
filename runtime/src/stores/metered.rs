//! A large model behind a budget.

use std::fmt;

use super::Budget;
use super::budget::Reservation;
use crate::answer::{Money, Tokens};
use crate::cloud::{BoxFuture, CloudAnswer, LargeModel, OnText};
use crate::error::Result;
use crate::request::Request;

/// A large model that is asked only while its [`Budget`] lasts; see [`Budget::meter`].
pub struct Metered<M> {
    budget: Budget,
    cloud: M,
}

impl<M> Metered<M> {
    pub(super) fn new(budget: Budget, cloud: M) -> Self {
        Self { budget, cloud }
    }
}

impl<M> Metered<M> {
    /// Corrects the account. If that fails the reservation stands, and the answer, paid for, is not lost over it.
    async fn settle(&self, reservation: Reservation, cost: Tokens) -> Money {
        let most = reservation.most();
        self.budget.settle(reservation, cost).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a cost could not be corrected");
            self.budget.price_of(most)
        })
    }
}

impl<M: LargeModel> Metered<M> {
    /// One exchange between reservation and account. Cut in its midst, the reservation stands: what was handed out is paid for.
    async fn account(&self, request: &Request, on_text: Option<OnText<'_>>) -> Result<CloudAnswer> {
        request.check()?;
        let reservation = self.budget.reserve(request).await?;
        let outcome = match on_text {
            None => self.cloud.answer(request).await,
            Some(on_text) => self.cloud.stream(request, on_text).await,
        };
        let mut answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                if error.is_free_of_charge() {
                    self.settle(reservation, Tokens::default()).await;
                }
                return Err(error);
            }
        };
        answer.cost = Some(match answer.usage {
            Some(usage) => self.settle(reservation, usage).await,
            None => self.budget.price_of(reservation.most()),
        });
        Ok(answer)
    }
}

impl<M: LargeModel> LargeModel for Metered<M> {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.account(request, None))
    }

    fn stream<'a>(&'a self, request: &'a Request, on_text: OnText<'a>) -> BoxFuture<'a, Result<CloudAnswer>> {
        Box::pin(self.account(request, Some(on_text)))
    }
}

impl<M> fmt::Debug for Metered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("budget", &self.budget).finish_non_exhaustive()
    }
}
