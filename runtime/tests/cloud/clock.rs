//! A clock that only the test moves: short waits pass at once and are noted, long ones wait to be moved past.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use margay::cloud::{BoxFuture, Clock};
use tokio::sync::watch;

/// Waits up to this long are backoff; longer ones are limits, which a test reaches only on purpose.
const LEAP: Duration = Duration::from_secs(10);

pub(crate) struct ManualClock {
    now: watch::Sender<Instant>,
    leaps: Mutex<Vec<Duration>>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        Self { now: watch::Sender::new(Instant::now()), leaps: Mutex::default() }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }

    /// The short waits so far, in order.
    pub(crate) fn leaps(&self) -> Vec<Duration> {
        self.leaps.lock().unwrap().clone()
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
                self.leaps.lock().unwrap().push(wait);
                self.advance(wait);
            } else {
                let mut moved = self.now.subscribe();
                moved.wait_for(|now| *now >= at).await.unwrap();
            }
        })
    }
}
