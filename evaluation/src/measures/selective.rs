//! Risk against coverage: how the loss on kept answers falls as fewer are kept.
//!
//! Definitions and tie handling are those of Traub et al., "Overcoming Common Flaws in the Evaluation of Selective
//! Classification Systems" (arXiv 2407.01032), and of the code published with it: one point for each distinct score,
//! straight lines between points.

use super::tie_blocks;

/// Area under the risk-coverage curve, selective risk being the mean loss of kept answers (Geifman & El-Yaniv,
/// arXiv 1705.08500). Lower is better.
///
/// Trapezoid over coverage in [0, 1]; below the smallest coverage that a threshold gives, the risk is that of the
/// highest-scored tie block. `losses` are in [0, 1], e.g. 1 - quality. `None` without answers or with a NaN.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn aurc(scores: &[f64], losses: &[f64]) -> Option<f64> {
    let steps = steps(scores, losses)?;
    let first = steps.first()?;
    let mut area = 0.0;
    let (mut coverage, mut risk) = (0.0, first.lost / first.kept);
    for step in &steps {
        let (next_coverage, next_risk) = (step.kept / step.all, step.lost / step.kept);
        area += (next_coverage - coverage) * (risk + next_risk) / 2.0;
        (coverage, risk) = (next_coverage, next_risk);
    }
    Some(area)
}

/// Excess AURC: [`aurc`] less that of the best possible order of the same answers (Geifman et al., arXiv 1805.08206).
///
/// For losses of 0 and 1 the best is `e + (1 - e) ln(1 - e)`, e the mean loss: the limit of many answers, so that a
/// perfect order of few answers may come out slightly below zero. For other losses the best is [`aurc`] of the
/// answers in the order of their losses. `None` as for [`aurc`].
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn e_aurc(scores: &[f64], losses: &[f64]) -> Option<f64> {
    let area = aurc(scores, losses)?;
    let best = if losses.iter().all(|loss| *loss == 0.0 || *loss == 1.0) {
        let error = losses.iter().sum::<f64>() / losses.len() as f64;
        let kept = 1.0 - error;
        if kept == 0.0 { 1.0 } else { error + kept * kept.ln() }
    } else {
        let mut sorted = losses.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let ranks: Vec<f64> = (0..sorted.len()).map(|rank| rank as f64).collect();
        aurc(&ranks, &sorted)?
    };
    Some(area - best)
}

/// Area under the generalised risk-coverage curve, generalised risk being the loss of kept answers over *all*
/// answers (Traub et al., arXiv 2407.01032). Lower is better.
///
/// The mean risk of a silent failure over all thresholds. For losses of 0 and 1 it is
/// `(1 - AUROC) * a * (1 - a) + (1 - a)^2 / 2`, a the accuracy. Trapezoid over coverage in [0, 1]. `None` as for [`aurc`].
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn augrc(scores: &[f64], losses: &[f64]) -> Option<f64> {
    let steps = steps(scores, losses)?;
    steps.first()?;
    let mut area = 0.0;
    let (mut coverage, mut risk) = (0.0, 0.0);
    for step in &steps {
        let (next_coverage, next_risk) = (step.kept / step.all, step.lost / step.all);
        area += (next_coverage - coverage) * (risk + next_risk) / 2.0;
        (coverage, risk) = (next_coverage, next_risk);
    }
    Some(area)
}

/// What is kept at one threshold: number of answers, sum of their losses, number of all answers.
struct Step {
    kept: f64,
    lost: f64,
    all: f64,
}

/// A step for each distinct score as a threshold, from the highest down.
fn steps(scores: &[f64], losses: &[f64]) -> Option<Vec<Step>> {
    assert_eq!(scores.len(), losses.len(), "one score per answer");
    if losses.iter().any(|loss| loss.is_nan()) {
        return None;
    }
    let (order, blocks) = tie_blocks(scores)?;
    let (mut kept, mut lost) = (0.0, 0.0);
    let step = |block: &std::ops::Range<usize>| {
        kept += block.len() as f64;
        lost += order[block.clone()].iter().map(|&i| losses[i]).sum::<f64>();
        Step { kept, lost, all: scores.len() as f64 }
    };
    Some(blocks.iter().rev().map(step).collect())
}
