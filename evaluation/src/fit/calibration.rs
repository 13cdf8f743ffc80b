//! From a score to the probability of being right.

use serde::{Deserialize, Serialize};

use super::logistic::{self, sigmoid};
use crate::error::{Error, ErrorKind, Result};
use crate::quantile;

/// A non-decreasing map from scores to probabilities (histogram: not necessarily), fitted on answers of known quality.
///
/// A map that never falls moves no query across the threshold that is mapped with it: calibration makes scores mean
/// something, it does not make a rule better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "method")]
#[non_exhaustive]
pub enum Calibrator {
    /// Sigmoid of `slope * score + intercept`.
    Platt {
        /// Log-odds per unit of the score.
        slope: f64,
        /// Log-odds of a score of 0.
        intercept: f64,
    },
    /// Straight lines between knots, level outside.
    Isotonic {
        /// Scores, ascending.
        scores: Vec<f64>,
        /// Probabilities, never falling; one per score.
        probabilities: Vec<f64>,
    },
    /// One probability for each bin of scores.
    Histogram {
        /// Upper edges of all bins but the last, ascending; an edge belongs to the bin below.
        edges: Vec<f64>,
        /// Share of right answers in each bin; one more than edges.
        probabilities: Vec<f64>,
    },
    /// Sigmoid of `slope * spread(score) + intercept`, the score being a log-probability l.
    LogProbability {
        /// How l is spread out.
        spread: Spread,
        /// Log-odds per unit of the spread score.
        slope: f64,
        /// Log-odds where the spread score is 0.
        intercept: f64,
    },
    /// Sigmoid of the log-odds of a score that is a probability, divided by the temperature.
    Temperature {
        /// Above 1 makes confidences more modest.
        temperature: f64,
    },
}

/// How log-probabilities, which crowd at 0, are spread out before logistic calibration (Zellinger & Thomson, arXiv
/// 2501.09345).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// `-ln(1 - e^l)`, from 0 for the improbable to infinity for the certain: for an answer's own probability.
    OneSided,
    /// `-ln 2 - ln(1 - e^l)` from probability 1/2 up, `ln 2 + l` below: for the probability of one of two words, whose
    /// middle is 1/2.
    TwoSided,
}

impl Spread {
    /// The spread score of a log-probability; +inf for 0, the certain.
    #[must_use]
    pub fn of(self, log_probability: f64) -> f64 {
        let one_sided = |l: f64| {
            // ln(1 - e^l) without cancellation on either side of 1/2 (Maechler 2012).
            if l > -std::f64::consts::LN_2 { -(-l.exp_m1()).ln() } else { -(-l.exp()).ln_1p() }
        };
        match self {
            Self::OneSided => one_sided(log_probability),
            Self::TwoSided if log_probability < -std::f64::consts::LN_2 => std::f64::consts::LN_2 + log_probability,
            Self::TwoSided => one_sided(log_probability) - std::f64::consts::LN_2,
        }
    }
}

impl Calibrator {
    /// Logistic regression of right answers on spread log-probabilities, by maximum likelihood without a penalty (Zellinger &
    /// Thomson, arXiv 2501.09345). Answers of probability 1 are left out of the fit, their spread score being infinite.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for scores above 0 or not finite, all equal, of right or wrong answers only, or that tell
    /// right from wrong without a mistake.
    pub fn log_probability(scores: &[f64], right: &[bool], spread: Spread) -> Result<Self> {
        check(scores, right)?;
        if scores.iter().any(|score| *score > 0.0) {
            return Err(Error::new(ErrorKind::Invalid, "a log-probability is at most 0"));
        }
        let answers = scores.iter().map(|score| spread.of(*score)).zip(right);
        let (spread_scores, right): (Vec<f64>, Vec<bool>) =
            answers.filter(|(score, _)| score.is_finite()).map(|(score, right)| (score, *right)).unzip();
        check(&spread_scores, &right)?;
        let targets: Vec<f64> = right.iter().map(|right| f64::from(u8::from(*right))).collect();
        let (slope, intercept) = logistic_line(&spread_scores, &targets)?;
        Ok(Self::LogProbability { spread, slope, intercept })
    }

