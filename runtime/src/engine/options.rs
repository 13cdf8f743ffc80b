//! How an answer is drawn from the model's distributions, and what ends it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Most stop strings of one request; servers that take them from their clients allow four.
pub const MAX_STOP_STRINGS: usize = 64;

/// Longest stop string, in bytes: text is held back for as long as one of them could still be coming.
pub const MAX_STOP_STRING_BYTES: usize = 1 << 10;

/// Longest constraint, in bytes of JSON or of the regular expression.
pub const MAX_CONSTRAINT_BYTES: usize = 1 << 20;

/// Most alternatives of a token that are kept, as OpenAI's API allows.
pub const MAX_ALTERNATIVES: usize = 20;

/// How one answer is generated. The default is greedy, through the chat template, ended by the model's stop tokens.
///
/// ```
/// use margay::{GenerateOptions, Overflow, Sampling};
///
/// let options = GenerateOptions {
///     sampling: Sampling { temperature: 0.7, top_p: Some(0.9), seed: Some(7), ..Sampling::default() },
///     stop: vec!["\n\n".into()],
///     overflow: Overflow::Slide { keep: 64 },
///     ..GenerateOptions::default()
/// };
/// options.check()?;
/// # Ok::<(), margay::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateOptions {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer, itself and what follows not part of it; none may be empty.
    pub stop: Vec<String>,
    /// What happens when prompt and answer outgrow the context.
    pub overflow: Overflow,
    /// Go on past the model's stop tokens, for measuring.
    pub ignore_stop_tokens: bool,
    /// The messages' contents one after the other are the prompt, as they are: no chat template, no special tokens but
    /// those that they spell.
    pub raw_prompt: bool,
    /// How many of the likeliest tokens are kept for each token of the answer, see [`Alternative`](crate::Alternative).
    pub alternatives: usize,
    /// What the answer's text must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
}

/// How a token is chosen. Each step is what Hugging Face transformers' logits processor of that name does, in the order
/// repetition penalty, temperature, top-k, top-p, min-p; then one token is drawn, or, at temperature 0, the likeliest taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token, the lowest id on a tie.
    pub temperature: f32,
    /// Only the `k` likeliest tokens, and those that tie with the last of them.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability; in (0, 1].
    pub top_p: Option<f32>,
    /// Only tokens at least this many times as likely as the likeliest; in [0, 1].
    pub min_p: Option<f32>,
    /// Positive logits of tokens in prompt or answer are divided by it, negative ones multiplied; 1 is no penalty.
    pub repetition_penalty: f32,
    /// Where the random numbers begin; the same seed, prompt and logits give the same answer on every platform. `None` is
    /// a new one each time, which [`Generation::seed`](crate::Generation::seed) names.
    pub seed: Option<u64>,
}

/// What happens when prompt and answer outgrow the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Overflow {
    /// The request is refused with [`ErrorKind::ContextOverflow`] before anything is computed.
    #[default]
    Error,
    /// The oldest half of what follows the first `keep` tokens is forgotten, each time the context is full, and the rest
    /// read again. [`Generation::forgotten_tokens`](crate::Generation::forgotten_tokens) says how many that were.
    Slide {
        /// Tokens at the beginning that are never forgotten, e.g. the system prompt's.
        keep: usize,
    },
}

/// What an answer's text must look like. Needs the feature `constrained`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Constraint {
    /// A JSON document that this JSON schema accepts, without white space between its parts; `true` accepts any.
    JsonSchema(serde_json::Value),
    /// A text that this regular expression matches from beginning to end.
    Regex(String),
}

impl Constraint {
    /// Whether this build can follow one: features are shared by everybody in a build.
    pub const AVAILABLE: bool = cfg!(feature = "constrained");
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: None }
    }
}

