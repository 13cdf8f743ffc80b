//! Quality against cost: what one unit of cost buys, on an interval of cost that rules share.
//!
//! Cost is the mean per query that a [`Point`] carries: FLOPs, or the unit that its pairing was made with.

use crate::curve::{Curve, Point};

/// Call-performance threshold CPT(x): the least deferral rate that closes a share `gap` of the gap between the models
/// (Ong et al., RouteLLM, arXiv 2406.18665; there in per cent, from the curve's first crossing as here).
///
/// `None` if the large model is no better than the small one, or the curve never gets there.
#[must_use]
pub fn cpt(curve: &Curve, gap: f64) -> Option<f64> {
    let (small, large) = (curve.at(0.0).quality, curve.at(1.0).quality);
    if large <= small {
        return None;
    }
    Some(curve.reach(small + gap * (large - small))?.deferral_rate)
}

/// Average improvement in quality: the mean height of the non-decreasing convex hull of (cost, quality) points over the
/// costs `low..=high` (Hu et al., RouterBench, arXiv 2403.12031).
///
/// The hull is what mixing any two of the rule's thresholds at random can reach without paying for a loss of quality.
/// Points dearer than `high` belong to it; past the dearest point it goes on level. To compare rules, give all of them
/// the same interval. `None` without points, if the interval is empty or not finite, or begins below the cheapest
/// point, where nothing can be bought.
#[must_use]
pub fn aiq(points: impl IntoIterator<Item = (f64, f64)>, low: f64, high: f64) -> Option<f64> {
    mean_height(&upper_hull(points)?, low, high)
}

/// Area under the error-cost curve: the mean of `1 - quality` over the costs `low..=high`, lower is better. Divided by
/// the width of the interval, so that it is an error in [0, 1] and does not depend on the unit of cost.
///
/// The curve is the rule's own: straight between its points, level past the dearest one; no hull hides a threshold that
/// costs more and gives less. Points of equal cost count once, with the best quality. `None` as for [`aiq`].
#[must_use]
pub fn error_cost_area(points: impl IntoIterator<Item = (f64, f64)>, low: f64, high: f64) -> Option<f64> {
    Some(1.0 - mean_height(&by_cost(points)?, low, high)?)
}

/// Lift of the incremental benefit per cost: `(IBC - base) / base`, IBC being `(quality - small) / (cost - small)` of
/// the cascade's point and base that of the large model alone (Aggarwal et al., AutoMix, arXiv 2310.12963; there times
/// 100).
///
/// Above 0 a unit of cost buys more than sending everything to the large model does. `None` if the point costs no more
/// than the small model, or the large model is no better or no dearer than the small one.
#[must_use]
pub fn ibc_lift(point: &Point, small: (f64, f64), large: (f64, f64)) -> Option<f64> {
    let slope = |(cost, quality): (f64, f64)| {
        let (dearer, better) = (cost - small.0, quality - small.1);
        (dearer > 0.0).then(|| better / dearer)
    };
    let base = slope(large).filter(|base| *base > 0.0)?;
    Some((slope((point.mean_flops, point.quality))? - base) / base)
}

/// Points by ascending cost, one for each cost; `None` without points or with a NaN.
fn by_cost(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Vec<(f64, f64)>> {
    let mut points: Vec<(f64, f64)> = points.into_iter().collect();
    if points.is_empty() || points.iter().any(|(cost, quality)| cost.is_nan() || quality.is_nan()) {
        return None;
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    points.dedup_by(|later, earlier| later.0 == earlier.0);
    Some(points)
}

/// The points that the hull has as corners, by ascending cost, quality never falling (Andrew's monotone chain).
pub(crate) fn upper_hull(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Vec<(f64, f64)>> {
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for point in by_cost(points)? {
        if hull.last().is_some_and(|last| point.1 <= last.1) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && (last.1 - before.1) * (point.0 - before.0) <= (point.1 - before.1) * (last.0 - before.0)
        {
            hull.pop();
        }
        hull.push(point);
    }
    Some(hull)
}

/// Mean height over `low..=high` of straight lines between points, level after the last.
fn mean_height(points: &[(f64, f64)], low: f64, high: f64) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    if !(low < high && high.is_finite() && first.0 <= low) {
        return None;
    }
    let mut area = (high - last.0.clamp(low, high)) * last.1;
    for two in points.windows(2) {
        let (from, to) = (two[0].0.clamp(low, high), two[1].0.clamp(low, high));
        let height = |cost: f64| two[0].1 + (two[1].1 - two[0].1) * (cost - two[0].0) / (two[1].0 - two[0].0);
        area += (to - from) * (height(from) + height(to)) / 2.0;
    }
    Some(area / (high - low))
}
