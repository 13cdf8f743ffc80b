//! Thresholds that hold on queries not seen yet, with a stated probability, or the honest answer that none can.
//!
//! A guarantee is about the draw of the calibration queries: had they been drawn again and again, the threshold would
//! break its promise in at most a share 1 - level of the draws. Nothing is assumed about the scores or the models.

pub mod p_value;
mod tasks;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::certificate::{Certificate, Certified, Guarantee, Method, Risk, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::pairing::Pairing;

pub use tasks::Correction;

/// What must hold for every guarantee of this module.
const EXCHANGEABLE: &str = "Calibration queries and those to come are independent draws from one distribution, and the \
                            models, their quantization, the prompt template and the rule stay as they were.";
/// Share of the calibration queries that propose thresholds among kept, and are not tested.
const PROPOSING: f64 = 0.25;
/// Most thresholds proposed.
const MAX_CANDIDATES: usize = 100;

/// "With probability `level`, the risk of keeping is at most `at_most`": Learn-then-Test (Angelopoulos et al., arXiv
/// 2110.01052) by fixed-sequence testing.
///
/// Thresholds are tested one after the other, each at error 1 - level, from the safest down; the last one before the
/// first failure is chosen. Exact binomial p-values where each loss is 0 or 1, Hoeffding-Bentkus where it is graded.
///
/// ```
/// use margay_evaluation::certificate::{Guarantee, Risk};
/// use margay_evaluation::guarantee::RiskControl;
/// # use margay_evaluation::pairing::{Pair, Pairing};
/// # let pair = |i: u32| Pair { query: i.to_string(), score: f64::from(i), small_quality: f64::from(u8::from(i > 50)),
/// #     large_quality: 1.0, small_flops: 1.0, large_flops: 10.0, small_latency_ms: None, large_latency_ms: None };
/// # let calibration = Pairing::new((0..400).map(pair).collect())?;
/// let control = RiskControl { risk: Risk::WorseOverAll, at_most: 0.05, level: 0.95 };
/// if let Guarantee::Certified(chosen) = control.choose(&calibration)? {
///     assert_eq!(chosen.threshold, 39.0); // 12 of 400 are worse; with 13, 3.3 %, one could not be sure enough of 5 %
/// }
/// # Ok::<(), margay_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RiskControl {
    /// Which risk.
    pub risk: Risk,
    /// Its bound, in (0, 1).
    pub at_most: f64,
    /// Probability that the bound holds, over the draw of the calibration queries; in (0, 1).
    pub level: f64,
}

impl RiskControl {
    /// The lowest threshold, so the least deferral, that these queries can promise.
    ///
    /// *Over all*: the risk can only fall as the threshold rises, so every score is a candidate and all queries are
    /// tested (Bates et al., arXiv 2101.02703, theorem 1). *Among kept* it may do anything, and few are kept where the
    /// threshold is high: a quarter of the queries, drawn by a fixed seed, [proposes](Self::propose) a sequence, the
    /// others [test](Self::test) it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a bound or a level outside (0, 1).
    pub fn choose(&self, calibration: &Pairing) -> Result<Guarantee> {
        Ok(self.prepare(calibration)?.walk(1.0 - self.level).guarantee)
    }

