//! A circuit breaker: leaves a failing service alone for a while (Nygard, *Release It!*, 2007).

use core::num::NonZeroU32;

/// Counts failures in a row; after so many no request is permitted until a cool-down is over, then one at a
/// time on probation.
///
/// ```text
///              `failures` in a row                  cool-down over: one probe
///   Closed ------------------------> Open ---------------------------------> HalfOpen
///     ^                               ^                                       |    |
///     |                               +---------------- it fails -------------+    |
///     +--------------------------------------- it succeeds ------------------------+
/// ```
/// A probe that never reports (cancelled, crashed) holds up the next one for another cool-down, no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    failures: NonZeroU32,
    cool_down_ms: u64,
    inner: Inner,
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One probe at a time.
    HalfOpen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Inner {
    Closed { failed_in_a_row: u32 },
    Open { since: u64 },
    Probing { since: u64 },
}

impl CircuitBreaker {
    /// A closed breaker that opens after `failures` failures in a row, for `cool_down_ms` milliseconds.
    #[must_use]
    pub const fn new(failures: NonZeroU32, cool_down_ms: u64) -> Self {
        Self { failures, cool_down_ms, inner: Inner::Closed { failed_in_a_row: 0 } }
    }

    /// Whether a request may go out now. Whoever is permitted reports [`succeed`](Self::succeed) or
    /// [`fail`](Self::fail).
    #[must_use]
    pub fn permit(&mut self, now: u64) -> bool {
        match self.inner {
            Inner::Closed { .. } => true,
            Inner::Open { since } | Inner::Probing { since } => {
                let cooled = now.saturating_sub(since) >= self.cool_down_ms;
                if cooled {
                    self.inner = Inner::Probing { since: now };
                }
                cooled
            }
        }
    }

    /// A request succeeded: the service is there, the breaker closes.
    pub fn succeed(&mut self) {
        self.inner = Inner::Closed { failed_in_a_row: 0 };
    }

    /// A request failed in a way that says the service is ill (not: that the request was bad).
    pub fn fail(&mut self, now: u64) {
        match &mut self.inner {
            Inner::Closed { failed_in_a_row } => {
                *failed_in_a_row += 1;
                if *failed_in_a_row >= self.failures.get() {
                    self.inner = Inner::Open { since: now };
                }
            }
            // A straggler that went out before the breaker opened: nothing new.
            Inner::Open { .. } => {}
            Inner::Probing { .. } => self.inner = Inner::Open { since: now },
        }
    }

    /// What would be let through now.
    #[must_use]
    pub fn state(&self, now: u64) -> BreakerState {
        match self.inner {
            Inner::Closed { .. } => BreakerState::Closed,
            Inner::Open { since } if now.saturating_sub(since) < self.cool_down_ms => BreakerState::Open,
            Inner::Open { .. } | Inner::Probing { .. } => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new(NonZeroU32::new(3).unwrap(), 1_000)
    }

    #[test]
    fn it_opens_after_failures_in_a_row() {
        let mut breaker = breaker();
        breaker.fail(0);
        breaker.fail(1);
        breaker.succeed();
        breaker.fail(2);
        breaker.fail(3);
        assert!(breaker.permit(4));
        breaker.fail(5);
        assert_eq!(breaker.state(5), BreakerState::Open);
        assert!(!breaker.permit(1_004));
    }

    #[test]
    fn it_lets_one_probe_through_at_a_time() {
        let mut breaker = breaker();
        (0..3).for_each(|_| breaker.fail(100));
        assert_eq!(breaker.state(1_100), BreakerState::HalfOpen);
        assert!(breaker.permit(1_100));
        assert!(!breaker.permit(1_101), "the probe is out");
        breaker.fail(1_500);
        assert!(!breaker.permit(2_499));
        assert!(breaker.permit(2_500));
        breaker.succeed();
        assert!(breaker.permit(2_501) && breaker.permit(2_501));
        assert_eq!(breaker.state(2_501), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_never_reports_does_not_block_for_ever() {
        let mut breaker = breaker();
        (0..3).for_each(|_| breaker.fail(0));
        assert!(breaker.permit(1_000));
        assert!(!breaker.permit(1_999));
        assert!(breaker.permit(2_000));
    }

    #[test]
    fn stragglers_and_clocks_that_run_backwards_change_nothing() {
        let mut breaker = breaker();
        (0..3).for_each(|_| breaker.fail(500));
        breaker.fail(1_400);
        assert!(!breaker.permit(0));
        assert!(breaker.permit(1_500), "the straggler did not prolong the cool-down");
    }
}
