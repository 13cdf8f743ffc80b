//! What was decided about an answer, and why.

use core::fmt;

use crate::rule::Score;
use crate::threshold::Threshold;

/// What becomes of the small model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Verdict {
    /// It is good enough.
    Keep,
    /// The large model shall answer.
    Defer(Reason),
    /// It is not good enough, and the large model must not or cannot be asked: no answer.
    Abstain(Reason),
}

/// Why an answer is not kept, or the large model not asked. Written in kebab-case words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reason {
    /// The score is below the threshold.
    LowConfidence,
    /// Generation was stopped because the score could no longer reach the threshold.
    EarlyLowConfidence,
    /// A router sent the query on by its prompt alone: the small model was not asked.
    Routed,
    /// The small model wrote nothing.
    NoTokens,
    /// A token's signals were not those of a distribution (NaN, infinite, wrong sign): the small model is broken.
    Unscorable,
    /// There is no way to the large model.
    Offline,
    /// The large model failed repeatedly and is left alone for a while.
    BreakerOpen,
    /// Asking would cost more than is left.
    OverBudget,
    /// The request must not leave the device.
    LocalOnly,
}

/// A verdict with the numbers it was made of.
///
/// If there is a score, the verdict is [`Verdict::Keep`] exactly when the threshold [keeps](Threshold::keeps) it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Decision {
    /// What becomes of the answer.
    pub verdict: Verdict,
    /// The rule's score of the tokens seen; `None` without a token or with invalid signals.
    pub score: Option<Score>,
    /// The threshold of the task.
    pub threshold: Threshold,
}

impl Verdict {
    /// Whether the small model's answer is kept.
    #[must_use]
    pub fn is_keep(self) -> bool {
        self == Self::Keep
    }

    /// Why the answer is not kept.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Keep => None,
            Self::Defer(reason) | Self::Abstain(reason) => Some(reason),
        }
    }

    /// The verdict when a guard forbids to ask the large model: what would be deferred is abstained from, for
    /// `reason`.
    #[must_use]
    pub fn without_cloud(self, reason: Reason) -> Self {
        match self {
            Self::Defer(_) => Self::Abstain(reason),
            decided => decided,
        }
    }
}

impl Reason {
    /// The word for reports and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowConfidence => "low-confidence",
            Self::EarlyLowConfidence => "early-low-confidence",
            Self::Routed => "routed",
            Self::NoTokens => "no-tokens",
            Self::Unscorable => "unscorable",
            Self::Offline => "offline",
            Self::BreakerOpen => "breaker-open",
            Self::OverBudget => "over-budget",
            Self::LocalOnly => "local-only",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.pad("keep"),
            Self::Defer(reason) => write!(f, "defer ({reason})"),
            Self::Abstain(reason) => write!(f, "abstain ({reason})"),
        }
    }
}