    /// Thresholds for [`RiskControl::test`], learned on other queries than those: up to 100 quantiles of the scores,
    /// from the one that these queries make look safest, had there been `queries` of them, downwards.
    ///
    /// # Errors
    /// As [`RiskControl::choose`].
    pub fn propose(&self, other: &Pairing, queries: usize) -> Result<Vec<f64>> {
        self.check()?;
        let table = Losses::of(self.risk, other);
        let mut candidates = table.distinct();
        if candidates.len() > MAX_CANDIDATES {
            let step = (candidates.len() - 1) as f64 / (MAX_CANDIDATES - 1) as f64;
            candidates = (0..MAX_CANDIDATES).map(|i| candidates[(step * i as f64).round() as usize]).collect();
        }
        let more = queries as f64 / other.len() as f64;
        let promise = |threshold: &f64| {
            let (kept, lost) = table.at(*threshold);
            let tested = if self.risk.is_among_kept() { kept } else { other.len() };
            self.p_value((more * tested as f64).round() as u64, more * lost)
        };
        let p_values: Vec<f64> = candidates.iter().map(promise).collect();
        let safest = p_values.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at);
        Ok(candidates.split_off(safest))
    }

    /// Tests thresholds in the order given and chooses the last before the first failure.
    ///
    /// The sequence must not have been made from these queries: that is what the guarantee rests on. A threshold that
    /// is not below all before it is tested like any other.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a bound or a level outside (0, 1), or a threshold that is NaN.
    pub fn test(&self, calibration: &Pairing, sequence: &[f64]) -> Result<Guarantee> {
        self.check()?;
        if sequence.iter().any(|threshold| threshold.is_nan()) {
            return Err(Error::new(ErrorKind::Invalid, "NaN is not a threshold"));
        }
        Ok(self.on(calibration, sequence.to_vec(), false).walk(1.0 - self.level).guarantee)
    }

    /// The sequence to test and the queries to test it on.
    fn prepare(&self, calibration: &Pairing) -> Result<Test> {
        self.check()?;
        if !self.risk.is_among_kept() {
            let candidates = Losses::of(self.risk, calibration).distinct();
            return Ok(self.on(calibration, candidates, true));
        }
        let Some((proposing, testing)) = divide(calibration)? else {
            return Ok(self.on(calibration, Vec::new(), false));
        };
        let candidates = self.propose(&proposing, testing.len())?;
        Ok(self.on(&testing, candidates, false))
    }

    fn on(&self, calibration: &Pairing, sequence: Vec<f64>, monotone: bool) -> Test {
        Test { control: *self, losses: Losses::of(self.risk, calibration), sequence, monotone, joint: 1 }
    }

    fn p_value(&self, queries: u64, lost: f64) -> f64 {
        if self.risk.is_binary() {
            // Sums of zeros and ones are whole; scaled ones are rounded up, to the safe side.
            p_value::binomial(queries, lost.ceil() as u64, self.at_most)
        } else {
            p_value::hoeffding_bentkus(queries, lost, self.at_most)
        }
    }

    /// About the least number of queries at which losing at `rate` passes at the given error; `None` if none does.
    fn least_queries(&self, rate: f64, error: f64) -> Option<u64> {
        let passes = |queries: u64| self.p_value(queries, rate * queries as f64) <= error;
        let mut high = 1u64;
        while !passes(high) {
            if rate >= self.at_most || high >= 1 << 40 {
                return None;
            }
            high *= 2;
        }
        let mut low = high / 2;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *(if passes(middle) { &mut high } else { &mut low }) = middle;
        }
        Some(high)
    }

    fn check(&self) -> Result<()> {
        check_open("bound on a risk", self.at_most)?;
        check_open("level", self.level)
    }
}

/// The highest threshold that defers at most a share `at_most` of queries to come, with probability `level`.
///
/// With `k` of `n` calibration scores below it, a threshold that is the next score defers a share that follows
/// Beta(k + 1, n - k), which is above r with probability `P(Bin(n, r) <= k)`: the largest such `k` is taken. Ties and
/// discrete scores only lower the share (Wilks 1941).
///
/// # Errors
/// [`ErrorKind::Invalid`] for a rate or a level outside (0, 1).
pub fn deferral_rate(calibration: &Pairing, at_most: f64, level: f64) -> Result<Guarantee> {
    check_open("deferral rate", at_most)?;
    check_open("level", level)?;
    let scores = calibration.scores();
    let queries = scores.len() as u64;
    let counts: Vec<u64> = (0..queries).collect();
    let allowed = counts.partition_point(|below| p_value::binomial(queries, *below, at_most) <= 1.0 - level);
    if allowed > 0 && scores[allowed - 1] == f64::NEG_INFINITY {
        // A router sends more away than this.
        return Ok(Guarantee::CannotGuarantee { needed: None, have: queries });
    }
    let Some(threshold) = allowed.checked_sub(1).map(|below| scores[below]) else {
        let needed = ((1.0 - level).ln() / (-at_most).ln_1p()).ceil() as u64;
        return Ok(Guarantee::CannotGuarantee { needed: Some(needed), have: queries });
    };
    let deferral_rate = scores.partition_point(|score| *score < threshold) as f64 / scores.len() as f64;
    let certificate = Certificate {
        method: Method::OrderStatistic,
        target: Target::DeferralRate { at_most },
        level: Some(level),
        measured: deferral_rate,
        sample_size: queries,
        joint: 1,
        assumptions: EXCHANGEABLE.to_owned(),
        model_digest: None,
    };
    Ok(Guarantee::Certified(Certified { threshold, deferral_rate, certificate }))
}

