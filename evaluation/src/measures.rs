//! Measures by their field names, each a pure function with its definition and source.
//!
//! `None` means undefined, for the reason each function states. Functions that take two slices panic if their lengths
//! differ: that is a mistake in the program, not in the data.

mod calibration;
mod cost;
mod deferral;
mod ranking;
mod selective;

pub use calibration::{Bin, brier, ece_mass, ece_width, mce, nll, reliability};
pub use cost::{aiq, cpt, error_cost_area, ibc_lift};
pub use deferral::{apgr, audc, audc_ideal, audc_random, cost_at_quality, gap_closed, s_d};
pub use ranking::{auroc, benefit_auroc, fpr95};
pub use selective::{augrc, aurc, e_aurc};

pub(crate) use cost::upper_hull;
pub(crate) use ranking::auroc_of_blocks;

/// Groups of equal score by ascending score, as index ranges into `order`; `None` if a score is not a number.
fn tie_blocks(scores: &[f64]) -> Option<(Vec<usize>, Vec<std::ops::Range<usize>>)> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut blocks = Vec::new();
    let mut start = 0;
    for end in 1..=order.len() {
        // Zeros of both signs are equal, which `==` knows and the sorting order does not mind.
        if end == order.len() || scores[order[end]] != scores[order[start]] {
            blocks.push(start..end);
            start = end;
        }
    }
    Some((order, blocks))
}

#[cfg(test)]
mod tests;
