//! Time as the client sees it, passed in so that a test decides when it passes.

use std::time::Instant;

use super::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;

/// A monotonic clock that can be waited on.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Instant;

    /// Ready once `at` has come.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'_, ()>;
}

/// The machine's clock, through tokio's timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

/// `work`, unless the request's cancel or deadline comes first; `work` is then dropped, and with it what it holds open.
///
/// # Errors
/// [`ErrorKind::Cancelled`], [`ErrorKind::Deadline`], or what `work` fails with.
pub(crate) async fn limited<T>(
    clock: &dyn Clock,
    request: &Request,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = request.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the caller cancelled the request")),
        () = until(clock, request.deadline.instant()) => {
            Err(Error::new(ErrorKind::Deadline, "the request's deadline has passed"))
        }
        outcome = work => outcome,
    }
}

/// Ready at `at`; never without one.
pub(super) async fn until(clock: &dyn Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
