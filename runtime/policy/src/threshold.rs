//! Thresholds: from which score on an answer is kept.

use core::fmt;

use crate::rule::Score;

/// Keep if the score is at or above this. Never NaN; infinite at the two ends.
///
/// In text formats through serde a number, or the strings `"-inf"` and `"inf"`, which JSON cannot write as numbers.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Threshold(f32);

/// A threshold that is not a number. The configuration's author is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThresholdError;

impl Threshold {
    /// Every answer that has a score is kept. One without (no token, invalid signals) is still deferred.
    pub const KEEP_ALL: Self = Self(f32::NEG_INFINITY);

    /// Every answer is deferred: scores are finite.
    pub const DEFER_ALL: Self = Self(f32::INFINITY);

    /// A threshold in the unit of the rule's score.
    ///
    /// # Errors
    /// [`ThresholdError`] if `value` is NaN.
    pub const fn new(value: f32) -> Result<Self, ThresholdError> {
        if value.is_nan() { Err(ThresholdError) } else { Ok(Self(value)) }
    }

    /// The number itself, perhaps infinite, never NaN.
    #[must_use]
    pub const fn value(self) -> f32 {
        self.0
    }

    /// Whether an answer with this score is kept.
    #[must_use]
    pub fn keeps(self, score: Score) -> bool {
        score.value() >= self.0
    }
}

/// Reflexive, because it is never NaN.
impl Eq for Threshold {}

impl TryFrom<f32> for Threshold {
    type Error = ThresholdError;

    fn try_from(value: f32) -> Result<Self, ThresholdError> {
        Self::new(value)
    }
}

impl From<Threshold> for f32 {
    fn from(threshold: Threshold) -> Self {
        threshold.0
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ThresholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a threshold must be a number")
    }
}

impl core::error::Error for ThresholdError {}

#[cfg(feature = "serde")]
mod with_serde {
    use core::fmt;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Threshold;

    impl Serialize for Threshold {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match *self {
                Self::KEEP_ALL if serializer.is_human_readable() => serializer.serialize_str("-inf"),
                Self::DEFER_ALL if serializer.is_human_readable() => serializer.serialize_str("inf"),
                Self(value) => serializer.serialize_f32(value),
            }
        }
    }

    impl<'de> Deserialize<'de> for Threshold {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            if deserializer.is_human_readable() {
                return deserializer.deserialize_any(NumberOrWord);
            }
            Self::new(f32::deserialize(deserializer)?).map_err(D::Error::custom)
        }
    }

    struct NumberOrWord;

    impl Visitor<'_> for NumberOrWord {
        type Value = Threshold;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, \"-inf\" or \"inf\"")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Threshold, E> {
            let nearest = value as f32;
            if value.is_finite() && nearest.is_finite() {
                return Ok(Threshold(nearest));
            }
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Threshold, E> {
            Ok(Threshold(value as f32))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Threshold, E> {
            Ok(Threshold(value as f32))
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<Threshold, E> {
            match word {
                "-inf" => Ok(Threshold::KEEP_ALL),
                "inf" => Ok(Threshold::DEFER_ALL),
                _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
            }
        }
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Threshold, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn infinities_are_words() {
        assert_eq!(serde_json::to_string(&[Threshold::KEEP_ALL, Threshold::DEFER_ALL]).unwrap(), r#"["-inf","inf"]"#);
        assert_eq!(read(r#""-inf""#).unwrap(), Threshold::KEEP_ALL);
        assert_eq!(read(r#""inf""#).unwrap(), Threshold::DEFER_ALL);
        assert_eq!(read("-2").unwrap().value(), -2.0);
        for malformed in [r#""nan""#, r#""NaN""#, r#""0.5""#, "null", "1e39", "-1e300", "[]"] {
            assert!(read(malformed).is_err(), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn every_threshold_is_read_back_to_the_bit(value in any::<f32>().prop_filter("NaN", |x| !x.is_nan())) {
            let json = serde_json::to_string(&Threshold::new(value).unwrap()).unwrap();
            prop_assert_eq!(read(&json).unwrap().value().to_bits(), value.to_bits(), "{}", json.to_string());
        }
    }
}
