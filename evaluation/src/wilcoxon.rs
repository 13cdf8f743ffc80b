//! Whether one cascade beats another over tasks: Wilcoxon's signed-rank test (1945), as Demsar (2006) advises for
//! comparing over data sets, where a bootstrap over queries would speak of one set only.

use serde::{Deserialize, Serialize};

/// Most differences for which the distribution is computed exactly; beyond, the normal approximation.
pub const MAX_EXACT: usize = 50;

/// What the test found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SignedRank {
    /// The smaller of the rank sums of positive and negative differences.
    pub statistic: f64,
    /// Two-sided p-value.
    pub p_value: f64,
    /// Number of differences that are not zero.
    pub differences: usize,
    /// Whether the p-value is exact.
    pub exact: bool,
}

/// Two-sided test that paired differences, one per task, are symmetric about zero.
///
/// Zero differences are dropped (Wilcoxon's treatment), equal ones get the mean of their ranks. Up to [`MAX_EXACT`]
/// differences the p-value is exact, ties or not: twice the smaller tail over all assignments of signs to those ranks.
/// Beyond, it is normal with the variance corrected for ties and no continuity correction. `None` if no difference is
/// left or one is NaN.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn signed_rank(first: &[f64], second: &[f64]) -> Option<SignedRank> {
    assert_eq!(first.len(), second.len(), "one value of each per task");
    let mut differences: Vec<f64> = first
        .iter()
        .zip(second)
        .map(|(first, second)| first - second)
        .filter(|difference| *difference != 0.0)
        .collect();
    if differences.is_empty() || differences.iter().any(|difference| difference.is_nan()) {
        return None;
    }
    differences.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the ranks, so that means of ranks are whole too.
    let mut positive = 0;
    let mut ranks = Vec::with_capacity(differences.len());
    let mut ties = 0.0;
    for block in differences.chunk_by(|a, b| a.abs() == b.abs()) {
        let rank = 2 * ranks.len() + block.len() + 1;
        positive += rank * block.iter().filter(|difference| **difference > 0.0).count();
        ties += (block.len() as f64).powi(3) - block.len() as f64;
        ranks.extend(std::iter::repeat_n(rank, block.len()));
    }
    let all: usize = ranks.iter().sum();
    let smaller = positive.min(all - positive);
    let exact = ranks.len() <= MAX_EXACT;
    let p_value = if exact {
        exact_tail(&ranks, smaller)
    } else {
        let n = ranks.len() as f64;
        let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
        let z = (smaller as f64 / 2.0 - n * (n + 1.0) / 4.0) / variance.sqrt();
        libm::erfc(-z / std::f64::consts::SQRT_2)
    };
    Some(SignedRank { statistic: smaller as f64 / 2.0, p_value, differences: ranks.len(), exact })
}

/// `2 P(sum of a random half of the ranks <= smaller)`, at most 1: every sign is a fair coin.
fn exact_tail(ranks: &[usize], smaller: usize) -> f64 {
    let mut chance = vec![0.0; smaller + 1];
    chance[0] = 1.0;
    for rank in ranks {
        for sum in (0..=smaller).rev() {
            let with = sum.checked_sub(*rank).map_or(0.0, |rest| chance[rest]);
            chance[sum] = (chance[sum] + with) / 2.0;
        }
    }
    (2.0 * chance.iter().sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_wins_of_five_are_two_in_thirty_two() {
        let found = signed_rank(&[5.0, 4.0, 3.0, 2.0, 1.0], &[0.0; 5]).unwrap();
        assert_eq!(found, SignedRank { statistic: 0.0, p_value: 2.0 / 32.0, differences: 5, exact: true });
    }

    #[test]
    fn without_a_difference_there_is_no_test() {
        assert_eq!(signed_rank(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(signed_rank(&[], &[]), None);
        assert_eq!(signed_rank(&[f64::NAN, 1.0], &[1.0, 2.0]), None);
    }
}
