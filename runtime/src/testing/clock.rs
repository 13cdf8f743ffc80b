//! A clock that only the test moves: short waits pass at once and are noted, long ones wait to be moved past.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cloud::{BoxFuture, Clock};

/// Waits up to this long are backoff; longer ones are limits, which a test reaches only on purpose.
const LEAP: Duration = Duration::from_secs(10);

/// Time that stands still until [`ManualClock::advance`], but for waits of up to ten seconds: those it leaps over.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Instant>,
    leaps: Mutex<Vec<Duration>>,
}

impl ManualClock {
    /// A clock that begins at the present moment.
    #[must_use]
    pub fn new() -> Self {
        Self { now: watch::Sender::new(Instant::now()), leaps: Mutex::default() }
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }

    /// The short waits so far, in order.
    #[must_use]
    pub fn leaps(&self) -> Vec<Duration> {
        self.leaps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ready once somebody waits for a moment more than ten seconds away, and has to be moved past it.
    pub async fn awaited(&self) {
        while self.now.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.now.borrow()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let wait = at.saturating_duration_since(self.now());
            if wait <= LEAP {
                self.leaps.lock().unwrap_or_else(PoisonError::into_inner).push(wait);
                self.advance(wait);
                return;
            }
            let mut moved = self.now.subscribe();
            // It ends only with the clock, which is borrowed here.
            let _ = moved.wait_for(|now| *now >= at).await;
        })
    }
}
