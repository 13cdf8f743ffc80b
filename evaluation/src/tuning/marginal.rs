//! One model's calibrated confidence: a mixture of two beta distributions, with a lump at either end.

use serde::{Deserialize, Serialize};
use statrs::function::beta::{beta_reg, ln_beta};
use statrs::function::gamma::digamma;

use crate::error::{Error, ErrorKind, Result};

/// EM steps before the fit is taken as it is.
const MAX_STEPS: usize = 500;
/// A rise of the mean log-likelihood below this ends EM.
const TOLERANCE: f64 = 1e-9;
/// Shapes beyond these say no more than the end of the range does.
const SHAPES: std::ops::RangeInclusive<f64> = 0.05..=2000.0;
/// Fewer confidences than this between the ends get one component, by their mean and variance.
const MIN_FOR_MIXTURE: usize = 20;

/// The distribution of a confidence in `[low, high]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marginal {
    /// Lowest confidence.
    pub low: f64,
    /// Highest confidence.
    pub high: f64,
    /// Probability of exactly `low`.
    pub at_low: f64,
    /// Probability of exactly `high`.
    pub at_high: f64,
    /// What is between, scaled to [0, 1].
    pub between: [Beta; 2],
}

/// A component of the mixture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Beta {
    /// Share of the confidences between the ends.
    pub weight: f64,
    /// First shape.
    pub a: f64,
    /// Second shape.
    pub b: f64,
}

impl Marginal {
    /// Lumps by their shares, the mixture by EM.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for confidences that are none, outside [0, 1], or all equal.
    pub fn fit(confidences: &[f64]) -> Result<Self> {
        let low = confidences.iter().copied().fold(f64::INFINITY, f64::min);
        let high = confidences.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !(0.0 <= low && low < high && high <= 1.0) {
            let message = "confidences that are all equal, or no probabilities, have no distribution to fit";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let share = |end: f64| {
            confidences.iter().filter(|confidence| **confidence == end).count() as f64 / confidences.len() as f64
        };
        let between: Vec<f64> = confidences
            .iter()
            .filter(|confidence| **confidence > low && **confidence < high)
            .map(|confidence| ((confidence - low) / (high - low)).clamp(1e-12, 1.0 - 1e-12))
            .collect();
        Ok(Self { low, high, at_low: share(low), at_high: share(high), between: mixture(&between) })
    }

    /// Probability of a confidence of at most `x`.
    #[must_use]
    pub fn cdf(&self, x: f64) -> f64 {
        if x < self.low {
            return 0.0;
        }
        if x >= self.high {
            return 1.0;
        }
        let scaled = (x - self.low) / (self.high - self.low);
        let between: f64 = self.between.iter().map(|beta| beta.weight * beta_reg(beta.a, beta.b, scaled)).sum();
        (self.at_low + (1.0 - self.at_low - self.at_high) * between).min(1.0)
    }
}

impl Beta {
    fn log_density(&self, x: f64) -> f64 {
        (self.a - 1.0) * x.ln() + (self.b - 1.0) * (-x).ln_1p() - ln_beta(self.a, self.b)
    }

    /// The shapes of this mean and variance.
    fn of_moments(weight: f64, mean: f64, variance: f64) -> Self {
        let common = (mean * (1.0 - mean) / variance.max(1e-9) - 1.0).max(1e-3);
        Self { weight, a: shape(mean * common), b: shape((1.0 - mean) * common) }
    }

