//! A network with one small hidden layer over an answer's features.

use crate::aggregate::Aggregate;
use crate::feature::Feature;

use super::{Finite, LearnedError, saturated};

/// Most features of an [`Mlp`].
pub const MAX_MLP_FEATURES: usize = 8;
/// Most hidden units of an [`Mlp`].
pub const MAX_MLP_UNITS: usize = 8;

/// Log-odds that bend: `bias + sum_u weight_u max(0, intercept_u + sum_f weight_uf * feature_f)`, added in this order.
///
/// A sum that leaves the range of `f32` stays at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mlp {
    features: [Feature; MAX_MLP_FEATURES],
    units: [Unit; MAX_MLP_UNITS],
    bias: Finite,
    /// How many features and units there are.
    size: (u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Unit {
    intercept: Finite,
    weights: [Finite; MAX_MLP_FEATURES],
    /// Its weight in the log-odds.
    output: Finite,
}

/// A hidden unit as it is written down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpUnit<'a> {
    /// Added to its weighted features.
    pub intercept: f32,
    /// One for each feature.
    pub weights: &'a [f32],
    /// Its weight in the log-odds.
    pub output: f32,
}

impl Mlp {
    /// A network over these features with these hidden units.
    ///
    /// # Errors
    /// [`LearnedError`] for no or too many features or units, a feature that is there twice, a unit with another number of
    /// weights than there are features, or a number that is not finite.
    pub fn new<'a>(
        features: &[Feature],
        units: impl IntoIterator<Item = MlpUnit<'a>>,
        bias: f32,
    ) -> Result<Self, LearnedError> {
        if features.is_empty() {
            return Err(LearnedError::Empty);
        }
        if features.len() > MAX_MLP_FEATURES {
            return Err(LearnedError::TooManyFeatures);
        }
        let mut mlp = Self {
            features: [Feature::ChowAverage; MAX_MLP_FEATURES],
            units: [Unit::NONE; MAX_MLP_UNITS],
            bias: Finite::new(bias)?,
            size: (features.len() as u8, 0),
        };
        for (at, feature) in features.iter().enumerate() {
            if features[..at].contains(feature) {
                return Err(LearnedError::DuplicateFeature(*feature));
            }
            mlp.features[at] = *feature;
        }
        for unit in units {
            let place = mlp.units.get_mut(usize::from(mlp.size.1)).ok_or(LearnedError::TooManyUnits)?;
            if unit.weights.len() != features.len() {
                return Err(LearnedError::Weights);
            }
            place.intercept = Finite::new(unit.intercept)?;
            place.output = Finite::new(unit.output)?;
            for (place, weight) in place.weights.iter_mut().zip(unit.weights) {
                *place = Finite::new(*weight)?;
            }
            mlp.size.1 += 1;
        }
        if mlp.size.1 == 0 { Err(LearnedError::Empty) } else { Ok(mlp) }
    }

    /// The features, in the order of the weights.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        self.features[..usize::from(self.size.0)].iter().copied()
    }

    /// The log-odds, `feature` being how a feature is read; `None` if one cannot be.
    #[must_use]
    pub fn log_odds(&self, mut feature: impl FnMut(Feature) -> Option<f32>) -> Option<f32> {
        let mut values = [0.0; MAX_MLP_FEATURES];
        for (value, name) in values.iter_mut().zip(self.features()) {
            *value = feature(name)?;
        }
        Some(self.sum(|unit| unit.reading(|place, _| values[place], usize::from(self.size.0))))
    }

    /// No completion of this answer within `max_tokens` tokens has greater log-odds: a unit counts with the most it can
    /// become where it speaks for keeping, with the least where it speaks against, and every step is monotone.
    pub(crate) fn ceiling(&self, answer: &Aggregate, max_tokens: u32) -> Option<f32> {
        let (mut least, mut most) = ([0.0; MAX_MLP_FEATURES], [0.0; MAX_MLP_FEATURES]);
        for (place, name) in self.features().enumerate() {
            least[place] = name.floor(answer, max_tokens)?;
            most[place] = name.ceiling(answer, max_tokens)?;
        }
        Some(self.sum(|unit| {
            let up = unit.output.0 > 0.0;
            unit.reading(
                |place, weight| if (weight < 0.0) == up { least[place] } else { most[place] },
                self.size.0.into(),
            )
        }))
    }

    fn sum(&self, reading: impl Fn(&Unit) -> f32) -> f32 {
        self.units().fold(self.bias.0, |sum, unit| {
            let sum_of_features = reading(unit);
            let bent = if sum_of_features > 0.0 { sum_of_features } else { 0.0 };
            saturated(sum + saturated(unit.output.0 * bent))
        })
    }

    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units[..usize::from(self.size.1)].iter()
    }

    /// Intercept, weights and weight in the log-odds of every hidden unit; the bias.
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "only written through serde"))]
    pub(super) fn written(&self) -> (impl Iterator<Item = (f32, impl Iterator<Item = f32>, f32)>, f32) {
        let features = usize::from(self.size.0);
        let units = self
            .units()
            .map(move |unit| (unit.intercept.0, unit.weights[..features].iter().map(|weight| weight.0), unit.output.0));
        (units, self.bias.0)
    }
}

impl Unit {
    const NONE: Self = Self { intercept: Finite(0.0), weights: [Finite(0.0); MAX_MLP_FEATURES], output: Finite(0.0) };

    /// The weighted features, `value` giving each by its place and its weight.
    fn reading(&self, value: impl Fn(usize, f32) -> f32, features: usize) -> f32 {
        self.weights[..features].iter().enumerate().fold(self.intercept.0, |sum, (place, weight)| {
            saturated(sum + saturated(weight.0 * value(place, weight.0)))
        })
    }
}
