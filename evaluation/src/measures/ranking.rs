//! How well a score orders queries: areas under the receiver operating characteristic, and a point on it.

use super::tie_blocks;

/// Area under the ROC curve: the probability that a right answer scores higher than a wrong one, ties counting half.
///
/// The Mann-Whitney statistic with midranks over `right * wrong` pairs (Hanley & McNeil 1982); equal to the trapezoid
/// area under the ROC curve. `None` if all answers are right, all are wrong, there are none, or a score is NaN.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn auroc(scores: &[f64], right: &[bool]) -> Option<f64> {
    auroc_of_blocks(right_and_wrong(scores, right)?.into_iter())
}

/// AUROC of the negated score as a detector of *benefit*: the large model is right where the small one is wrong.
///
/// Confidence alone is the best rule only if it orders queries as benefit does (Jitkrittum et al., arXiv 2307.02764);
/// this measures that order directly. `None` as for [`auroc`], with "benefits" in the place of "right".
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn benefit_auroc(scores: &[f64], small_right: &[bool], large_right: &[bool]) -> Option<f64> {
    assert_eq!(small_right.len(), large_right.len(), "one answer of each model per query");
    let no_benefit: Vec<bool> = small_right.iter().zip(large_right).map(|(small, large)| *small || !*large).collect();
    auroc(scores, &no_benefit)
}

/// False positive rate at 95 % true positive rate: the share of wrong answers that still pass the highest threshold
/// at which at least 95 % of right answers pass (Hendrycks & Gimpel, arXiv 1610.02136; Liang et al., arXiv 1706.02690).
///
/// A threshold passes or stops all of a tie; there is no interpolation. `None` as for [`auroc`].
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn fpr95(scores: &[f64], right: &[bool]) -> Option<f64> {
    let blocks = right_and_wrong(scores, right)?;
    let all_right: f64 = blocks.iter().map(|block| block.0).sum();
    let all_wrong: f64 = blocks.iter().map(|block| block.1).sum();
    if all_right == 0.0 || all_wrong == 0.0 {
        return None;
    }
    let (mut passed_right, mut passed_wrong) = (0.0, 0.0);
    for (right, wrong) in blocks.iter().rev() {
        passed_right += right;
        passed_wrong += wrong;
        if passed_right >= 0.95 * all_right {
            break;
        }
    }
    Some(passed_wrong / all_wrong)
}

/// The area from (positive, negative) weights of tie blocks by ascending score; `None` if either class is empty.
pub(crate) fn auroc_of_blocks(blocks: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut positives, mut negatives, mut concordant) = (0.0, 0.0, 0.0);
    for (positive, negative) in blocks {
        concordant += positive * (negatives + negative / 2.0);
        positives += positive;
        negatives += negative;
    }
    (positives > 0.0 && negatives > 0.0).then(|| concordant / (positives * negatives))
}

/// Numbers of right and wrong answers in each tie block, by ascending score.
fn right_and_wrong(scores: &[f64], right: &[bool]) -> Option<Vec<(f64, f64)>> {
    assert_eq!(scores.len(), right.len(), "one score per answer");
    let (order, blocks) = tie_blocks(scores)?;
    let count = |block: std::ops::Range<usize>| {
        let rights = order[block.clone()].iter().filter(|&&i| right[i]).count();
        (rights as f64, (block.len() - rights) as f64)
    };
    Some(blocks.into_iter().map(count).collect())
}
