//! A threshold that follows the scores, so that a wanted share of answers is deferred.

use core::fmt;

use crate::rule::Score;
use crate::threshold::Threshold;

/// Tracks a quantile of the scores online: after each one the threshold moves up if more than the wanted share were
/// deferred of late, down if fewer.
///
/// `t <- t + step (rate - 1{score < t})`, the quantile tracker of Angelopoulos, Candès and Tibshirani (arXiv 2307.16895,
/// "Conformal PID control", proportional part). Whatever the scores do, as long as they stay within `a..b` and the
/// threshold begins there, the share deferred of `n` is within `(b - a + step) / (step n)` of `rate`. In `f32`, whose rounding
/// adds about `n 2^-24 max(|a|, |b|) / (step n)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileTracker {
    threshold: f32,
    rate: f32,
    step: f32,
}

/// Numbers that make no tracker. The configuration's author is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrackerError {
    /// The threshold to begin with is not finite.
    Threshold,
    /// The rate is not from 0 to 1.
    Rate,
    /// The step is not positive and finite.
    Step,
}

impl QuantileTracker {
    /// Begins with `threshold`, wants a share `rate` of the answers deferred, and moves by `step` at most, in the score's unit.
    ///
    /// # Errors
    /// [`TrackerError`] naming the number.
    pub const fn new(threshold: Threshold, rate: f32, step: f32) -> Result<Self, TrackerError> {
        if !threshold.value().is_finite() {
            return Err(TrackerError::Threshold);
        }
        if !(rate >= 0.0 && rate <= 1.0) {
            return Err(TrackerError::Rate);
        }
        if !(step > 0.0 && step.is_finite()) {
            return Err(TrackerError::Step);
        }
        Ok(Self { threshold: threshold.value(), rate, step })
    }

    /// The threshold for the next answer.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        Threshold::new(self.threshold).unwrap_or(Threshold::DEFER_ALL) // it is finite
    }

    /// Learns from the score of an answer, whatever became of it.
    pub fn observe(&mut self, score: Score) {
        let deferred = if score.value() < self.threshold { 1.0 } else { 0.0 };
        let moved = self.threshold + self.step * (self.rate - deferred);
        self.threshold = moved.clamp(f32::MIN, f32::MAX);
    }
}

impl fmt::Display for TrackerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threshold => "a tracker begins with a finite threshold",
            Self::Rate => "a share of deferred answers is from 0 to 1",
            Self::Step => "a tracker's step is a positive number",
        })
    }
}

impl core::error::Error for TrackerError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::rule::Rule;
    use crate::signals::TokenSignals;

    fn score(value: f32) -> Score {
        let mut answer = Aggregate::new();
        answer.observe(TokenSignals { log_probability: value, margin: 0.0, entropy: 0.0 });
        Rule::Minimum.score(&answer).unwrap()
    }

    fn tracker(threshold: f32, rate: f32, step: f32) -> Result<QuantileTracker, TrackerError> {
        QuantileTracker::new(Threshold::new(threshold).unwrap(), rate, step)
    }

    #[test]
    fn steps_by_hand() {
        let mut tracker = tracker(-1.0, 0.25, 0.5).unwrap();
        let mut after = |value: f32| {
            tracker.observe(score(value));
            tracker.threshold().value()
        };
        assert_eq!(after(-2.0), -1.375, "one was deferred");
        assert_eq!(after(-1.375), -1.25, "at the threshold it is kept");
        assert_eq!(after(0.0), -1.125);
    }

    #[test]
    fn what_makes_no_tracker_is_refused() {
        assert_eq!(tracker(f32::INFINITY, 0.5, 1.0), Err(TrackerError::Threshold));
        for rate in [-0.1, 1.1, f32::NAN] {
            assert_eq!(tracker(0.0, rate, 1.0), Err(TrackerError::Rate));
        }
        for step in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(tracker(0.0, 0.5, step), Err(TrackerError::Step));
        }
    }

    proptest! {
        /// The bound holds for any scores, also such as wait until the threshold has come down.
        #[test]
        fn the_share_deferred_is_what_was_wanted(
            scores in prop::collection::vec(prop_oneof![-8.0..=0.0_f32, Just(-8.0), Just(0.0)], 1..400),
            rate in 0.0..=1.0_f32,
            step in 0.01..2.0_f32,
            spiteful in any::<bool>(),
        ) {
            let mut tracker = tracker(-4.0, rate, step).unwrap();
            let mut deferred = 0.0;
            for &drawn in &scores {
                let value = if spiteful { (tracker.threshold().value() - 0.01).clamp(-8.0, 0.0) } else { drawn };
                deferred += f64::from(u8::from(!tracker.threshold().keeps(score(value))));
                tracker.observe(score(value));
            }
            let (count, step) = (scores.len() as f64, f64::from(step));
            let bound = (8.0 + step) / (step * count);
            prop_assert!((deferred / count - f64::from(rate)).abs() <= bound + 1e-4 / step);
        }
    }
}