/// The lowest threshold whose risk is at most `at_most` in expectation over calibration queries and the one to come:
/// conformal risk control (Angelopoulos et al., arXiv 2208.02814, theorem 1), `(lost + 1) / (n + 1) <= at_most`.
///
/// Weaker than [`RiskControl`], which bounds the risk in most draws and not only on average, and so defers less.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a bound outside (0, 1), or a risk among kept, which need not fall as the threshold rises.
pub fn conformal(calibration: &Pairing, risk: Risk, at_most: f64) -> Result<Guarantee> {
    check_open("bound on a risk", at_most)?;
    if risk.is_among_kept() {
        return Err(Error::new(ErrorKind::Invalid, "conformal risk control needs a risk over all queries"));
    }
    let losses = Losses::of(risk, calibration);
    let all = calibration.len() as f64;
    let candidates = losses.distinct();
    let met = candidates.partition_point(|threshold| (losses.at(*threshold).1 + 1.0) / (all + 1.0) <= at_most);
    let have = calibration.len() as u64;
    let Some(threshold) = met.checked_sub(1).map(|last| candidates[last]) else {
        let rate = candidates.first().map_or(0.0, |threshold| losses.at(*threshold).1 / all);
        let needed = (rate < at_most).then(|| ((1.0 - at_most) / (at_most - rate)).ceil() as u64);
        return Ok(Guarantee::CannotGuarantee { needed, have });
    };
    let (kept, lost) = losses.at(threshold);
    let certificate = Certificate {
        method: Method::ConformalRiskControl,
        target: Target::Risk { risk, at_most },
        level: None,
        measured: lost / all,
        sample_size: have,
        joint: 1,
        assumptions: EXCHANGEABLE.to_owned(),
        model_digest: None,
    };
    Ok(Guarantee::Certified(Certified { threshold, deferral_rate: 1.0 - kept as f64 / all, certificate }))
}

/// A sequence of thresholds and the queries that test it.
struct Test {
    control: RiskControl,
    losses: Losses,
    sequence: Vec<f64>,
    /// Whether the sequence descends and p-values along it never fall, so that the first failure is found by bisection.
    monotone: bool,
    joint: u64,
}

/// Where a walk along a sequence ended.
struct Walk {
    guarantee: Guarantee,
    /// Whether no threshold failed.
    whole: bool,
}

impl Test {
    fn walk(&self, error: f64) -> Walk {
        let passes = |threshold: &f64| {
            let (tested, lost) = self.tested(*threshold);
            self.control.p_value(tested, lost) <= error
        };
        let passed = if self.monotone {
            self.sequence.partition_point(passes)
        } else {
            self.sequence.iter().position(|threshold| !passes(threshold)).unwrap_or(self.sequence.len())
        };
        let whole = passed == self.sequence.len() && passed > 0;
        let guarantee = match passed.checked_sub(1) {
            Some(last) => Guarantee::Certified(self.certified(self.sequence[last])),
            None => self.cannot(error),
        };
        Walk { guarantee, whole }
    }

    /// Number of queries that a test of this threshold rests on, and what they lose.
    fn tested(&self, threshold: f64) -> (u64, f64) {
        let (kept, lost) = self.losses.at(threshold);
        let tested = if self.control.risk.is_among_kept() { kept } else { self.losses.len() };
        (tested as u64, lost)
    }

