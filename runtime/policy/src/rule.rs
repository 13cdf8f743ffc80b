//! Deferral rules: which number of an answer's aggregates is its score.

use core::fmt;
use core::str::FromStr;

use crate::aggregate::Aggregate;

/// A deferral rule maps the aggregates of an answer to one score; higher means keep.
///
/// Written as words: `chow-average`, `chow-sum`, `first-token`, `minimum`, `quantile-10`, `mean-entropy`,
/// `mean-margin`. Through serde the same, but for `{"quantile": 10}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Rule {
    /// Mean log-probability per token: `(1/N) sum log p(y_i)`. The rule of cascade-aware training (arXiv
    /// 2406.00060) and the average form of Chow's rule (Gupta et al., arXiv 2404.10136).
    ChowAverage,
    /// Log-likelihood of the answer: `sum log p(y_i)`. Chow's rule (1970) on whole sequences; long answers
    /// score lower.
    ChowSum,
    /// Log-probability of the first token: for greedy answers the logarithm of max-softmax (Hendrycks &
    /// Gimpel, arXiv 1610.02136).
    FirstToken,
    /// Log-probability of the least likely token.
    Minimum,
    /// Quantile of the tokens' log-probabilities (arXiv 2404.10136): 0 % is the minimum, 50 % the median.
    Quantile(Percent),
    /// Mean entropy of the next-token distributions, negated so that higher means keep.
    MeanEntropy,
    /// Mean margin between the two likeliest tokens.
    MeanMargin,
}

/// What a rule says about an answer: finite, higher means keep, in nats for every rule there is today.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct Score(f32);

/// A share from 0 to 100 %, in whole per cent, so that ranks are computed in integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "u8", into = "u8"))]
pub struct Percent(u8);

/// Words that name no rule. The configuration's author is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleError {
    /// No rule has that name.
    UnknownRule,
    /// A share outside 0 to 100 %.
    PercentOutOfRange,
}

impl Rule {
    /// The answer's score; `None` if there is no token, or one had an invalid signal.
    #[must_use]
    pub fn score(self, answer: &Aggregate) -> Option<Score> {
        match self {
            Self::ChowAverage => answer.mean_log_probability(),
            Self::ChowSum => answer.sum_log_probability(),
            Self::FirstToken => answer.first_log_probability(),
            Self::Minimum => answer.minimum_log_probability(),
            Self::Quantile(level) => answer.quantile_log_probability(level),
            Self::MeanEntropy => answer.mean_entropy().map(|entropy| -entropy),
            Self::MeanMargin => answer.mean_margin(),
        }
        .map(Score)
    }

    /// No score of the finished answer is higher, if that answer begins with these tokens and has at most
    /// `max_tokens`.
    ///
    /// `None` where [`Rule::score`] is `None`. Once an answer is unscorable it stays so.
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
    /// - *margin*: has no bound, but scores are finite.
    #[must_use]
    pub fn ceiling(self, answer: &Aggregate, max_tokens: u32) -> Option<Score> {
        let tokens = max_tokens.max(answer.count());
        match self {
            Self::ChowAverage => answer.mean_log_probability_over(tokens).map(Score),
            Self::MeanEntropy => answer.mean_entropy_over(tokens).map(|entropy| Score(-entropy)),
            Self::Quantile(level) => answer.quantile_log_probability_over(level, tokens).map(Score),
            Self::ChowSum | Self::FirstToken | Self::Minimum => self.score(answer),
            Self::MeanMargin if tokens == answer.count() => self.score(answer),
            Self::MeanMargin => self.score(answer).map(|_| Score(f32::MAX)),
        }
    }
}

impl Score {
    /// The number itself.
    #[must_use]
    pub const fn value(self) -> f32 {
        self.0
    }
}

impl Percent {
    /// A share of `percent` out of a hundred.
    ///
    /// # Errors
    /// [`RuleError::PercentOutOfRange`] above 100.
    pub const fn new(percent: u8) -> Result<Self, RuleError> {
        if percent > 100 { Err(RuleError::PercentOutOfRange) } else { Ok(Self(percent)) }
    }

    /// The rank, from 1, of this quantile among `count` values: the share of them rounded up, at least the first.
    pub(crate) fn rank(self, count: u32) -> u32 {
        let rank = (u64::from(count) * u64::from(self.0)).div_ceil(100);
        // At most `count`, because the share is at most one.
        (rank as u32).max(1)
    }
}

impl From<Score> for f32 {
    fn from(score: Score) -> Self {
        score.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = RuleError;

    fn try_from(percent: u8) -> Result<Self, RuleError> {
        Self::new(percent)
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChowAverage => "chow-average",
            Self::ChowSum => "chow-sum",
            Self::FirstToken => "first-token",
            Self::Minimum => "minimum",
            Self::Quantile(Percent(level)) => return write!(f, "quantile-{level}"),
            Self::MeanEntropy => "mean-entropy",
            Self::MeanMargin => "mean-margin",
        })
    }
}

impl FromStr for Rule {
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

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownRule => "no deferral rule has that name",
            Self::PercentOutOfRange => "a share must be a whole number from 0 to 100 per cent",
        })
    }
}

impl core::error::Error for RuleError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::signals::TokenSignals;

    const RULES: [Rule; 7] = [
        Rule::ChowAverage,
        Rule::ChowSum,
        Rule::FirstToken,
        Rule::Minimum,
        Rule::Quantile(Percent(60)),
        Rule::MeanEntropy,
        Rule::MeanMargin,
    ];

    fn answer() -> Aggregate {
        let mut answer = Aggregate::new();
        answer.observe(TokenSignals { log_probability: -1.0, margin: 0.5, entropy: 2.0 });
        answer.observe(TokenSignals { log_probability: -3.0, margin: 1.5, entropy: 1.0 });
        answer
    }

    #[test]
    fn scores_by_hand() {
        let scores = RULES.map(|rule| rule.score(&answer()).unwrap().value());
        assert_eq!(scores, [-2.0, -4.0, -1.0, -3.0, -1.0, -1.5, 1.0]);
        assert_eq!(RULES.map(|rule| rule.score(&Aggregate::new())), [None; 7]);
    }

    #[test]
    fn ceilings_by_hand() {
        // Six more certain tokens: sums stay, means are over eight; 60 % of eight tokens is the fifth, a zero.
        let of = |tokens| RULES.map(|rule| rule.ceiling(&answer(), tokens).unwrap().value());
        assert_eq!(of(8), [-0.5, -4.0, -1.0, -3.0, 0.0, -0.375, f32::MAX]);
        // Nothing more can come: the score itself.
        assert_eq!(of(2), [-2.0, -4.0, -1.0, -3.0, -1.0, -1.5, 1.0]);
        assert_eq!(RULES.map(|rule| rule.ceiling(&Aggregate::new(), 8)), [None; 7]);
    }

    #[test]
    fn ranks_are_whole_numbers() {
        let rank = |percent, count| Percent(percent).rank(count);
        assert_eq!([rank(0, 10), rank(10, 10), rank(11, 10), rank(100, 10)], [1, 1, 2, 10]);
        assert_eq!(rank(100, u32::MAX), u32::MAX);
    }

    #[test]
    fn words_are_read_back() {
        for rule in RULES {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        assert_eq!("quantile-101".parse::<Rule>(), Err(RuleError::PercentOutOfRange));
        assert_eq!("quantile-x".parse::<Rule>(), Err(RuleError::PercentOutOfRange));
        assert_eq!("chow".parse::<Rule>(), Err(RuleError::UnknownRule));
    }
}