impl Sampling {
    /// Whether no random number is drawn.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// # Errors
    /// [`ErrorKind::InvalidRequest`] naming the field that is out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f32, fits: bool, range: &str| {
            if fits {
                return Ok(());
            }
            Err(Error::new(ErrorKind::InvalidRequest, format!("{name} is {value}, which is not {range}")))
        };
        let temperature = self.temperature;
        within("temperature", temperature, (0.0..=1e3).contains(&temperature), "from 0 to 1000")?;
        if self.top_k == Some(0) {
            return Err(Error::new(ErrorKind::InvalidRequest, "top_k is 0: there would be no token to choose"));
        }
        if let Some(p) = self.top_p {
            within("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        }
        if let Some(p) = self.min_p {
            within("min_p", p, (0.0..=1.0).contains(&p), "from 0 to 1")?;
        }
        let penalty = self.repetition_penalty;
        within("repetition_penalty", penalty, (1e-3..=1e3).contains(&penalty), "from 0.001 to 1000")
    }
}

impl GenerateOptions {
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] naming the field that is out of its range.
    pub fn check(&self) -> Result<()> {
        self.sampling.check()?;
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
        if self.stop.len() > MAX_STOP_STRINGS {
            return refuse(format!("{} stop strings are more than {MAX_STOP_STRINGS}", self.stop.len()));
        }
        for (index, stop) in self.stop.iter().enumerate() {
            if stop.is_empty() {
                return refuse(format!("stop string {index} is empty: it would end every answer"));
            }
            if stop.len() > MAX_STOP_STRING_BYTES {
                return refuse(format!("stop string {index} has more than {MAX_STOP_STRING_BYTES} bytes"));
            }
        }
        if self.alternatives > MAX_ALTERNATIVES {
            return refuse(format!("{} alternatives are more than {MAX_ALTERNATIVES}", self.alternatives));
        }
        let length = match &self.constraint {
            None => 0,
            Some(Constraint::JsonSchema(schema)) => schema.to_string().len(),
            Some(Constraint::Regex(regex)) => regex.len(),
        };
        if length > MAX_CONSTRAINT_BYTES {
            return refuse(format!("the constraint has {length} bytes, more than {MAX_CONSTRAINT_BYTES}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let cases: [(&str, Sampling); 9] = [
            ("temperature", Sampling { temperature: -0.1, ..Sampling::default() }),
            ("temperature", Sampling { temperature: f32::NAN, ..Sampling::default() }),
            ("top_k", Sampling { top_k: Some(0), ..Sampling::default() }),
            ("top_p", Sampling { top_p: Some(0.0), ..Sampling::default() }),
            ("top_p", Sampling { top_p: Some(1.1), ..Sampling::default() }),
            ("min_p", Sampling { min_p: Some(f32::NAN), ..Sampling::default() }),
            ("min_p", Sampling { min_p: Some(-0.5), ..Sampling::default() }),
            ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..Sampling::default() }),
            ("repetition_penalty", Sampling { repetition_penalty: f32::INFINITY, ..Sampling::default() }),
        ];
        for (field, sampling) in cases {
            let error = sampling.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().starts_with(field), "{error}");
        }
        assert!(Sampling::default().check().is_ok());
        let stop = |stop: Vec<String>| GenerateOptions { stop, ..GenerateOptions::default() }.check().is_ok();
        assert!(stop(vec!["a".into(); MAX_STOP_STRINGS]));
        assert!(!stop(vec!["a".into(); MAX_STOP_STRINGS + 1]));
        assert!(!stop(vec![String::new()]));
        assert!(!stop(vec!["a".repeat(MAX_STOP_STRING_BYTES + 1)]));
        let kept = |alternatives| GenerateOptions { alternatives, ..GenerateOptions::default() }.check().is_ok();
        assert!(kept(MAX_ALTERNATIVES) && !kept(MAX_ALTERNATIVES + 1));
    }

    #[test]
    fn options_read_from_json_refuse_what_they_do_not_know() {
        let read = |json: &str| serde_json::from_str::<GenerateOptions>(json);
        assert_eq!(read("{}").unwrap(), GenerateOptions::default());
        let some =
            read(r#"{"sampling": {"temperature": 0.5, "top_k": 3}, "overflow": {"slide": {"keep": 4}}}"#).unwrap();
        assert_eq!((some.sampling.top_k, some.overflow), (Some(3), Overflow::Slide { keep: 4 }));
        assert!(read(r#"{"sampling": {"topk": 3}}"#).is_err());
    }
}