    fn certified(&self, threshold: f64) -> Certified {
        let RiskControl { risk, at_most, level } = self.control;
        let (tested, lost) = self.tested(threshold);
        let (kept, all) = (self.losses.at(threshold).0 as f64, self.losses.len() as f64);
        let method =
            if risk.is_binary() { Method::LearnThenTestBinomial } else { Method::LearnThenTestHoeffdingBentkus };
        let certificate = Certificate {
            method,
            target: Target::Risk { risk, at_most },
            level: Some(level),
            measured: lost / tested as f64,
            sample_size: self.losses.len() as u64,
            joint: self.joint,
            assumptions: EXCHANGEABLE.to_owned(),
            model_digest: None,
        };
        Certified { threshold, deferral_rate: 1.0 - kept / all, certificate }
    }

    fn cannot(&self, error: f64) -> Guarantee {
        let have = self.losses.len() as u64;
        let (tested, lost) = self.sequence.first().map_or((have, 0.0), |first| self.tested(*first));
        let tested = tested.max(1);
        let least = self.control.least_queries(lost / tested as f64, error);
        // Among kept, only a share of the queries counts.
        let needed = least.map(|least| (least as f64 * have as f64 / tested as f64).ceil() as u64);
        Guarantee::CannotGuarantee { needed, have }
    }
}

/// Queries by ascending score, with the losses of those from each one upwards.
struct Losses {
    scores: Vec<f64>,
    /// `from[i]` is the sum over queries `i..`; one longer than `scores`.
    from: Vec<f64>,
}

impl Losses {
    fn of(risk: Risk, pairing: &Pairing) -> Self {
        let qualities = pairing.small_quality().iter().zip(pairing.large_quality());
        Self::new(pairing.scores().to_vec(), qualities.map(|(small, large)| risk.loss(*small, *large)))
    }

    fn new(scores: Vec<f64>, losses: impl DoubleEndedIterator<Item = f64>) -> Self {
        let mut from = Vec::with_capacity(scores.len() + 1);
        from.push(0.0);
        let mut sum = 0.0;
        from.extend(losses.rev().map(|loss| {
            sum += loss;
            sum
        }));
        from.reverse();
        Self { scores, from }
    }

    fn len(&self) -> usize {
        self.scores.len()
    }

    /// How many queries a threshold keeps, and what they lose together.
    fn at(&self, threshold: f64) -> (usize, f64) {
        let first = self.scores.partition_point(|score| *score < threshold);
        (self.len() - first, self.from[first])
    }

    /// The scores that a threshold can keep, each once, descending.
    fn distinct(&self) -> Vec<f64> {
        let mut scores = self.scores.clone();
        scores.dedup();
        scores.retain(|score| score.is_finite());
        scores.reverse();
        scores
    }
}

/// The queries that propose and those that test, by a coin for each that knows nothing of its outcome; `None` if
/// there are too few for both.
fn divide(pairing: &Pairing) -> Result<Option<(Pairing, Pairing)>> {
    let mut random = StdRng::seed_from_u64(0);
    let mut proposes = vec![false; pairing.len()];
    for at in pairing.by_query() {
        proposes[*at as usize] = random.random_bool(PROPOSING);
    }
    let side = |proposing: bool| {
        let of_side = pairing.pairs().zip(&proposes).filter(|(_, proposes)| **proposes == proposing);
        of_side.map(|(pair, _)| pair).collect::<Vec<_>>()
    };
    let (proposing, testing) = (side(true), side(false));
    if proposing.is_empty() || testing.is_empty() {
        return Ok(None);
    }
    Ok(Some((Pairing::new(proposing)?, Pairing::new(testing)?)))
}

fn check_open(what: &str, number: f64) -> Result<()> {
    if number > 0.0 && number < 1.0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("{number} is not a {what}: a number between 0 and 1")))
}

#[cfg(test)]
mod tests;
