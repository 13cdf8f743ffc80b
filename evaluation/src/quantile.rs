//! Quantiles of a sample: linear interpolation between order statistics (type 7 of Hyndman & Fan 1996).

/// The `probability` quantile of ascending values; `None` without values.
pub(crate) fn of_sorted(sorted: &[f64], probability: f64) -> Option<f64> {
    let position = probability.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    let (low, high) = (sorted.get(below)?, sorted.get(above)?);
    Some(low + (high - low) * (position - below as f64))
}

/// The `probability` quantile of values in any order; `None` without values.
pub(crate) fn of(values: &[f64], probability: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, probability)
}