    /// The shapes of greatest likelihood given the means of `ln x` and `ln(1 - x)`, by Newton's method from here.
    fn improved(self, weight: f64, mean_ln: f64, mean_ln_rest: f64) -> Self {
        let (mut a, mut b) = (self.a, self.b);
        for _ in 0..50 {
            let common = digamma(a + b);
            let (of_a, of_b) = (common - digamma(a) + mean_ln, common - digamma(b) + mean_ln_rest);
            let (cross, curve_a, curve_b) = (trigamma(a + b), trigamma(a), trigamma(b));
            // Ascent of a concave function: [[cross - curve_a, cross], [cross, cross - curve_b]] is its Hessian.
            let determinant = (cross - curve_a) * (cross - curve_b) - cross * cross;
            let step_a = ((cross - curve_b) * of_a - cross * of_b) / determinant;
            let step_b = ((cross - curve_a) * of_b - cross * of_a) / determinant;
            let next = |shape: f64, step: f64| if shape - step > shape / 4.0 { shape - step } else { shape / 4.0 };
            let (next_a, next_b) = (shape(next(a, step_a)), shape(next(b, step_b)));
            let moved = (next_a - a).abs() / a + (next_b - b).abs() / b;
            (a, b) = (next_a, next_b);
            if moved < 1e-12 {
                break;
            }
        }
        Self { weight, a, b }
    }
}

/// Two components on (0, 1): EM from the halves below and above the median.
fn mixture(values: &[f64]) -> [Beta; 2] {
    let none = Beta { weight: 0.0, a: 1.0, b: 1.0 };
    if values.is_empty() {
        return [Beta { weight: 1.0, ..none }, none];
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let moments = |weight: f64, values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        Beta::of_moments(weight, mean, variance)
    };
    if values.len() < MIN_FOR_MIXTURE {
        return [moments(1.0, &sorted), none];
    }
    let (lower, upper) = sorted.split_at(sorted.len() / 2);
    let mut components = [moments(0.5, lower), moments(0.5, upper)];
    let mut before = f64::NEG_INFINITY;
    for _ in 0..MAX_STEPS {
        let mut sums = [[0.0; 3]; 2];
        let mut likelihood = 0.0;
        for x in &sorted {
            let logs = components.map(|beta| beta.weight.ln() + beta.log_density(*x));
            let largest = logs[0].max(logs[1]);
            let densities = logs.map(|log| (log - largest).exp());
            let density = densities[0] + densities[1];
            likelihood += largest + density.ln();
            for (sums, one) in sums.iter_mut().zip(densities) {
                let share = one / density;
                sums[0] += share;
                sums[1] += share * x.ln();
                sums[2] += share * (-x).ln_1p();
            }
        }
        let mean = likelihood / sorted.len() as f64;
        if mean - before < TOLERANCE {
            break;
        }
        before = mean;
        for (component, [count, ln, ln_rest]) in components.iter_mut().zip(sums) {
            // A component that nothing is left of stays as it is, with its weight of nothing.
            let weight = count / sorted.len() as f64;
            *component = if count > 1e-6 {
                component.improved(weight, ln / count, ln_rest / count)
            } else {
                Beta { weight, ..*component }
            };
        }
    }
    components
}

fn shape(shape: f64) -> f64 {
    shape.clamp(*SHAPES.start(), *SHAPES.end())
}

/// Derivative of [`digamma`], by its recurrence and asymptotic series (Abramowitz & Stegun 6.4.6, 6.4.12).
fn trigamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 12.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    sum + 1.0 / x
        + square / 2.0
        + square / x * (1.0 / 6.0 - square * (1.0 / 30.0 - square * (1.0 / 42.0 - square / 30.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigamma_at_known_places() {
        let pi = std::f64::consts::PI;
        assert!((trigamma(1.0) - pi * pi / 6.0).abs() < 1e-13);
        assert!((trigamma(0.5) - pi * pi / 2.0).abs() < 1e-12);
    }

    #[test]
    fn lumps_and_what_is_between() {
        let mut confidences = vec![0.2; 10];
        confidences.extend([0.9; 30]);
        confidences.extend((1..=60).map(|i| 0.2 + 0.7 * f64::from(i) / 61.0));
        let marginal = Marginal::fit(&confidences).unwrap();
        assert_eq!((marginal.low, marginal.high, marginal.at_low, marginal.at_high), (0.2, 0.9, 0.1, 0.3));
        assert_eq!((marginal.cdf(0.19), marginal.cdf(0.2), marginal.cdf(0.9)), (0.0, 0.1, 1.0));
        assert!((marginal.cdf(0.55) - 0.4).abs() < 0.01, "{}", marginal.cdf(0.55));
        assert!(marginal.cdf(0.9_f64.next_down()) <= 0.7 + 1e-12);
    }

    #[test]
    fn what_has_no_distribution_is_refused() {
        for confidences in [&[][..], &[0.5, 0.5], &[0.5, 1.5], &[f64::NAN, 0.5]] {
            assert_eq!(Marginal::fit(confidences).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
