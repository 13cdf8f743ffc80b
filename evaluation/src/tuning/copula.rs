//! How two models' confidences depend on each other: a Gumbel copula, chosen by Kendall's tau.

use serde::{Deserialize, Serialize};

/// Dependence beyond this cannot be told from certainty.
const MAX_THETA: f64 = 100.0;

/// The Gumbel copula `exp(-((-ln u)^theta + (-ln v)^theta)^(1 / theta))`; 1 is independence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gumbel {
    /// At least 1.
    pub theta: f64,
}

impl Gumbel {
    /// The copula with the sample's Kendall tau-b: `theta = 1 / (1 - tau)`, independence if tau is not above 0.
    #[must_use]
    pub fn fit(first: &[f64], second: &[f64]) -> Self {
        let tau = kendall_tau(first, second).unwrap_or(0.0).max(0.0);
        Self { theta: (1.0 / (1.0 - tau)).min(MAX_THETA) }
    }

    /// Probability that both uniforms are at most `u` and `v`, which are in [0, 1].
    #[must_use]
    pub fn cdf(&self, u: f64, v: f64) -> f64 {
        if u <= 0.0 || v <= 0.0 {
            return 0.0;
        }
        if self.theta == 1.0 {
            return u * v;
        }
        // Scaled by the larger logarithm, whose power would leave the range for a large theta.
        let (x, y) = (-u.ln(), -v.ln());
        let (larger, smaller) = if x > y { (x, y) } else { (y, x) };
        if larger == 0.0 {
            return 1.0;
        }
        (-larger * (1.0 + (smaller / larger).powf(self.theta)).powf(1.0 / self.theta)).exp()
    }
}

/// Kendall's tau-b: concordant less discordant pairs over the geometric mean of the pairs that are untied in either
/// (Kendall 1945), by merging (Knight 1966). `None` if either is all ties.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn kendall_tau(first: &[f64], second: &[f64]) -> Option<f64> {
    assert_eq!(first.len(), second.len(), "one value of each");
    let mut pairs: Vec<(f64, f64)> = first.iter().copied().zip(second.iter().copied()).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let of = |count: usize| (count as f64) * (count as f64 - 1.0) / 2.0;
    let ties = |chunks: &mut dyn Iterator<Item = usize>| chunks.map(of).sum::<f64>();
    let all = of(pairs.len());
    let tied_first = ties(&mut pairs.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len));
    let tied_both = ties(&mut pairs.chunk_by(|a, b| a == b).map(<[_]>::len));
    let mut seconds: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let discordant = inversions(&mut seconds);
    let tied_second = ties(&mut seconds.chunk_by(|a, b| a == b).map(<[_]>::len));
    let untied = (all - tied_first) * (all - tied_second);
    (untied > 0.0).then(|| (all - tied_first - tied_second + tied_both - 2.0 * discordant) / untied.sqrt())
}

/// Sorts, and counts the pairs that stood in the wrong order.
fn inversions(values: &mut [f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut count = inversions(left) + inversions(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() && r < right.len() {
        if right[r] < left[l] {
            count += (left.len() - l) as f64;
            merged.push(right[r]);
            r += 1;
        } else {
            merged.push(left[l]);
            l += 1;
        }
    }
    merged.extend_from_slice(&left[l..]);
    merged.extend_from_slice(&right[r..]);
    values.copy_from_slice(&merged);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tau_by_hand() {
        assert_eq!(kendall_tau(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!(kendall_tau(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(kendall_tau(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(Gumbel::fit(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).theta, 1.0);
    }

    #[test]
    fn the_copula_lies_between_independence_and_certainty() {
        for theta in [1.0, 1.5, 4.0, 100.0] {
            let copula = Gumbel { theta };
            for (u, v) in [(0.1, 0.1), (0.3, 0.9), (0.999, 0.5), (1e-9, 0.7)] {
                let joint = copula.cdf(u, v);
                assert!(u * v <= joint + 1e-15 && joint <= u.min(v) + 1e-15, "{theta} {u} {v} {joint}");
                assert_eq!(joint, copula.cdf(v, u));
            }
            assert!((copula.cdf(0.4, 1.0) - 0.4).abs() < 1e-15);
            assert_eq!((copula.cdf(0.0, 0.5), copula.cdf(1.0, 1.0)), (0.0, 1.0));
        }
    }
}
