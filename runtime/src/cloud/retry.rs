//! When to try again: exponential backoff with full jitter, and the server's own `Retry-After`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// Longest `Retry-After` that is waited for. A server that asks for more is down for this request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How often and how patiently a failed exchange is repeated.
///
/// The wait before attempt `n + 1` is uniform in `0 .. min(cap, base * 2^(n-1))`: "full jitter" in Marc Brooker,
/// *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015. With `Retry-After` the same jitter comes on top, so
/// that a fleet told to wait one second does not come back as one wave. A wait that would outlast the request's deadline is
/// not begun: the request fails at once with the error it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Exchanges at most, the first included; one means no retry.
    pub attempts: u32,
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of every wait, jitter only.
    pub cap: Duration,
}

impl Retry {
    /// One attempt only.
    pub const NEVER: Self = Self { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO };

    /// How long to wait after the `failed`-th attempt (from one); `None` to give up. `unit` is uniform in `0.0..1.0`.
    pub(super) fn wait(&self, failed: u32, asked: Option<Duration>, unit: f64) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doublings = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let jitter = self.base.saturating_mul(doublings).min(self.cap).mul_f64(unit);
        match asked {
            Some(asked) if asked > MAX_RETRY_AFTER => None,
            Some(asked) => Some(asked + jitter),
            None => Some(jitter),
        }
    }
}

impl Default for Retry {
    /// Three attempts, waits below 0.25 and 0.5 seconds, never above 8.
    fn default() -> Self {
        Self { attempts: 3, base: Duration::from_millis(250), cap: Duration::from_secs(8) }
    }
}

/// Repetitions that a client may make before any question has earned it one.
const RETRY_RESERVE: f64 = 10.0;

/// Most repetitions that are saved up, so that a long quiet time does not pay for a storm.
const MAX_RETRIES_SAVED: f64 = 100.0;

/// How many repetitions all questions of one client may still make: each question earns a fraction of one (Finagle's
/// `RetryBudget`, without its time window).
#[derive(Debug)]
pub(super) struct RetryBudget {
    ratio: f64,
    saved: Mutex<f64>,
}

impl RetryBudget {
    pub(super) fn new(ratio: f64) -> Self {
        Self { ratio, saved: Mutex::new(RETRY_RESERVE) }
    }

    /// A question begins.
    pub(super) fn deposit(&self) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = (*saved + self.ratio).min(MAX_RETRIES_SAVED);
    }

    /// Whether one more repetition may be made; it is taken if so.
    pub(super) fn withdraw(&self) -> bool {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *saved >= 1.0;
        if enough {
            *saved -= 1.0;
        }
        enough
    }
}

/// What `Retry-After` asks for, in either of its forms (RFC 9110, section 10.2.3).
///
/// A date is measured against the answer's own `Date`, so that a device whose clock is wrong waits the right time;
/// without one it is ignored.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(asked).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ceilings_double_up_to_the_cap_and_attempts_end() {
        let retry = Retry { attempts: 6, base: SECOND, cap: 5 * SECOND };
        let ceilings: Vec<_> = (1..=6).map(|failed| retry.wait(failed, None, 1.0)).collect();
        let seconds = |n: u64| Some(Duration::from_secs(n));
        assert_eq!(ceilings, [seconds(1), seconds(2), seconds(4), seconds(5), seconds(5), None]);
        assert_eq!(retry.wait(3, None, 0.25), seconds(1));
        assert_eq!(retry.wait(3, None, 0.0), seconds(0));
        assert_eq!(Retry::NEVER.wait(1, None, 0.5), None);
    }

    #[test]
    fn no_number_of_attempts_overflows() {
        let retry = Retry { attempts: u32::MAX, base: Duration::MAX, cap: SECOND };
        for failed in [1, 31, 32, 33, 64, u32::MAX - 1] {
            assert_eq!(retry.wait(failed, None, 1.0), Some(SECOND), "{failed}");
        }
    }

    #[test]
    fn the_server_is_never_asked_sooner_than_it_said() {
        let retry = Retry { attempts: 2, base: SECOND, cap: SECOND };
        assert_eq!(retry.wait(1, Some(7 * SECOND), 0.0), Some(7 * SECOND));
        assert_eq!(retry.wait(1, Some(7 * SECOND), 0.5), Some(Duration::from_millis(7_500)));
        assert_eq!(retry.wait(1, Some(MAX_RETRY_AFTER), 0.0), Some(MAX_RETRY_AFTER));
        assert_eq!(retry.wait(1, Some(MAX_RETRY_AFTER + SECOND), 0.0), None);
    }

    #[test]
    fn repetitions_are_a_fraction_of_the_questions_in_the_long_run() {
        let budget = RetryBudget::new(0.25);
        let storm = |questions: u32| {
            let granted = |_| {
                budget.deposit();
                u32::from(budget.withdraw()) + u32::from(budget.withdraw())
            };
            (0..questions).map(granted).sum::<u32>()
        };
        assert_eq!(storm(1000), 10 + 250);
        (0..1_000_000).for_each(|_| budget.deposit());
        // What the first question would have earned does not fit any more.
        assert_eq!(storm(1000), 100 + 249);
        let never = RetryBudget::new(0.0);
        assert_eq!((0..99).filter(|_| never.withdraw()).count(), 10);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            retry_after(&headers.collect())
        };
        // The dates are RFC 9110's own example, 5.6.7, and the same moment 90 seconds on.
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read(&[("retry-after", "120")]), Some(120 * SECOND));
        assert_eq!(read(&[date, ("retry-after", "Sun, 06 Nov 1994 08:51:07 GMT")]), Some(90 * SECOND));
        assert_eq!(read(&[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(Duration::ZERO));
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:51:07 GMT")]), None);
        assert_eq!(read(&[date, ("retry-after", "soon")]), None);
        assert_eq!(read(&[("retry-after", "-1")]), None);
        assert_eq!(read(&[]), None);
    }
}
