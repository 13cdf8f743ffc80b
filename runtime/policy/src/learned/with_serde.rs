//! `{"intercept": 2.5, "weights": {"quantile-10": 0.5}}`, `{"scores": [-1, 0], "values": [0.2, 0.9]}` and
//! `{"features": ["minimum"], "units": [{"intercept": 1, "weights": [0.5], "output": -2}], "bias": 0.25}`.

use core::fmt;

use heapless::Vec;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::{
    Feature, LearnedError, Linear, MAX_FEATURES, MAX_KNOTS, MAX_MLP_FEATURES, MAX_MLP_UNITS, Mlp, MlpUnit,
    PiecewiseLinear,
};

impl Serialize for Linear {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Linear", 2)?;
        fields.serialize_field("intercept", &self.intercept.0)?;
        fields.serialize_field("weights", &Weights::of(self))?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Linear {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            intercept: f32,
            weights: Weights,
        }
        let Fields { intercept, weights } = Fields::deserialize(deserializer)?;
        Self::new(intercept, &weights.0).map_err(D::Error::custom)
    }
}

/// Weights by the feature's word. A map of the library would let the last of two duplicates win.
struct Weights(Vec<(Feature, f32), MAX_FEATURES>);

impl Weights {
    fn of(linear: &Linear) -> Self {
        Self(linear.weights().collect())
    }
}

impl Serialize for Weights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(feature, weight)| (Word(*feature), weight)))
    }
}

impl<'de> Deserialize<'de> for Weights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Weights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of at most {MAX_FEATURES} features and their weights")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Weights, A::Error> {
                let mut weights = Vec::new();
                while let Some((Word(feature), weight)) = entries.next_entry()? {
                    weights.push((feature, weight)).map_err(|_| A::Error::custom(LearnedError::TooManyFeatures))?;
                }
                Ok(Weights(weights))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

struct Word(Feature);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a feature")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Word, E> {
                word.parse().map(Word).map_err(|_| E::custom(format_args!("`{word}` is no feature")))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Knots {
    scores: Vec<f32, MAX_KNOTS>,
    values: Vec<f32, MAX_KNOTS>,
}

impl Serialize for PiecewiseLinear {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (scores, values) = self.knots().unzip::<_, _, Vec<_, MAX_KNOTS>, Vec<_, MAX_KNOTS>>();
        Knots { scores, values }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PiecewiseLinear {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Knots { scores, values } = Knots::deserialize(deserializer)?;
        if scores.len() != values.len() {
            return Err(D::Error::custom("there must be as many values as scores"));
        }
        let knots: Vec<(f32, f32), MAX_KNOTS> = scores.into_iter().zip(values).collect();
        Self::new(&knots).map_err(D::Error::custom)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    features: Vec<Word, MAX_MLP_FEATURES>,
    units: Vec<NetworkUnit, MAX_MLP_UNITS>,
    bias: f32,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkUnit {
    intercept: f32,
    weights: Vec<f32, MAX_MLP_FEATURES>,
    output: f32,
}

impl Serialize for Mlp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (units, bias) = self.written();
        let units =
            units.map(|(intercept, weights, output)| NetworkUnit { intercept, weights: weights.collect(), output });
        Network { features: self.features().map(Word).collect(), units: units.collect(), bias }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mlp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Network { features, units, bias } = Network::deserialize(deserializer)?;
        let features: Vec<Feature, MAX_MLP_FEATURES> = features.into_iter().map(|Word(feature)| feature).collect();
        let units = units.iter().map(|unit| {
            let NetworkUnit { intercept, weights, output } = unit;
            MlpUnit { intercept: *intercept, weights, output: *output }
        });
        Self::new(&features, units, bias).map_err(D::Error::custom)
    }
}
