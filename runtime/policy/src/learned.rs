//! What learned rules are made of: weighted features, a map from scores to probabilities, both in constant memory.
//!
//! Fitting is elsewhere; this is what runs. `f32`, a fixed order of operations, no NaN: the same bits everywhere.

mod mlp;

use core::fmt;
use core::hash::{Hash, Hasher};

use crate::aggregate::Aggregate;
use crate::feature::Feature;
use crate::signals::{EXP_LOWEST, exp};

pub use mlp::{MAX_MLP_FEATURES, MAX_MLP_UNITS, Mlp, MlpUnit};

/// Most features of one [`Linear`]: the eleven deciles of Gupta et al. and a few more.
pub const MAX_FEATURES: usize = 16;
/// Most knots of a [`PiecewiseLinear`].
pub const MAX_KNOTS: usize = 16;

/// Log-odds that are linear in an answer's features: `intercept + sum weight * feature`, added in this order.
///
/// Logistic regression on token quantiles is the learned post-hoc rule of Gupta et al. (arXiv 2404.10136). A sum
/// that leaves the range of `f32` stays at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Linear {
    intercept: Finite,
    weights: [(Feature, Finite); MAX_FEATURES],
    length: u8,
}

/// A map that never falls: straight lines between knots, level outside. Isotonic regression, or any calibration
/// sampled at its knots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PiecewiseLinear {
    knots: [(Finite, Finite); MAX_KNOTS],
    length: u8,
}

/// Why a learned rule cannot be built. Whoever fitted it is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LearnedError {
    /// No feature or no knot.
    Empty,
    /// More than [`MAX_FEATURES`] features, or [`MAX_MLP_FEATURES`] of a network.
    TooManyFeatures,
    /// More than [`MAX_MLP_UNITS`] hidden units.
    TooManyUnits,
    /// A hidden unit has not one weight for each feature.
    Weights,
    /// More than [`MAX_KNOTS`] knots.
    TooManyKnots,
    /// A feature has two weights.
    DuplicateFeature(Feature),
    /// A number is infinite or NaN, or two knots are further apart than `f32` can say.
    NotFinite,
    /// Knots whose scores do not rise, or whose values fall.
    NotMonotone,
}

impl Linear {
    /// Log-odds with these weights, per unit of the feature.
    ///
    /// # Errors
    /// [`LearnedError`] for no or too many weights, two for one feature, or a number that is not finite.
    pub fn new(intercept: f32, weights: &[(Feature, f32)]) -> Result<Self, LearnedError> {
        if weights.is_empty() {
            return Err(LearnedError::Empty);
        }
        if weights.len() > MAX_FEATURES {
            return Err(LearnedError::TooManyFeatures);
        }
        let mut kept = [(Feature::ChowAverage, Finite(0.0)); MAX_FEATURES];
        for (at, (feature, weight)) in weights.iter().enumerate() {
            if weights[..at].iter().any(|(before, _)| before == feature) {
                return Err(LearnedError::DuplicateFeature(*feature));
            }
            kept[at] = (*feature, Finite::new(*weight)?);
        }
        Ok(Self { intercept: Finite::new(intercept)?, weights: kept, length: weights.len() as u8 })
    }

    /// Log-odds where all features are 0.
    #[must_use]
    pub fn intercept(&self) -> f32 {
        self.intercept.0
    }

    /// The features with their weights, in the order they are added.
    pub fn weights(&self) -> impl Iterator<Item = (Feature, f32)> {
        self.weights[..usize::from(self.length)].iter().map(|(feature, weight)| (*feature, weight.0))
    }

    /// The log-odds, `feature` being how a feature is read; `None` if one cannot be.
    #[must_use]
    pub fn log_odds(&self, mut feature: impl FnMut(Feature) -> Option<f32>) -> Option<f32> {
        self.sum(|name, _| feature(name))
    }

    /// No completion of this answer within `max_tokens` tokens has greater log-odds: each feature counts with its
    /// ceiling where the weight is positive and with its floor where it is negative, and every step is monotone.
    pub(crate) fn ceiling(&self, answer: &Aggregate, max_tokens: u32) -> Option<f32> {
        self.sum(
            |feature, weight| {
                if weight < 0.0 { feature.floor(answer, max_tokens) } else { feature.ceiling(answer, max_tokens) }
            },
        )
    }

