//! A threshold that follows the scores as they drift, so that the deferral rate stays where it was wanted.

use crate::error::{Error, ErrorKind, Result};

/// Online quantile tracking: after each query the threshold moves by `step * (rate - deferred)`, deferred being 1 or 0
/// (Gibbs & Candes, arXiv 2106.00170, on the score itself: Angelopoulos et al., arXiv 2307.16895).
///
/// Two bounds hold for every sequence of scores, however it came about:
/// - *deferral rate*: with scores and the first threshold in `[a, b]`, the share deferred of T queries is within
///   `(b - a + step) / (step * T)` of the rate: the threshold stays within a step of them, and has
///   moved by `step * (rate * T - deferred)`.
/// - *regret*: the threshold is online gradient descent on the pinball loss of the quantile, so its loss exceeds that
///   of any fixed threshold u by at most `(first - u)^2 / (2 * step) + step * T * max(rate, 1 - rate)^2 / 2` (Zinkevich
///   2003).
///
/// It keeps the cost where it was, and nothing else: what a certificate says of quality ends where the scores drift.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileTracker {
    threshold: f64,
    rate: f64,
    step: f64,
}

impl QuantileTracker {
    /// A tracker that begins at a threshold chosen on calibration data. A step of a hundredth of the range of scores
    /// forgets in some hundred queries.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a threshold that is not finite, a rate outside [0, 1], or a step that is not above 0.
    pub fn new(threshold: f64, rate: f64, step: f64) -> Result<Self> {
        if !(threshold.is_finite() && (0.0..=1.0).contains(&rate) && step.is_finite() && step > 0.0) {
            let message = "a tracker needs a finite threshold, a rate in [0, 1] and a finite step above 0";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self { threshold, rate, step })
    }

    /// Keep the next query if its score is at least this.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Whether a query with this score is deferred; then moves the threshold. A score that is NaN is deferred and
    /// counts so.
    pub fn defers(&mut self, score: f64) -> bool {
        let keeps = score >= self.threshold;
        self.threshold += self.step * (self.rate - f64::from(u8::from(!keeps)));
        !keeps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_bounds_hold_for_any_sequence(
            scores in prop::collection::vec(-1.0f64..=1.0, 1..400), first in -1.0f64..=1.0, rate in 0.0f64..=1.0, step in 0.001f64..1.0,
        ) {
            let pinball = |threshold: f64, score: f64| {
                if score < threshold { (1.0 - rate) * (threshold - score) } else { rate * (score - threshold) }
            };
            let queries = scores.len() as f64;
            let mut tracker = QuantileTracker::new(first, rate, step).unwrap();
            let (mut deferred, mut loss) = (0.0, 0.0);
            for score in &scores {
                loss += pinball(tracker.threshold(), *score);
                deferred += f64::from(u8::from(tracker.defers(*score)));
            }
            prop_assert!((deferred / queries - rate).abs() <= (2.0 + step) / (step * queries) + 1e-9);
            // The best fixed threshold is one of the scores.
            for fixed in &scores {
                let of_fixed: f64 = scores.iter().map(|score| pinball(*fixed, *score)).sum();
                let steepest = rate.max(1.0 - rate);
                let bound = (first - fixed).powi(2) / (2.0 * step) + step * queries * steepest * steepest / 2.0;
                prop_assert!(loss - of_fixed <= bound + 1e-9, "{loss} {of_fixed} {bound}");
            }
        }
    }

    #[test]
    fn a_drift_that_a_fixed_threshold_would_not_survive() {
        // Scores fall from 0..1 to -10..-9: a fixed threshold of 0.3 would defer everything from then on.
        let mut tracker = QuantileTracker::new(0.3, 0.3, 0.05).unwrap();
        let deferred = (0..10_000).filter(|i| {
            let fallen = if *i < 5000 { 0.0 } else { -10.0 };
            tracker.defers(fallen + f64::from((i * 37) % 101) / 101.0)
        });
        let rate = deferred.count() as f64 / 10_000.0;
        assert!((rate - 0.3).abs() <= (11.0 + 0.05) / (0.05 * 10_000.0), "{rate}");
        assert!((-10.0..-9.0).contains(&tracker.threshold()), "{}", tracker.threshold());
    }

    #[test]
    fn nonsense_is_refused() {
        for (threshold, rate, step) in [(f64::NAN, 0.3, 0.1), (0.0, 1.1, 0.1), (0.0, 0.3, 0.0), (0.0, 0.3, f64::NAN)] {
            assert_eq!(QuantileTracker::new(threshold, rate, step).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let mut tracker = QuantileTracker::new(0.0, 0.5, 0.1).unwrap();
        assert!(tracker.defers(f64::NAN));
    }
}
