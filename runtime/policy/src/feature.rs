//! Features: the numbers of an answer that rules read, with what they can still become while it is written.

use core::fmt;
use core::str::FromStr;

use crate::aggregate::Aggregate;
use crate::rule::{Percent, RuleError};

/// A number read off an answer's aggregates; higher speaks for keeping it.
///
/// Written as words, which are also the names of its columns in outcome tables (`signal.quantile-10`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// `chow-average`: mean log-probability per token, in nats.
    ChowAverage,
    /// `chow-sum`: log-likelihood of the answer, in nats.
    ChowSum,
    /// `first-token`: log-probability of the first token, in nats.
    FirstToken,
    /// `minimum`: log-probability of the least likely token, in nats.
    Minimum,
    /// `quantile-10`: quantile of the tokens' log-probabilities, in nats.
    Quantile(Percent),
    /// `mean-entropy`: mean entropy of the next-token distributions, negated, in nats.
    MeanEntropy,
    /// `mean-margin`: mean margin between the two likeliest tokens, in nats.
    MeanMargin,
}

impl Feature {
    /// The feature of a finished answer; `None` if there is no token, or one had an invalid signal.
    #[must_use]
    pub fn of(self, answer: &Aggregate) -> Option<f32> {
        match self {
            Self::ChowAverage => answer.mean_log_probability(),
            Self::ChowSum => answer.sum_log_probability(),
            Self::FirstToken => answer.first_log_probability(),
            Self::Minimum => answer.minimum_log_probability(),
            Self::Quantile(level) => answer.quantile_log_probability(level),
            Self::MeanEntropy => answer.mean_entropy().map(|entropy| -entropy),
            Self::MeanMargin => answer.mean_margin(),
        }
    }

    /// The feature of the finished answer is at most this, if that answer begins with these tokens and has at most
    /// `max_tokens`.
    ///
    /// # Proof
    /// Let `k` tokens be seen and `n` be there in the end, `k <= n <= m = max_tokens`. Every log-probability
    /// is at most zero. Rounding is monotone: `a <= b` gives `round(a) <= round(b)`, so each line holds for
    /// the computed numbers, not just for reals.
    /// - *sum*: kept as an integer `L` with the sign turned, to which only what is not negative is added:
    ///   `-L_n <= -L_k`.
    /// - *average*: `-L_n / n <= -L_k / n <= -L_k / m`. *Entropy* likewise.
    /// - *minimum*: only sinks. *First token*: fixed.
    /// - *quantile*: the rank `r(n)` grows with `n`. Replacing the unseen tokens by zeros, and adding zeros
    ///   up to `m`, lowers no order statistic; so the `r(n)`-th smallest of the answer is at most the
    ///   `r(m)`-th smallest of the tokens seen and `m - k` zeros. Passing from exact values to cells only
    ///   lowers (a cell counts as its lower end).
    /// - *margin*: has no bound, but features are finite.
    pub(crate) fn ceiling(self, answer: &Aggregate, max_tokens: u32) -> Option<f32> {
        let tokens = max_tokens.max(answer.count());
        match self {
            Self::ChowAverage => answer.mean_log_probability_over(tokens),
            Self::MeanEntropy => answer.mean_entropy_over(tokens).map(|entropy| -entropy),
            Self::Quantile(level) => answer.quantile_log_probability_over(level, tokens),
            Self::ChowSum | Self::FirstToken | Self::Minimum => self.of(answer),
            Self::MeanMargin if tokens == answer.count() => self.of(answer),
            Self::MeanMargin => self.of(answer).map(|_| f32::MAX),
        }
    }

    /// The feature of the finished answer is at least this. Log-probabilities and entropies can always get worse, the
    /// first token and the last word cannot, and a margin is not negative.
    pub(crate) fn floor(self, answer: &Aggregate, max_tokens: u32) -> Option<f32> {
        let now = self.of(answer)?;
        Some(match self {
            Self::FirstToken => now,
            _ if max_tokens <= answer.count() => now,
            Self::MeanMargin => 0.0,
            _ => f32::MIN,
        })
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChowAverage => "chow-average",
            Self::ChowSum => "chow-sum",
            Self::FirstToken => "first-token",
            Self::Minimum => "minimum",
            Self::Quantile(level) => return write!(f, "quantile-{}", u8::from(*level)),
            Self::MeanEntropy => "mean-entropy",
            Self::MeanMargin => "mean-margin",
        })
    }
}

impl FromStr for Feature {
    type Err = RuleError;

    fn from_str(word: &str) -> Result<Self, RuleError> {
        Ok(match word {
            "chow-average" => Self::ChowAverage,
            "chow-sum" => Self::ChowSum,
            "first-token" => Self::FirstToken,
            "minimum" => Self::Minimum,
            "mean-entropy" => Self::MeanEntropy,
            "mean-margin" => Self::MeanMargin,
            _ => {
                let level = word.strip_prefix("quantile-").ok_or(RuleError::UnknownRule)?;
                Self::Quantile(Percent::new(level.parse().map_err(|_| RuleError::PercentOutOfRange)?)?)
            }
        })
    }
}
