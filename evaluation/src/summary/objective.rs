//! From two models' outcomes to the numbers of one objective.

use std::collections::BTreeMap;

use super::{
    AtDeferral, BandPoint, Confidence, CurvePoint, DEFERRAL_RATES, HistogramBin, MAX_CURVE_POINTS, ObjectiveSummary,
    OperatingPoint,
};
use crate::bootstrap::{Bootstrap, Interval};
use crate::curve::Curve;
use crate::error::{Error, ErrorKind, Result};
use crate::measures;
use crate::outcome::{Row, SIGNAL_PREFIX};
use crate::pairing::{Pairing, RIGHT};
use crate::quantile;
use crate::sample::Sample;

/// Bins of ECE and MCE; the number in Guo et al. (arXiv 1706.04599).
const CALIBRATION_BINS: usize = 15;
/// Bars of the reliability diagram, which few answers must fill.
const RELIABILITY_BINS: usize = 10;
/// Bars of the score histogram.
const HISTOGRAM_BINS: usize = 30;
/// Steps between the deferral rates of the bootstrap band.
const BAND_STEPS: usize = 50;

/// The signal on a cascade's row that says whether the query was deferred (1) or kept (0).
pub const DEFERRED_SIGNAL: &str = "deferred";

/// What a score means, so that measures of calibration know what probability it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScoreKind {
    /// A mean log-probability, at most 0: it claims exp(score), the geometric mean of the tokens' probabilities.
    #[default]
    LogProbability,
    /// A probability, in [0, 1].
    Probability,
    /// Any number: it claims nothing, and measures of calibration are undefined.
    Ranking,
}

/// One query as a cascade that really ran answered it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served {
    /// Whether it was deferred.
    pub deferred: bool,
    /// Quality of the answer given, in [0, 1].
    pub quality: f64,
    /// Floating-point operations of all models that worked on it.
    pub flops: f64,
    /// Time from question to whole answer, in milliseconds.
    pub latency_ms: f64,
}

impl Served {
    /// What a cascade's row in an outcome table says: `quality`, `flops`, `latency_ms`, and the signal
    /// [`DEFERRED_SIGNAL`], which is 0 or 1.
    ///
    /// # Errors
    /// [`ErrorKind::MissingValue`] for a field that is empty, [`ErrorKind::Value`] for a signal that is neither 0 nor 1.
    pub fn from_outcome<'a>(row: impl Into<Row<'a>>) -> Result<Self> {
        let row: Row<'_> = row.into();
        let deferred = row.needed_signal(DEFERRED_SIGNAL)?;
        if deferred != 0.0 && deferred != 1.0 {
            let (query, model) = (row.query(), row.model());
            let message = format!("{deferred} is neither 0 nor 1 for query `{query}` and model `{model}`");
            return Err(Error::new(ErrorKind::Value, message).at_column(format!("{SIGNAL_PREFIX}{DEFERRED_SIGNAL}")));
        }
        Ok(Self {
            deferred: deferred == 1.0,
            quality: row.quality(),
            flops: row.flops().ok_or_else(|| row.lacks("flops"))?,
            latency_ms: row.latency_ms().ok_or_else(|| row.lacks("latency_ms"))?,
        })
    }
}

/// How to summarise.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// What the score means.
    pub score: ScoreKind,
    /// The threshold in use, chosen on other data. Finite.
    pub threshold: f64,
    /// What the cascade did with that threshold, if it ran. Without it the operating point is computed from the
    /// pairing, and latency is the small model's plus, when deferred, the large one's.
    pub served: Option<&'a [Served]>,
}

impl ObjectiveSummary {
    /// Everything about one cascade.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a threshold that is not finite, for `served` that is empty or has a value out of
    /// range, or for settings that [`Bootstrap::intervals`] refuses.
    pub fn from_pairing(pairing: &Pairing, options: &Options<'_>) -> Result<Self> {
        let sample = pairing.sample();
        let curve = sample.curve();
        let oracle = pairing.oracle();
        let ideal = oracle.curve();
        let (point, latencies) = operate(pairing, options)?;
        let numbers = Numbers::of(&curve, &ideal);
        let (intervals, band) = intervals(pairing, &oracle, &options.bootstrap)?;
        let right = pairing.small_right();
        let confidences = options.score.confidences(pairing.scores());
        let reliability = confidences.as_ref().and_then(|p| measures::reliability(p, &right, RELIABILITY_BINS));
        let to_95 = measures::cost_at_quality(&curve, numbers.large, 0.95);
        let to_99 = measures::cost_at_quality(&curve, numbers.large, 0.99);
        let at_deferral = DEFERRAL_RATES.map(|rate| {
            let at = curve.at(rate);
            let interval = intervals.get(&accuracy_key(rate)).copied();
            AtDeferral { deferral_rate: rate, accuracy: at.quality, interval, mean_flops: at.mean_flops }
        });
        Ok(Self {
            queries: pairing.len(),
            small_accuracy: numbers.small,
            large_accuracy: numbers.large,
            small_flops: sample.small_flops(),
            large_flops: sample.large_flops(),
            curve: thin(&curve),
            ideal: thin(&ideal),
            band,
            audc: numbers.audc,
            audc_random: measures::audc_random(numbers.small, numbers.large),
            audc_ideal: numbers.audc_ideal,
            apgr: numbers.apgr(),
            s_d: numbers.s_d(),
            auroc: sample.auroc(),
            benefit_auroc: sample.benefit_auroc(),
            cost_at_95: to_95.map(|at| at.mean_flops),
            deferral_rate_at_95: to_95.map(|at| at.deferral_rate),
            cost_at_99: to_99.map(|at| at.mean_flops),
            deferral_rate_at_99: to_99.map(|at| at.deferral_rate),
            at_deferral: at_deferral.to_vec(),
            gap_closed_at_30: numbers.gap_closed(&curve, 0.3),
            p50_ms: latencies.as_deref().and_then(|latencies| quantile::of(latencies, 0.5)),
            p95_ms: latencies.as_deref().and_then(|latencies| quantile::of(latencies, 0.95)),
            operating_point: point,
            confidence: Confidence::of(pairing.scores(), pairing.small_quality(), options.score),
            reliability: reliability.unwrap_or_default(),
            histogram: histogram(pairing.scores(), &right),
            intervals,
        })
    }
}

