//! Time as the client sees it, passed in so that a test decides when it passes.

use std::time::{Instant, SystemTime};

use super::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;

/// A monotonic clock that can be waited on, and the calendar, which may jump.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Instant;

    /// The present date and time, as far as the device knows them; the system's unless implemented.
    fn calendar(&self) -> SystemTime {
        SystemTime::now()
    }

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

/// Milliseconds since 1970-01-01 UTC by the device's calendar; zero before.
pub(crate) fn unix_ms(clock: &dyn Clock) -> u64 {
    let since = clock.calendar().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
pub(crate) async fn until(clock: &dyn Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
