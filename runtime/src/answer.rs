//! What the caller gets, and why: an answer that explains itself.

use std::fmt;
use std::time::Duration;

use margay_policy::{Reason, Rule, Score, Threshold, TokenSignals};
use serde::{Deserialize, Serialize};

use crate::bundle::digest::ModelDigest;
use crate::engine::{Alternative, Finish, Generation};
use crate::error::Error;
use crate::tool::ToolCall;

/// The end of a query: the text, who wrote it, and everything that led to it.
///
/// | origin | `reason` | `cloud_error` | what happened |
/// | --- | --- | --- | --- |
/// | local | none | none | the device was sure enough |
/// | cloud | some | none | the device was not, the cloud answered |
/// | cloud | `routed` | none | the device was not asked, the cloud answered |
/// | queued | some | some, or none with `breaker-open`, `offline` | the device was not, and the cloud will be asked later |
/// | local or abstained | some | some | the device was not, and the cloud failed |
/// | local or abstained | `over-budget` | some | the device was not, and the cloud would have cost too much |
/// | local or abstained | `breaker-open`, `offline`, `local-only` | none | the device was not, and the cloud could not be asked |
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The answer; empty if nobody gives one.
    pub text: String,
    /// The device's tokens, if the answer is the device's.
    pub tokens: Vec<AnswerToken>,
    /// Why the device's answer ends where it ends, if the answer is the device's.
    pub finish: Option<Finish>,
    /// Functions that the large model asks for.
    pub tool_calls: Vec<ToolCall>,
    /// Why the large model's answer ends where it ends, in its server's word.
    pub finish_reason: Option<String>,
    /// Who wrote it.
    pub origin: Origin,
    /// The device's confidence by `rule`, of as much as it wrote; `None` if there was nothing to score. With the reason
    /// [`Reason::Routed`] the router's score of the prompt.
    pub score: Option<Score>,
    /// What the score was held against.
    pub threshold: Threshold,
    /// The rule behind score and threshold.
    pub rule: Rule,
    /// Why the device's answer did not simply stand.
    pub reason: Option<Reason>,
    /// What the cloud failed with, if it was asked and did.
    pub cloud_error: Option<Error>,
    /// Where the outbox will have the result, if the prompt is queued.
    pub ticket: Option<Ticket>,
    /// What it took, in tokens.
    pub usage: Usage,
    /// What the cloud cost, if it answered and a budget stands before it.
    pub cost: Option<Money>,
    /// Tokens the device was spared by stopping early or not beginning, at most: the room up to `max_tokens`.
    pub saved_tokens: u64,
    /// What it took, in time.
    pub timings: AnswerTimings,
    /// Exchanges behind a cloud answer; zero for any other.
    pub attempts: u32,
    /// The model on the device, to which score and threshold belong.
    pub model_digest: ModelDigest,
}

/// One token of the device's answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AnswerToken {
    /// The token's id; [`crate::Engine::token_text`] has its text.
    pub id: u32,
    /// How sure the model was of it.
    pub signals: TokenSignals,
    /// The likeliest tokens in its place, if [`crate::GenerateOptions::alternatives`] asks for some.
    pub alternatives: Vec<Alternative>,
}

/// Who wrote an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The small model on the device.
    Local,
    /// The large model.
    Cloud,
    /// Nobody yet: the prompt waits in the outbox, under the answer's ticket.
    Queued,
    /// Nobody: the device was unsure, and nobody else could or might be asked.
    Abstained,
}

impl Origin {
    /// The name in traces and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
            Self::Queued => "queued",
            Self::Abstained => "abstained",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the outbox knows a prompt and its result by, for as long as it has either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket with this number, which the caller has kept.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number, to be kept.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// An amount in millionths of a currency unit; which currency, the price table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Money(u64);

impl Money {
    /// 1 000 000 is one unit of the currency.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Millionths of the unit.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl AnswerToken {
    /// Those of a whole generation, its stop token left out.
    pub(crate) fn of(generation: Generation) -> Vec<Self> {
        let mut alternatives = generation.alternatives.into_iter();
        let tokens = generation.token_ids.into_iter().zip(generation.signals);
        let token = |(id, signals)| Self { id, signals, alternatives: alternatives.next().unwrap_or_default() };
        tokens.map(token).collect()
    }
}

/// Tokens a model read and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
}

/// Tokens of one query, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// On the device, repeated generation included.
    pub local: Tokens,
    /// In the cloud, as it says; `None` if it did not answer or did not say.
    pub cloud: Option<Tokens>,
}

/// Where the time of one query went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AnswerTimings {
    /// On the device, waiting for its turn included.
    pub local: Duration,
    /// Waiting for the cloud, retries included; `None` if it was not asked.
    pub cloud: Option<Duration>,
    /// From the question to the answer.
    pub total: Duration,
}