    fn sum(&self, mut feature: impl FnMut(Feature, f32) -> Option<f32>) -> Option<f32> {
        self.weights().try_fold(self.intercept.0, |sum, (name, weight)| {
            Some(saturated(sum + saturated(weight * feature(name, weight)?)))
        })
    }
}

impl PiecewiseLinear {
    /// The map through these knots: scores that rise, values that do not fall.
    ///
    /// # Errors
    /// [`LearnedError`] for no or too many knots, a number that is not finite, or knots out of order.
    pub fn new(knots: &[(f32, f32)]) -> Result<Self, LearnedError> {
        if knots.is_empty() {
            return Err(LearnedError::Empty);
        }
        if knots.len() > MAX_KNOTS {
            return Err(LearnedError::TooManyKnots);
        }
        let mut kept = [(Finite(0.0), Finite(0.0)); MAX_KNOTS];
        for (kept, (score, value)) in kept.iter_mut().zip(knots) {
            *kept = (Finite::new(*score)?, Finite::new(*value)?);
        }
        for two in knots.windows(2) {
            if two[1].0 <= two[0].0 || two[1].1 < two[0].1 {
                return Err(LearnedError::NotMonotone);
            }
            Finite::new(two[1].0 - two[0].0)?;
            Finite::new(two[1].1 - two[0].1)?;
        }
        Ok(Self { knots: kept, length: knots.len() as u8 })
    }

    /// The knots, by ascending score.
    pub fn knots(&self) -> impl Iterator<Item = (f32, f32)> {
        self.knots[..usize::from(self.length)].iter().map(|(score, value)| (score.0, value.0))
    }

    /// The value at a score. Computed so that it never falls: a share of the way to the next knot, and not beyond it.
    #[must_use]
    pub fn at(&self, score: f32) -> f32 {
        let mut below: Option<(f32, f32)> = None;
        for (knot, value) in self.knots() {
            let Some(before) = below.filter(|_| score < knot) else {
                if score < knot {
                    return value;
                }
                below = Some((knot, value));
                continue;
            };
            let share = (score - before.0) / (knot - before.0);
            let between = before.1 + share * (value - before.1);
            return if between > value { value } else { between };
        }
        below.map_or(0.0, |(_, last)| last)
    }
}

/// The probability of log-odds, in [0, 1]; that of -86 for any below.
pub(crate) fn sigmoid(log_odds: f32) -> f32 {
    let size = if log_odds < 0.0 { log_odds } else { -log_odds };
    let odds = exp(if size < EXP_LOWEST { EXP_LOWEST } else { size });
    if log_odds < 0.0 { odds / (1.0 + odds) } else { 1.0 / (1.0 + odds) }
}

fn saturated(number: f32) -> f32 {
    number.clamp(f32::MIN, f32::MAX)
}

/// A number that is neither infinite nor NaN, and has one zero: rules can be compared and hashed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Finite(f32);

impl Finite {
    fn new(number: f32) -> Result<Self, LearnedError> {
        // Adding 0 turns -0 into 0.
        if number.is_finite() { Ok(Self(number + 0.0)) } else { Err(LearnedError::NotFinite) }
    }
}

/// Reflexive, because it is never NaN.
impl Eq for Finite {}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for LearnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a learned rule needs a feature, a network a unit, and a map a knot"),
            Self::TooManyFeatures => {
                write!(f, "more than {MAX_FEATURES} features, or {MAX_MLP_FEATURES} of a network")
            }
            Self::TooManyUnits => write!(f, "more than {MAX_MLP_UNITS} hidden units"),
            Self::Weights => f.write_str("a hidden unit needs one weight for each feature"),
            Self::TooManyKnots => write!(f, "more than {MAX_KNOTS} knots"),
            Self::DuplicateFeature(feature) => write!(f, "feature `{feature}` has two weights"),
            Self::NotFinite => f.write_str("a weight or knot is not a finite number"),
            Self::NotMonotone => f.write_str("knots must have rising scores and values that do not fall"),
        }
    }
}

impl core::error::Error for LearnedError {}

#[cfg(feature = "serde")]
mod with_serde;

#[cfg(test)]
mod tests;
