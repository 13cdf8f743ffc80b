//! What is promised about a threshold, on what evidence, and what must hold for the promise to be kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::extended;

/// What a threshold was chosen to meet, and with it what is promised.
///
/// Written as `{"of": "deferral-rate", "at_most": 0.3}`, `{"of": "risk", "risk": "worse-among-kept", "at_most": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Target {
    /// Share of queries deferred.
    DeferralRate {
        /// In [0, 1].
        at_most: f64,
    },
    /// Mean cost per query, in the unit of the pairing's costs.
    MeanCost {
        /// At least 0.
        at_most: f64,
    },
    /// Mean quality of the answers given.
    MeanQuality {
        /// In [0, 1].
        at_least: f64,
    },
    /// Mean loss of keeping.
    Risk {
        /// Which loss, and over which queries.
        risk: Risk,
        /// In (0, 1).
        at_most: f64,
    },
}

/// A loss in [0, 1] that keeping a local answer can bring, and the queries it is a mean over.
///
/// *Among kept* divides by the number of queries kept: "of the answers that stay local, so many are worse". *Over all*
/// divides by the number of queries; a deferred one has no loss. The former is what a user of the device sees, the
/// latter what the cascade loses against sending everything to the large model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// P(the small model's quality is lower than the large one's | kept).
    WorseAmongKept,
    /// P(kept, and the small model's quality is lower than the large one's).
    WorseOverAll,
    /// E[max(0, large quality - small quality) | kept].
    ShortfallAmongKept,
    /// E[max(0, large quality - small quality) if kept, else 0]: the cascade's mean quality is at least the large
    /// model's less this.
    ShortfallOverAll,
}

impl Risk {
    /// The loss of keeping one query, in [0, 1].
    #[must_use]
    pub fn loss(self, small_quality: f64, large_quality: f64) -> f64 {
        match self {
            Self::WorseAmongKept | Self::WorseOverAll => f64::from(u8::from(small_quality < large_quality)),
            Self::ShortfallAmongKept | Self::ShortfallOverAll => (large_quality - small_quality).max(0.0),
        }
    }

    /// Whether the mean is over kept queries only.
    #[must_use]
    pub fn is_among_kept(self) -> bool {
        matches!(self, Self::WorseAmongKept | Self::ShortfallAmongKept)
    }

    /// Whether each loss is 0 or 1, whatever the qualities.
    #[must_use]
    pub fn is_binary(self) -> bool {
        matches!(self, Self::WorseAmongKept | Self::WorseOverAll)
    }
}

/// How a threshold was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Method {
    /// The best threshold on the calibration queries themselves. No promise about others.
    Empirical,
    /// Order statistics of the calibration scores, whose deferral rate follows a beta distribution (Wilks 1941).
    OrderStatistic,
    /// Learn-then-Test (Angelopoulos et al., arXiv 2110.01052), fixed-sequence, with exact binomial p-values.
    LearnThenTestBinomial,
    /// Learn-then-Test, fixed-sequence, with Hoeffding-Bentkus p-values.
    LearnThenTestHoeffdingBentkus,
    /// Conformal risk control (Angelopoulos et al., arXiv 2208.02814): a bound on the expectation.
    ConformalRiskControl,
}

/// A threshold's certificate. It belongs to the model of `model_digest` as quantized, to the rule that gave the scores
/// and to the task of the calibration queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// How the threshold was chosen.
    pub method: Method,
    /// What it meets.
    pub target: Target,
    /// With what probability over the draw of the calibration queries, in (0, 1); `None` where the method promises
    /// nothing ([`Method::Empirical`]) or promises an expectation ([`Method::ConformalRiskControl`]).
    pub level: Option<f64>,
    /// The same quantity on the calibration queries; for a risk, as the test measured it.
    pub measured: f64,
    /// Number of calibration queries that the promise rests on: those tested, without those that only proposed.
    pub sample_size: u64,
    /// How many thresholds hold together at `level`: 1, or the number of tasks.
    pub joint: u64,
    /// What must hold, in a sentence.
    pub assumptions: String,
    /// Digest of the model (as the bundle's manifest names it) that gave the scores. Set by whoever knows it.
    pub model_digest: Option<String>,
}

/// A threshold and its certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certified {
    /// Keep if score >= threshold; +inf (`"inf"` in JSON) defers everything.
    #[serde(with = "extended")]
    pub threshold: f64,
    /// Share of the calibration queries deferred.
    pub deferral_rate: f64,
    /// What is promised.
    pub certificate: Certificate,
}

/// What can be promised with the data there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum Guarantee {
    /// This threshold, with its certificate.
    Certified(Certified),
    /// No finite threshold can be promised to meet the target: defer everything, or bring more data.
    CannotGuarantee {
        /// About how many queries like these it takes, if their observed risk stays what it is; `None` if that risk is
        /// at or over the target already, so that more of the same does not help.
        needed: Option<u64>,
        /// How many there are.
        have: u64,
    },
}

impl Guarantee {
    /// The threshold, if there is one.
    #[must_use]
    pub fn certified(&self) -> Option<&Certified> {
        match self {
            Self::Certified(certified) => Some(certified),
            Self::CannotGuarantee { .. } => None,
        }
    }
}

impl Certificate {
    /// The same certificate, bound to a model.
    #[must_use]
    pub fn for_model(mut self, digest: impl Into<String>) -> Self {
        self.model_digest = Some(digest.into());
        self
    }
}

/// The promise in a sentence.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let draw = format!("the draw of {} calibration queries", self.sample_size);
        match (self.level, self.method) {
            (Some(level), _) => write!(f, "With probability {level} over {draw}, {}", self.target)?,
            (None, Method::ConformalRiskControl) => write!(f, "On average over {draw}, {}", self.target)?,
            (None, _) => write!(f, "On the {} calibration queries themselves, {}", self.sample_size, self.target)?,
        }
        if self.joint > 1 {
            write!(f, ", for all {} tasks at once", self.joint)?;
        }
        f.write_str(".")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{} %", (1e6 * share).round() / 1e4);
        match *self {
            Self::DeferralRate { at_most } => write!(f, "at most {} of queries are deferred", percent(at_most)),
            Self::MeanCost { at_most } => write!(f, "the mean cost per query is at most {at_most:e}"),
            Self::MeanQuality { at_least } => write!(f, "the mean quality is at least {}", percent(at_least)),
            Self::Risk { risk, at_most } => match risk {
                Risk::WorseAmongKept => {
                    write!(f, "at most {} of locally kept answers are worse than the large model's", percent(at_most))
                }
                Risk::WorseOverAll => {
                    let share = percent(at_most);
                    write!(f, "at most {share} of all queries get a local answer that is worse than the large model's")
                }
                Risk::ShortfallAmongKept => {
                    let share = percent(at_most);
                    write!(
                        f,
                        "locally kept answers fall short of the large model's quality by at most {share} on average"
                    )
                }
                Risk::ShortfallOverAll => {
                    write!(f, "the mean quality is at most {} below the large model's", percent(at_most))
                }
            },
        }
    }
}
