//! Deferral rules: which number of an answer's aggregates is its score.

use core::fmt;
use core::str::FromStr;

use crate::aggregate::Aggregate;
use crate::feature::Feature;
use crate::learned::{Linear, Mlp, PiecewiseLinear, sigmoid};

/// A deferral rule maps the aggregates of an answer to one score; higher means keep.
///
/// Those that are one feature are written as its word: `chow-average`, `chow-sum`, `first-token`, `minimum`,
/// `quantile-10`, `mean-entropy`, `mean-margin`. Through serde the same, but for `{"quantile": 10}` and the learned ones,
/// e.g. `{"linear": {"intercept": 2.5, "weights": {"quantile-10": 0.5}}}`.
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
    /// Log-odds that the answer is right, learned from outcomes: the post-hoc rule of Gupta et al. (arXiv 2404.10136)
    /// where the features are quantiles.
    Linear(Linear),
    /// The same through a calibration map: a probability if the map's values are.
    Calibrated {
        /// What the map is applied to.
        linear: Linear,
        /// From log-odds to the score.
        map: PiecewiseLinear,
    },
    /// `P(small model right) - P(large model right)`, both learned from the small model's features. The Bayes rule
    /// defers where this is below minus the price of deferring (Jitkrittum et al., arXiv 2307.02764).
    Benefit {
        /// Log-odds of the small model.
        small: Linear,
        /// Log-odds of the large model.
        large: Linear,
    },
    /// Log-odds that the answer is right, learned by a network with one small hidden layer.
    Mlp(Mlp),
    /// The log-odds that a [`Router`](crate::Router) gives the prompt alone. It is what decided where nothing was generated,
    /// and no rule of a policy: no answer has a score by it, and no form of a policy holds it.
    #[cfg_attr(feature = "serde", serde(skip))]
    Router,
}

/// What a rule says about an answer: finite, higher means keep. In nats for a rule that is one feature, log-odds, a
/// probability or a difference of two for learned ones.
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
    pub fn score(&self, answer: &Aggregate) -> Option<Score> {
        self.score_of(|feature| feature.of(answer))
    }

    /// The score from features read elsewhere, such as an outcome table: the same arithmetic, so the same bits.
    ///
    /// `None` if a feature that the rule needs is missing, or the score would not be finite.
    #[must_use]
    pub fn score_of(&self, mut feature: impl FnMut(Feature) -> Option<f32>) -> Option<Score> {
        let score = match self {
            Self::Linear(linear) => linear.log_odds(feature)?,
            Self::Calibrated { linear, map } => map.at(linear.log_odds(feature)?),
            Self::Benefit { small, large } => {
                sigmoid(small.log_odds(&mut feature)?) - sigmoid(large.log_odds(&mut feature)?)
            }
            Self::Mlp(mlp) => mlp.log_odds(feature)?,
            of_one => feature(of_one.feature()?)?,
        };
        Score::of(score)
    }

    /// No score of the finished answer is higher, if that answer begins with these tokens and has at most
    /// `max_tokens`.
    ///
    /// `None` where [`Rule::score`] is `None`. Once an answer is unscorable it stays so. For one feature it is the
    /// feature's ceiling, whose proof is there; a sum of ceilings, or floors where the weight is negative, bounds a
    /// sum; a map that never falls keeps the order; and a benefit is at most 1.
    #[must_use]
    pub fn ceiling(&self, answer: &Aggregate, max_tokens: u32) -> Option<Score> {
        let ceiling = match self {
            Self::Linear(linear) => linear.ceiling(answer, max_tokens)?,
            Self::Calibrated { linear, map } => map.at(linear.ceiling(answer, max_tokens)?),
            Self::Benefit { .. } if answer.count() < max_tokens => self.score(answer).map(|_| 1.0)?,
            Self::Benefit { .. } => return self.score(answer),
            Self::Mlp(mlp) => mlp.ceiling(answer, max_tokens)?,
            of_one => of_one.feature()?.ceiling(answer, max_tokens)?,
        };
        Some(Score(ceiling))
    }

    /// The features that the rule reads, some perhaps twice.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let (first, second) = match self {
            Self::Linear(linear) | Self::Calibrated { linear, .. } => (Some(linear), None),
            Self::Benefit { small, large } => (Some(small), Some(large)),
            _ => (None, None),
        };
        let learned = [first, second].into_iter().flatten().flat_map(|linear| linear.weights().map(|(name, _)| name));
        let network = if let Self::Mlp(mlp) = self { Some(mlp) } else { None };
        self.feature().into_iter().chain(learned).chain(network.into_iter().flat_map(Mlp::features))
    }

    /// The one feature that the rule is; `None` for learned rules.
    fn feature(&self) -> Option<Feature> {
        Some(match self {
            Self::ChowAverage => Feature::ChowAverage,
            Self::ChowSum => Feature::ChowSum,
            Self::FirstToken => Feature::FirstToken,
            Self::Minimum => Feature::Minimum,
            Self::Quantile(level) => Feature::Quantile(*level),
            Self::MeanEntropy => Feature::MeanEntropy,
            Self::MeanMargin => Feature::MeanMargin,
            Self::Linear(_) | Self::Calibrated { .. } | Self::Benefit { .. } | Self::Mlp(_) | Self::Router => {
                return None;
            }
        })
    }
}