    /// Platt scaling (1999): maximum likelihood with his smoothed targets, `(n + 1) / (n + 2)` for n right answers and
    /// `1 / (m + 2)` for m wrong ones, so that a perfect score has a finite slope.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for scores that are not finite, all equal, or of right or wrong answers only.
    pub fn platt(scores: &[f64], right: &[bool]) -> Result<Self> {
        check(scores, right)?;
        let rights = right.iter().filter(|right| **right).count() as f64;
        let wrongs = right.len() as f64 - rights;
        let target = |right: &bool| if *right { (rights + 1.0) / (rights + 2.0) } else { 1.0 / (wrongs + 2.0) };
        let targets: Vec<f64> = right.iter().map(target).collect();
        let (slope, intercept) = logistic_line(scores, &targets)?;
        Ok(Self::Platt { slope, intercept })
    }

    /// Isotonic regression (Zadrozny & Elkan 2002): the non-decreasing map of least squared error, by pooling adjacent
    /// violators. Equal scores are pooled first; between two pools the map is a straight line.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for scores that are not finite, or of right or wrong answers only.
    pub fn isotonic(scores: &[f64], right: &[bool]) -> Result<Self> {
        Self::isotonic_within(scores, right, usize::MAX)
    }

    /// [`Calibrator::isotonic`] with at most `knots` knots (2 at least), as a rule of the runtime has room for a few: pools are
    /// joined where that adds least to the squared error.
    ///
    /// # Errors
    /// As [`Calibrator::isotonic`].
    pub fn isotonic_within(scores: &[f64], right: &[bool], knots: usize) -> Result<Self> {
        check(scores, right)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let mut pools: Vec<Pool> = Vec::new();
        for at in order {
            let (score, rights) = (scores[at], f64::from(u8::from(right[at])));
            match pools.last_mut() {
                Some(last) if last.high == score => {
                    last.rights += rights;
                    last.count += 1.0;
                }
                _ => pools.push(Pool { low: score, high: score, rights, count: 1.0 }),
            }
        }
        let mut pooled: Vec<Pool> = Vec::new();
        for mut pool in pools {
            while let Some(mut before) = pooled.pop_if(|before| before.mean() >= pool.mean()) {
                before.join(&pool);
                pool = before;
            }
            pooled.push(pool);
        }
        while pooled.len() > 1 && pooled.iter().map(Pool::knots).sum::<usize>() > knots {
            let added = |at: &usize| pooled[*at].added_by_joining(&pooled[at + 1]);
            let cheapest = (0..pooled.len() - 1).min_by(|a, b| added(a).total_cmp(&added(b))).unwrap_or_default();
            let above = pooled.remove(cheapest + 1);
            pooled[cheapest].join(&above);
        }
        let (mut scores, mut probabilities) = (Vec::new(), Vec::new());
        for pool in pooled {
            for score in [pool.low, pool.high] {
                if scores.last() != Some(&score) {
                    scores.push(score);
                    probabilities.push(pool.mean());
                }
            }
        }
        Ok(Self::Isotonic { scores, probabilities })
    }

