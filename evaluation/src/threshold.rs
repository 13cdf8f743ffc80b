//! Choosing a threshold on calibration data.

use crate::curve::Point;
use crate::error::{Error, ErrorKind, Result};
use crate::pairing::Pairing;

/// A threshold and what it does on the scores it was chosen on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Keep if score >= threshold. One of the scores, so a score that came as an `f32` gives a threshold that is one
    /// exactly; +inf if everything may be deferred.
    pub threshold: f64,
    /// Share of the calibration scores under the threshold: at most the target, less where ties do not allow more.
    pub deferral_rate: f64,
}

/// The highest threshold that defers at most `rate` of the calibration scores.
///
/// With n scores in ascending order it is the one at index floor(rate * n), counted from 0: as many scores as the rate
/// allows come before it, and those of them that are tied with it are kept. A product within 1e-9 of a whole number
/// counts as that number, so that 0.3 of 10 is 3.
///
/// # Errors
/// [`ErrorKind::Invalid`] without scores, with a score that is not finite, or with a rate outside [0, 1].
pub fn for_deferral_rate(scores: &[f64], rate: f64) -> Result<Choice> {
    if scores.is_empty() || scores.iter().any(|score| !score.is_finite() && *score != f64::NEG_INFINITY) {
        return Err(Error::new(ErrorKind::Invalid, "a threshold needs calibration scores, all finite"));
    }
    if !(0.0..=1.0).contains(&rate) {
        return Err(Error::new(ErrorKind::Invalid, format!("{rate} is not a deferral rate: a number in [0, 1]")));
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let allowed = (rate * sorted.len() as f64 + 1e-9).floor() as usize;
    let threshold = sorted.get(allowed).copied().unwrap_or(f64::INFINITY);
    let deferred = sorted.partition_point(|score| *score < threshold);
    Ok(Choice { threshold, deferral_rate: deferred as f64 / sorted.len() as f64 })
}

/// The best mean quality on the calibration queries at a mean cost of at most `cost`; of equals the cheapest. `None` if
/// even deferring nothing costs more.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a cost that is NaN.
pub fn for_cost(calibration: &Pairing, cost: f64) -> Result<Option<Choice>> {
    if cost.is_nan() {
        return Err(Error::new(ErrorKind::Invalid, "NaN is not a cost"));
    }
    let curve = calibration.curve();
    let affordable = curve.points().iter().filter(|point| point.keeps_only_scored() && point.mean_flops <= cost);
    Ok(affordable.rev().max_by(|a, b| a.quality.total_cmp(&b.quality)).map(Choice::from))
}

/// The least deferral, and with it the least cost, whose mean quality on the calibration queries is at least `quality`;
/// `None` if no threshold reaches it.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a quality outside [0, 1].
pub fn for_quality(calibration: &Pairing, quality: f64) -> Result<Option<Choice>> {
    if !(0.0..=1.0).contains(&quality) {
        return Err(Error::new(ErrorKind::Invalid, format!("{quality} is not a quality: a number in [0, 1]")));
    }
    let curve = calibration.curve();
    let reaches = |point: &&Point| point.keeps_only_scored() && point.quality >= quality;
    Ok(curve.points().iter().find(reaches).map(Choice::from))
}

impl From<&Point> for Choice {
    fn from(point: &Point) -> Self {
        Self { threshold: point.threshold, deferral_rate: point.deferral_rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::Pair;

    /// The curve is 0.5 at cost 10, 0.75 at 35, 1 at 60, 0.75 at 85 and at 110.
    fn four() -> Pairing {
        let pairs = [(1.0, 0.0, 1.0), (2.0, 0.0, 1.0), (3.0, 1.0, 0.0), (4.0, 1.0, 1.0)];
        let pair = |(score, small_quality, large_quality): (f64, f64, f64)| Pair {
            query: format!("{score}"),
            score,
            small_quality,
            large_quality,
            small_flops: 10.0,
            large_flops: 100.0,
            small_latency_ms: None,
            large_latency_ms: None,
        };
        Pairing::new(pairs.into_iter().map(pair).collect()).unwrap()
    }

    #[test]
    fn a_budget_buys_the_best_quality_it_can() {
        let chosen = |cost| for_cost(&four(), cost).unwrap().map(|choice| choice.threshold);
        assert_eq!(chosen(9.9), None);
        assert_eq!(chosen(59.0), Some(2.0));
        assert_eq!(chosen(1000.0), Some(3.0), "more money than the best threshold takes");
        assert_eq!(for_cost(&four(), f64::NAN).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_quality_is_bought_for_as_little_as_it_takes() {
        let chosen = |quality| for_quality(&four(), quality).unwrap().map(|choice| choice.deferral_rate);
        assert_eq!((chosen(0.4), chosen(0.75), chosen(0.8)), (Some(0.0), Some(0.25), Some(0.5)));
        let worse = four().rescored(|pair| pair.large_quality - pair.small_quality).unwrap();
        assert_eq!(for_quality(&worse, 1.0).unwrap(), None);
        assert_eq!(for_quality(&four(), 1.1).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn without_ties_exactly_the_rate_is_deferred() {
        let scores: Vec<f64> = (0..10).map(|i| f64::from(9 - i)).collect();
        for tenths in 0..10 {
            let choice = for_deferral_rate(&scores, f64::from(tenths) / 10.0).unwrap();
            assert_eq!((choice.threshold, choice.deferral_rate), (f64::from(tenths), f64::from(tenths) / 10.0));
        }
        assert_eq!(for_deferral_rate(&scores, 0.39).unwrap().threshold, 3.0, "rounded down");
    }

    #[test]
    fn deferring_everything_has_no_finite_threshold() {
        let choice = for_deferral_rate(&[-0.5, -0.1], 1.0).unwrap();
        assert_eq!((choice.threshold, choice.deferral_rate), (f64::INFINITY, 1.0));
    }

    #[test]
    fn ties_at_the_boundary_are_kept() {
        let scores = [1.0, 2.0, 2.0, 2.0, 3.0];
        let choice = for_deferral_rate(&scores, 0.6).unwrap();
        assert_eq!((choice.threshold, choice.deferral_rate), (2.0, 0.2));
        let choice = for_deferral_rate(&scores, 0.8).unwrap();
        assert_eq!((choice.threshold, choice.deferral_rate), (3.0, 0.8));
    }

    #[test]
    fn nonsense_is_refused() {
        for (scores, rate) in [(vec![], 0.5), (vec![f64::NAN], 0.5), (vec![1.0], 1.5), (vec![1.0], f64::NAN)] {
            assert_eq!(for_deferral_rate(&scores, rate).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