impl std::str::FromStr for ScoreKind {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "log-probability" => Ok(Self::LogProbability),
            "probability" => Ok(Self::Probability),
            "ranking" => Ok(Self::Ranking),
            _ => {
                let message = format!("`{word}` is none of log-probability, probability, ranking");
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }
}

impl ScoreKind {
    /// The probability of being right that each score claims; `None` if a score claims none.
    pub(crate) fn confidences(self, scores: &[f64]) -> Option<Vec<f64>> {
        let confidence = |score: &f64| match self {
            Self::LogProbability => Some(score.exp()),
            Self::Probability => Some(*score),
            Self::Ranking => None,
        };
        scores.iter().map(|score| confidence(score).filter(|p| (0.0..=1.0).contains(p))).collect()
    }
}

/// The numbers that the bootstrap takes again and again.
struct Numbers {
    small: f64,
    large: f64,
    audc: f64,
    audc_ideal: f64,
}

impl Numbers {
    fn of(curve: &Curve, ideal: &Curve) -> Self {
        let (audc, audc_ideal) = (measures::audc(curve), measures::audc(ideal));
        Self { small: curve.at(0.0).quality, large: curve.at(1.0).quality, audc, audc_ideal }
    }

    fn apgr(&self) -> Option<f64> {
        measures::apgr(self.audc, self.small, self.large)
    }

    fn s_d(&self) -> Option<f64> {
        measures::s_d(self.audc, measures::audc_random(self.small, self.large), self.audc_ideal)
    }

    fn gap_closed(&self, curve: &Curve, rate: f64) -> Option<f64> {
        measures::gap_closed(curve.at(rate).quality, self.small, self.large)
    }
}

/// Intervals by the name of their number, and the band of the curve.
fn intervals(
    pairing: &Pairing,
    oracle: &Pairing,
    bootstrap: &Bootstrap,
) -> Result<(BTreeMap<String, Interval>, Vec<BandPoint>)> {
    let scalars = |sample: &Sample<'_>, curve: &Curve, ideal: &Curve| {
        let numbers = Numbers::of(curve, ideal);
        let cost = |share| measures::cost_at_quality(curve, numbers.large, share).map(|at| at.mean_flops);
        let mut scalars = vec![
            ("small_accuracy".to_owned(), Some(numbers.small)),
            ("large_accuracy".to_owned(), Some(numbers.large)),
            ("audc".to_owned(), Some(numbers.audc)),
            ("apgr".to_owned(), numbers.apgr()),
            ("s_d".to_owned(), numbers.s_d()),
            ("auroc".to_owned(), sample.auroc()),
            ("benefit_auroc".to_owned(), sample.benefit_auroc()),
            ("cost_at_95".to_owned(), cost(0.95)),
            ("cost_at_99".to_owned(), cost(0.99)),
            ("gap_closed_at_30".to_owned(), numbers.gap_closed(curve, 0.3)),
        ];
        scalars.extend(DEFERRAL_RATES.map(|rate| (accuracy_key(rate), Some(curve.at(rate).quality))));
        scalars
    };
    let rates: Vec<f64> = (0..=BAND_STEPS).map(|step| step as f64 / BAND_STEPS as f64).collect();
    let found = bootstrap.intervals([pairing, oracle], |[sample, oracle]| {
        let (curve, ideal) = (sample.curve(), oracle.curve());
        let band = rates.iter().map(|rate| Some(curve.at(*rate).quality));
        band.chain(scalars(sample, &curve, &ideal).into_iter().map(|(_, value)| value)).collect()
    })?;
    let (of_band, of_scalars) = found.split_at(rates.len());
    let band = rates.iter().zip(of_band);
    let band = band.filter_map(|(rate, interval)| Some(BandPoint { deferral_rate: *rate, accuracy: (*interval)? }));
    let names = scalars(&pairing.sample(), &pairing.curve(), &oracle.curve()).into_iter().map(|(name, _)| name);
    let intervals = names.zip(of_scalars).filter_map(|(name, interval)| Some((name, (*interval)?)));
    Ok((intervals.collect(), band.collect()))
}