impl From<Feature> for Rule {
    fn from(feature: Feature) -> Self {
        match feature {
            Feature::ChowAverage => Self::ChowAverage,
            Feature::ChowSum => Self::ChowSum,
            Feature::FirstToken => Self::FirstToken,
            Feature::Minimum => Self::Minimum,
            Feature::Quantile(level) => Self::Quantile(level),
            Feature::MeanEntropy => Self::MeanEntropy,
            Feature::MeanMargin => Self::MeanMargin,
        }
    }
}

impl Score {
    pub(crate) fn of(score: f32) -> Option<Self> {
        score.is_finite().then_some(Self(score))
    }

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

/// The word of a rule that is one feature; of a learned one, its kind.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(_) => f.pad("linear"),
            Self::Calibrated { .. } => f.pad("calibrated"),
            Self::Benefit { .. } => f.pad("benefit"),
            Self::Mlp(_) => f.pad("mlp"),
            Self::Router => f.pad("router"),
            of_one => of_one.feature().map_or(Ok(()), |feature| feature.fmt(f)),
        }
    }
}

/// Learned rules have no word.
impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(word: &str) -> Result<Self, RuleError> {
        word.parse::<Feature>().map(Self::from)
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
    use crate::learned::MlpUnit;
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
    fn learned_rules_by_hand() {
        // Of the answer: average -2, minimum -3, entropy -1.5.
        let linear = Linear::new(3.0, &[(Feature::ChowAverage, 0.5), (Feature::MeanEntropy, 1.0)]).unwrap();
        let large = Linear::new(0.0, &[(Feature::Minimum, -1.0)]).unwrap();
        let map = PiecewiseLinear::new(&[(0.0, 0.25), (1.0, 0.75)]).unwrap();
        let score = |rule: Rule| rule.score(&answer()).unwrap().value();
        assert_eq!(score(Rule::Linear(linear)), 0.5);
        assert_eq!(score(Rule::Calibrated { linear, map }), 0.5);
        assert_eq!(score(Rule::Benefit { small: linear, large }), sigmoid(0.5) - sigmoid(3.0));

        let ceiling = |rule: Rule, tokens| rule.ceiling(&answer(), tokens).unwrap().value();
        assert_eq!(ceiling(Rule::Linear(linear), 2), 0.5, "nothing more can come");
        assert_eq!(ceiling(Rule::Linear(linear), 8), 3.0 - 0.25 - 0.375, "six more certain tokens");
        assert_eq!(ceiling(Rule::Linear(large), 8), f32::MAX, "a minimum that sinks raises the score");
        assert_eq!(ceiling(Rule::Benefit { small: linear, large }, 8), 1.0);
        // One unit for the average, bent at -1.5, and one against the minimum.
        let features = [Feature::ChowAverage, Feature::Minimum];
        let unit = |intercept, weights, output| MlpUnit { intercept, weights, output };
        let mlp = Mlp::new(&features, [unit(1.5, &[1.0, 0.0], 4.0), unit(0.5, &[0.0, -1.0], -2.0)], 0.25).unwrap();
        assert_eq!(score(Rule::Mlp(mlp)), 0.25 - 2.0 * 3.5, "the first unit is silent");
        assert_eq!(ceiling(Rule::Mlp(mlp), 2), 0.25 - 2.0 * 3.5);
        assert_eq!(ceiling(Rule::Mlp(mlp), 8), 0.25 + 4.0 - 7.0, "the average may rise to -0.5");
        assert!(Rule::Mlp(mlp).features().eq(features));
        assert_eq!(Rule::Linear(linear).score(&Aggregate::new()), None);
        assert_eq!(Rule::Linear(linear).to_string(), "linear");
        assert!(Rule::Linear(linear).features().eq([Feature::ChowAverage, Feature::MeanEntropy]));
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
