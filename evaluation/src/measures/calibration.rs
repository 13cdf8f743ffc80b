//! Whether a confidence in [0, 1] is the probability of being right.
//!
//! Everything here is `None` without answers, or if a confidence is outside [0, 1] or NaN.

use serde::{Deserialize, Serialize};

/// A group of answers of similar confidence: a bar of the reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower edge of confidence; outside the bin except at 0.
    pub low: f64,
    /// Upper edge of confidence, inside the bin.
    pub high: f64,
    /// Number of answers in it.
    pub count: u64,
    /// Mean confidence; 0 in an empty bin.
    pub confidence: f64,
    /// Share of right answers; 0 in an empty bin.
    pub accuracy: f64,
}

/// The reliability diagram: `bins` bins of equal width, `((m-1)/bins, m/bins]` (Guo et al., arXiv 1706.04599),
/// empty ones included. `None` also for zero bins.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn reliability(confidences: &[f64], right: &[bool], bins: usize) -> Option<Vec<Bin>> {
    let edges: Vec<f64> = (0..=bins).map(|edge| edge as f64 / bins as f64).collect();
    binned(confidences, right, &edges)
}

/// Expected calibration error, equal width: the mean over answers of the distance between accuracy and mean confidence
/// of their bin, over the bins of [`reliability`] (Naeini et al. 2015; Guo et al., arXiv 1706.04599).
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn ece_width(confidences: &[f64], right: &[bool], bins: usize) -> Option<f64> {
    Some(expected_error(&reliability(confidences, right, bins)?))
}

/// Expected calibration error, equal mass: as [`ece_width`], over bins between the `i/bins` quantiles of confidence
/// (Nguyen & O'Connor, arXiv 1508.05154; Nixon et al., arXiv 1904.01685).
///
/// Quantiles interpolate linearly between order statistics (type 7 of Hyndman & Fan); an answer on an edge belongs to
/// the bin below, so ties are never split and bins may differ in size.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn ece_mass(confidences: &[f64], right: &[bool], bins: usize) -> Option<f64> {
    let mut sorted = confidences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let edges = (0..=bins).map(|edge| crate::quantile::of_sorted(&sorted, edge as f64 / bins as f64));
    let edges = edges.collect::<Option<Vec<_>>>()?;
    Some(expected_error(&binned(confidences, right, &edges)?))
}

/// Maximum calibration error: the greatest distance between accuracy and mean confidence over the bins of
/// [`reliability`] that are not empty (Naeini et al. 2015).
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn mce(confidences: &[f64], right: &[bool], bins: usize) -> Option<f64> {
    let bins = reliability(confidences, right, bins)?;
    Some(bins.iter().filter(|bin| bin.count > 0).map(Bin::error).fold(0.0, f64::max))
}

/// Brier score: the mean squared difference between confidence and 1 for right, 0 for wrong (Brier 1950). Lower is better.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn brier(confidences: &[f64], right: &[bool]) -> Option<f64> {
    mean(confidences, right, |confidence, right| (confidence - f64::from(u8::from(right))).powi(2))
}

/// Negative log-likelihood, in nats per answer: the mean of -ln(confidence) for right, -ln(1 - confidence) for wrong.
///
/// Confidences are first brought into [2^-52, 1 - 2^-52], so that one certain mistake does not make the mean infinite.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn nll(confidences: &[f64], right: &[bool]) -> Option<f64> {
    mean(confidences, right, |confidence, right| {
        let confidence = confidence.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
        -(if right { confidence } else { 1.0 - confidence }).ln()
    })
}

impl Bin {
    fn error(&self) -> f64 {
        (self.accuracy - self.confidence).abs()
    }
}

fn expected_error(bins: &[Bin]) -> f64 {
    let answers: u64 = bins.iter().map(|bin| bin.count).sum();
    bins.iter().map(|bin| bin.count as f64 / answers as f64 * bin.error()).sum()
}

/// Bins between ascending `edges`, right-closed.
fn binned(confidences: &[f64], right: &[bool], edges: &[f64]) -> Option<Vec<Bin>> {
    let inner = edges.get(1..edges.len().checked_sub(1)?)?;
    if !are_probabilities(confidences, right) || edges.len() < 2 {
        return None;
    }
    let bin = |edge: &[f64]| Bin { low: edge[0], high: edge[1], count: 0, confidence: 0.0, accuracy: 0.0 };
    let mut bins: Vec<Bin> = edges.windows(2).map(bin).collect();
    for (confidence, right) in confidences.iter().zip(right) {
        let bin = &mut bins[inner.partition_point(|edge| edge < confidence)];
        bin.count += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(*right));
    }
    for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
        bin.confidence /= bin.count as f64;
        bin.accuracy /= bin.count as f64;
    }
    Some(bins)
}

fn mean(confidences: &[f64], right: &[bool], loss: impl Fn(f64, bool) -> f64) -> Option<f64> {
    if !are_probabilities(confidences, right) {
        return None;
    }
    let sum: f64 = confidences.iter().zip(right).map(|(confidence, right)| loss(*confidence, *right)).sum();
    Some(sum / confidences.len() as f64)
}

fn are_probabilities(confidences: &[f64], right: &[bool]) -> bool {
    assert_eq!(confidences.len(), right.len(), "one confidence per answer");
    !confidences.is_empty() && confidences.iter().all(|confidence| (0.0..=1.0).contains(confidence))
}
