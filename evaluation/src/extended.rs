//! Numbers that may be infinite, in JSON, which has none: the strings `"inf"` and `"-inf"`.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or the word for one that JSON cannot write.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Extended {
    Number(f64),
    Word(String),
}

pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Extended::of(*value).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Extended::deserialize(deserializer)?.value()
}

/// The same for a list of numbers.
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Extended, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|value| Extended::of(*value)).collect::<Vec<_>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Vec::<Extended>::deserialize(deserializer)?.into_iter().map(Extended::value).collect()
    }
}

impl Extended {
    fn of(value: f64) -> Self {
        if value.is_infinite() { Self::Word(value.to_string()) } else { Self::Number(value) }
    }

    fn value<E: Error>(self) -> Result<f64, E> {
        match self {
            Self::Number(value) => Ok(value),
            Self::Word(word) => match word.as_str() {
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                word => Err(E::invalid_value(Unexpected::Str(word), &"a number, \"inf\" or \"-inf\"")),
            },
        }
    }
}
