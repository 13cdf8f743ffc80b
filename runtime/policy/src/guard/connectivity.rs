//! Whether there is a way to the large model, judged by what exchanges showed, without fluttering.

use core::num::NonZeroU32;

/// Believed to be there until several exchanges in a row found no way, then believed to be gone until several in a row found
/// one and a while has passed: a link that comes and goes does not turn every answer into another kind.
///
/// It watches the way, the [`CircuitBreaker`](super::CircuitBreaker) the service at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connectivity {
    failures: NonZeroU32,
    successes: NonZeroU32,
    hold_ms: u64,
    /// When it went, if it is gone.
    gone_since: Option<u64>,
    /// Reports in a row that speak against what is believed.
    against: u32,
}

impl Connectivity {
    /// A way that is there. It is gone after `failures` in a row, and back after `successes` in a row, at least `hold_ms`
    /// milliseconds after it went.
    #[must_use]
    pub const fn new(failures: NonZeroU32, successes: NonZeroU32, hold_ms: u64) -> Self {
        Self { failures, successes, hold_ms, gone_since: None, against: 0 }
    }

    /// Whether there is a way, as far as is known.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.gone_since.is_none()
    }

    /// An exchange, or a sign of life like a frame that was acknowledged, has shown that there is a way, or that there is none.
    pub fn report(&mut self, reached: bool, now: u64) {
        if reached == self.is_online() {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        match self.gone_since {
            None if self.against >= self.failures.get() => {
                self.gone_since = Some(now);
                self.against = 0;
            }
            Some(since) if self.against >= self.successes.get() && now.saturating_sub(since) >= self.hold_ms => {
                self.gone_since = None;
                self.against = 0;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connectivity() -> Connectivity {
        Connectivity::new(NonZeroU32::new(3).unwrap(), NonZeroU32::new(2).unwrap(), 1_000)
    }

    fn reports(connectivity: &mut Connectivity, reports: &[(bool, u64)]) -> bool {
        reports.iter().for_each(|(reached, now)| connectivity.report(*reached, *now));
        connectivity.is_online()
    }

    #[test]
    fn it_goes_after_failures_in_a_row_and_comes_back_slowly() {
        let mut way = connectivity();
        assert!(reports(&mut way, &[(false, 0), (false, 1), (true, 2), (false, 3), (false, 4)]), "not in a row");
        assert!(!reports(&mut way, &[(false, 5)]));
        assert!(!reports(&mut way, &[(true, 1_100)]), "one is not enough");
        assert!(!reports(&mut way, &[(false, 1_200), (true, 1_300)]), "not in a row");
        assert!(reports(&mut way, &[(true, 1_400)]));
    }

    #[test]
    fn it_does_not_come_back_before_its_time() {
        let mut way = connectivity();
        reports(&mut way, &[(false, 0), (false, 0), (false, 10)]);
        assert!(!reports(&mut way, &[(true, 20), (true, 30), (true, 1_009)]));
        assert!(reports(&mut way, &[(true, 1_010)]));
        assert!(reports(&mut way, &[(false, 5), (false, 4)]), "a tick that runs backwards is harmless");
    }
}
