//! One number for a whole deferral curve, and what a given quality costs.

use crate::curve::{Curve, Point};
use crate::pairing::Pairing;

/// Area under the deferral curve: mean quality over all deferral rates in [0, 1] (AUC-DF of Gupta et al.,
/// arXiv 2404.10136). Trapezoid over all of the curve's points, which is exact: between them the curve is linear.
#[must_use]
pub fn audc(curve: &Curve) -> f64 {
    let area = |two: &[Point]| (two[1].deferral_rate - two[0].deferral_rate) * (two[0].quality + two[1].quality) / 2.0;
    curve.points().windows(2).map(area).sum()
}

/// [`audc`] of deferring at random: the area under the straight line from small alone to large alone.
#[must_use]
pub fn audc_random(small_quality: f64, large_quality: f64) -> f64 {
    (small_quality + large_quality) / 2.0
}

/// [`audc`] of the oracle, which defers where it gains most first and where it loses most last
/// ([`Pairing::oracle`]): no rule's area on these answers is greater.
#[must_use]
pub fn audc_ideal(pairing: &Pairing) -> f64 {
    audc(&pairing.oracle().curve())
}

/// Average performance gap recovered: `(audc - small) / (large - small)`, the share of the gap between the models that
/// the cascade closes, averaged over deferral rates (Ong et al., RouteLLM, arXiv 2406.18665). Random is 1/2.
///
/// `None` if both models are equally good.
#[must_use]
pub fn apgr(audc: f64, small_quality: f64, large_quality: f64) -> Option<f64> {
    ratio(audc - small_quality, large_quality - small_quality)
}

/// Normalised deferral performance, `(audc - random) / (ideal - random)`: 0 is random, 1 is ideal (after Rabanser et
/// al., arXiv 2502.19335). The variant here has as ideal the oracle of [`audc_ideal`], so 1 is never exceeded.
///
/// `None` if the oracle is no better than random: both models are equally good on every query.
#[must_use]
pub fn s_d(audc: f64, audc_random: f64, audc_ideal: f64) -> Option<f64> {
    ratio(audc - audc_random, audc_ideal - audc_random)
}

/// Share of the gap between the models that `quality` closes: 0 is small alone, 1 is large alone (the performance gap
/// recovered of RouteLLM, arXiv 2406.18665). `None` if both models are equally good.
#[must_use]
pub fn gap_closed(quality: f64, small_quality: f64, large_quality: f64) -> Option<f64> {
    ratio(quality - small_quality, large_quality - small_quality)
}

/// The least deferral, and with it the lowest mean FLOPs, at which the curve reaches `share` (e.g. 0.95) of the large
/// model's mean quality. `None` if it never does, which a share of at most 1 cannot bring about.
///
/// The first crossing counts, even if the curve falls below again behind it.
#[must_use]
pub fn cost_at_quality(curve: &Curve, large_quality: f64, share: f64) -> Option<Point> {
    curve.reach(share * large_quality)
}

/// A quotient, unless the denominator is nothing but rounding of numbers in [0, 1].
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator.abs() > 1e-12).then(|| numerator / denominator)
}
