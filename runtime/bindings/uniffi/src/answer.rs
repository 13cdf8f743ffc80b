//! Answers, and all that they say of themselves.

use std::time::Duration;

use crate::error::MargayError;

/// The end of a query: the text, who wrote it, and everything that led to it.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Answer {
    /// The answer; empty if nobody gives one.
    pub text: String,
    /// Who wrote it.
    pub origin: Origin,
    /// The device's confidence by `rule`; higher means keep.
    pub score: Option<f32>,
    /// What the score was held against.
    pub threshold: f32,
    /// The rule behind score and threshold.
    pub rule: String,
    /// Why the device's answer did not simply stand, e.g. `low-confidence`.
    pub reason: Option<String>,
    /// What the cloud failed with, if it was asked and did.
    pub cloud_error: Option<MargayError>,
    /// Why the large model's answer ends where it ends, in its server's word.
    pub finish_reason: Option<String>,
    /// Tokens on the device.
    pub local_tokens: Tokens,
    /// Tokens in the cloud, as it says.
    pub cloud_tokens: Option<Tokens>,
    /// Tokens the device was spared by stopping early, at most.
    pub saved_tokens: u64,
    /// Exchanges behind a cloud answer.
    pub attempts: u32,
    /// Time on the device, waiting for its turn included.
    pub local_time: Duration,
    /// Time waiting for the cloud, retries included.
    pub cloud_time: Option<Duration>,
    /// From the question to the answer.
    pub total_time: Duration,
    /// The model on the device, to which score and threshold belong.
    pub model_digest: String,
}

/// Who wrote an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Origin {
    /// The small model on the device.
    Local,
    /// The large model.
    Cloud,
    /// Nobody yet: the prompt waits in the outbox.
    Queued,
    /// Nobody: the device was unsure, and nobody else could or might be asked.
    Abstained,
    /// Somebody that this interface does not know.
    Unknown,
}

/// Tokens a model read and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct Tokens {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
}

impl From<margay::Answer> for Answer {
    fn from(answer: margay::Answer) -> Self {
        Self {
            text: answer.text,
            origin: answer.origin.into(),
            score: answer.score.map(|score| score.value()),
            threshold: answer.threshold.value(),
            rule: answer.rule.to_string(),
            reason: answer.reason.map(|reason| reason.to_string()),
            cloud_error: answer.cloud_error.map(MargayError::from),
            finish_reason: answer.finish_reason,
            local_tokens: answer.usage.local.into(),
            cloud_tokens: answer.usage.cloud.map(Tokens::from),
            saved_tokens: answer.saved_tokens,
            attempts: answer.attempts,
            local_time: answer.timings.local,
            cloud_time: answer.timings.cloud,
            total_time: answer.timings.total,
            model_digest: answer.model_digest.to_string(),
        }
    }
}

impl From<margay::Origin> for Origin {
    fn from(origin: margay::Origin) -> Self {
        match origin {
            margay::Origin::Local => Self::Local,
            margay::Origin::Cloud => Self::Cloud,
            margay::Origin::Queued => Self::Queued,
            margay::Origin::Abstained => Self::Abstained,
            _ => Self::Unknown,
        }
    }
}

impl From<margay::Tokens> for Tokens {
    fn from(tokens: margay::Tokens) -> Self {
        Self { input: tokens.input, output: tokens.output }
    }
}