fn accuracy_key(rate: f64) -> String {
    format!("accuracy_at_{:.0}", 100.0 * rate)
}

/// What the threshold did, and the latency of each query in milliseconds if known.
fn operate(pairing: &Pairing, options: &Options<'_>) -> Result<(OperatingPoint, Option<Vec<f64>>)> {
    let threshold = options.threshold;
    if !threshold.is_finite() {
        return Err(Error::new(ErrorKind::Invalid, format!("{threshold} is not a threshold: a finite number")));
    }
    if let Some(served) = options.served {
        let invalid =
            |one: &Served| !((0.0..=1.0).contains(&one.quality) && one.flops.is_finite() && one.latency_ms.is_finite());
        if served.is_empty() || served.iter().any(invalid) {
            return Err(Error::new(ErrorKind::Invalid, "what was served is empty or has a number out of range"));
        }
        let mean = |value: fn(&Served) -> f64| served.iter().map(value).sum::<f64>() / served.len() as f64;
        let point = OperatingPoint {
            threshold,
            deferral_rate: mean(|one| f64::from(u8::from(one.deferred))),
            accuracy: mean(|one| one.quality),
            mean_flops: mean(|one| one.flops),
            measured: true,
        };
        return Ok((point, Some(served.iter().map(|one| one.latency_ms).collect())));
    }
    let deferred = pairing.scores().partition_point(|score| *score < threshold);
    let mean = |sum: f64| sum / pairing.len() as f64;
    let point = OperatingPoint {
        threshold,
        deferral_rate: mean(deferred as f64),
        accuracy: mean(
            pairing.large_quality()[..deferred].iter().sum::<f64>()
                + pairing.small_quality()[deferred..].iter().sum::<f64>(),
        ),
        mean_flops: mean(
            pairing.large_flops()[..deferred].iter().sum::<f64>() + pairing.small_flops().iter().sum::<f64>(),
        ),
        measured: false,
    };
    let both = pairing.small_latency_ms().zip(pairing.large_latency_ms());
    let latencies = both.map(|(small, large)| {
        let wait = |at: usize| if at < deferred { large[at] } else { 0.0 };
        small.iter().enumerate().map(|(at, small)| small + wait(at)).collect()
    });
    Ok((point, latencies))
}

impl Confidence {
    /// The measures of a score on answers of the given qualities, in [0, 1].
    ///
    /// # Panics
    /// If the slices differ in length.
    #[must_use]
    pub fn of(scores: &[f64], qualities: &[f64], kind: ScoreKind) -> Self {
        let right: Vec<bool> = qualities.iter().map(|quality| *quality >= RIGHT).collect();
        let losses: Vec<f64> = qualities.iter().map(|quality| 1.0 - quality).collect();
        let confidences = kind.confidences(scores);
        let confidences = confidences.as_deref();
        Self {
            auroc: measures::auroc(scores, &right),
            fpr95: measures::fpr95(scores, &right),
            aurc: measures::aurc(scores, &losses),
            e_aurc: measures::e_aurc(scores, &losses),
            augrc: measures::augrc(scores, &losses),
            ece_width: confidences.and_then(|p| measures::ece_width(p, &right, CALIBRATION_BINS)),
            ece_mass: confidences.and_then(|p| measures::ece_mass(p, &right, CALIBRATION_BINS)),
            mce: confidences.and_then(|p| measures::mce(p, &right, CALIBRATION_BINS)),
            brier: confidences.and_then(|p| measures::brier(p, &right)),
            nll: confidences.and_then(|p| measures::nll(p, &right)),
        }
    }
}

/// Counts between the lowest and the highest score, in bins of equal width; one bin if all scores are equal.
pub(crate) fn histogram(scores: &[f64], right: &[bool]) -> Vec<HistogramBin> {
    let (Some(low), Some(high)) = (scores.first(), scores.last()) else {
        return Vec::new();
    };
    let bins = if low < high { HISTOGRAM_BINS } else { 1 };
    let width = (high - low) / bins as f64;
    let bin = |at: usize| {
        let edge = |at: usize| {
            if at == bins { *high } else { low + width * at as f64 }
        };
        HistogramBin { low: edge(at), high: edge(at + 1), right: 0, wrong: 0 }
    };
    let mut histogram: Vec<HistogramBin> = (0..bins).map(bin).collect();
    for (score, right) in scores.iter().zip(right) {
        let after = histogram.partition_point(|bin| bin.low <= *score);
        let bin = &mut histogram[after.saturating_sub(1)];
        *(if *right { &mut bin.right } else { &mut bin.wrong }) += 1;
    }
    histogram
}

fn thin(curve: &Curve) -> Vec<CurvePoint> {
    curve.thinned(MAX_CURVE_POINTS).into_iter().map(CurvePoint::from).collect()
}