    /// Histogram binning (Zadrozny & Elkan 2001): the share of right answers between the `i/bins` quantiles of the
    /// scores. Ties are never split, so there may be fewer bins.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for no bins, scores that are not finite, or of right or wrong answers only.
    pub fn histogram(scores: &[f64], right: &[bool], bins: usize) -> Result<Self> {
        check(scores, right)?;
        if bins == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a histogram needs a bin"));
        }
        let mut sorted = scores.to_vec();
        sorted.sort_by(f64::total_cmp);
        let edges = (1..bins).filter_map(|bin| quantile::of_sorted(&sorted, bin as f64 / bins as f64));
        let mut edges: Vec<f64> = edges.filter(|edge| sorted.last().is_some_and(|last| edge < last)).collect();
        edges.dedup();
        // An edge between two scores of which none is left would make a bin without answers: its neighbours are told
        // apart by the others.
        edges.dedup_by_key(|edge| sorted.partition_point(|score| score <= edge));
        let mut counts = vec![(0.0, 0.0); edges.len() + 1];
        for (score, right) in scores.iter().zip(right) {
            let bin = &mut counts[edges.partition_point(|edge| edge < score)];
            bin.0 += f64::from(u8::from(*right));
            bin.1 += 1.0;
        }
        Ok(Self::Histogram { edges, probabilities: counts.iter().map(|(rights, count)| rights / count).collect() })
    }

    /// Temperature scaling (Guo et al., arXiv 1706.04599) of a score that is a probability: the temperature of least
    /// negative log-likelihood. Probabilities are first brought into [2^-52, 1 - 2^-52].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for scores outside [0, 1], or where no finite positive temperature is best: the scores
    /// order answers no better than chance about 1/2, or put all of them on the right side of it.
    pub fn temperature(scores: &[f64], right: &[bool]) -> Result<Self> {
        check(scores, right)?;
        if scores.iter().any(|score| !(0.0..=1.0).contains(score)) {
            return Err(Error::new(ErrorKind::Invalid, "temperature scaling needs probabilities"));
        }
        let answers: Vec<(f64, f64)> =
            scores.iter().zip(right).map(|(score, right)| (log_odds(*score), f64::from(u8::from(*right)))).collect();
        // The derivative in the inverse temperature, which rises: the loss is convex in it.
        let rises =
            |inverse: f64| answers.iter().map(|(z, right)| (sigmoid(inverse * z) - right) * z).sum::<f64>() >= 0.0;
        let (mut low, mut high) = (0.0, 1.0);
        while !rises(high) && high < 1e6 {
            (low, high) = (high, 2.0 * high);
        }
        let on_the_wrong_side = |(z, right): &(f64, f64)| if *right == 1.0 { *z < 0.0 } else { *z > 0.0 };
        if rises(0.0) || !answers.iter().any(on_the_wrong_side) || !rises(high) {
            return Err(Error::new(ErrorKind::Invalid, "no finite positive temperature fits best"));
        }
        loop {
            let middle = f64::midpoint(low, high);
            if middle <= low || middle >= high {
                return Ok(Self::Temperature { temperature: 1.0 / high });
            }
            *(if rises(middle) { &mut high } else { &mut low }) = middle;
        }
    }

    /// The probability of being right that a score stands for.
    #[must_use]
    pub fn probability(&self, score: f64) -> f64 {
        match self {
            Self::Platt { slope, intercept } => sigmoid(slope * score + intercept),
            Self::LogProbability { spread, slope, intercept } => {
                // At probability 1 a slope of 0 would make NaN of infinity.
                let lean = if *slope == 0.0 { 0.0 } else { slope * spread.of(score) };
                sigmoid(lean + intercept)
            }
            Self::Temperature { temperature } => sigmoid(log_odds(score) / temperature),
            Self::Histogram { edges, probabilities } => probabilities[edges.partition_point(|edge| *edge < score)],
            Self::Isotonic { scores, probabilities } => {
                let after = scores.partition_point(|knot| *knot <= score);
                let (Some(before), Some(high)) = (after.checked_sub(1), scores.get(after)) else {
                    return probabilities[after.saturating_sub(1)];
                };
                let share = (score - scores[before]) / (high - scores[before]);
                probabilities[before] + share * (probabilities[after] - probabilities[before])
            }
        }
    }
}

/// Slope and intercept of the logistic regression of targets on one score, which is standardised while fitting.
fn logistic_line(scores: &[f64], targets: &[f64]) -> Result<(f64, f64)> {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / scores.len() as f64).sqrt();
    if deviation == 0.0 {
        return Err(Error::new(ErrorKind::Invalid, "equal scores cannot be calibrated"));
    }
    let rows: Vec<logistic::Row> = scores.iter().map(|score| vec![(0, (score - mean) / deviation)]).collect();
    let fitted = logistic::fit(&rows, targets, 1, 0.0)?;
    let slope = fitted.weights[0] / deviation;
    Ok((slope, fitted.intercept - slope * mean))
}

/// Adjacent scores with one probability.
struct Pool {
    low: f64,
    high: f64,
    rights: f64,
    count: f64,
}

impl Pool {
    fn mean(&self) -> f64 {
        self.rights / self.count
    }

    /// Takes in the pool above it.
    fn join(&mut self, above: &Self) {
        (self.high, self.rights, self.count) = (above.high, self.rights + above.rights, self.count + above.count);
    }

    /// What joining the pool above it adds to the squared error.
    fn added_by_joining(&self, above: &Self) -> f64 {
        self.count * above.count / (self.count + above.count) * (above.mean() - self.mean()).powi(2)
    }

    /// One where it has one score, two where it has more.
    fn knots(&self) -> usize {
        if self.low == self.high { 1 } else { 2 }
    }
}

fn log_odds(probability: f64) -> f64 {
    let probability = probability.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
    probability.ln() - (-probability).ln_1p()
}

fn check(scores: &[f64], right: &[bool]) -> Result<()> {
    if scores.len() != right.len() || scores.iter().any(|score| !score.is_finite()) {
        return Err(Error::new(ErrorKind::Invalid, "a calibrator needs one finite score for each answer"));
    }
    if !(right.contains(&true) && right.contains(&false)) {
        return Err(Error::new(ErrorKind::Invalid, "a calibrator needs both right and wrong answers"));
    }
    Ok(())
}
