//! What an error in one column of a matrix should add to the columns behind it, from the second moments of the matrix's inputs.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};

/// The factors of a matrix of second moments `H = (F + I) D (F + I)^T`, with `F` strictly upper triangular.
#[derive(Debug, Clone)]
pub(crate) struct Feedback {
    /// `F`, `[columns, columns]`.
    pub(super) matrix: Array2<f32>,
    /// `D`: how much an error counts that no later column can make up for.
    pub(super) importance: Vec<f32>,
}

impl Feedback {
    /// Factors the second moments `sum x x^T` of inputs `x`, `[columns, columns]`, after adding `damping` times their mean to
    /// the diagonal.
    ///
    /// More damping is added as often as rounding leaves no positive pivot; inputs that are no numbers give no feedback, which
    /// is rounding to nearest.
    pub(crate) fn new(moments: &Array2<f32>, damping: f32) -> Self {
        let size = moments.nrows();
        let mean = moments.diag().sum() / size.max(1) as f32;
        if mean.is_finite() && mean > 0.0 {
            for more in [1.0, 10.0, 100.0] {
                let mut damped = moments.clone();
                damped.diag_mut().iter_mut().for_each(|moment| *moment += more * damping * mean);
                if factor(&mut damped) {
                    return Self::of_root(damped);
                }
            }
        }
        Self { matrix: Array2::zeros((size, size)), importance: vec![1.0; size] }
    }

    /// From `R` with `H = R R^T`: its columns over their diagonal, and the squares of that.
    fn of_root(mut root: Array2<f32>) -> Self {
        let diagonal = root.diag().to_vec();
        for (row, mut values) in root.outer_iter_mut().enumerate() {
            for (column, (value, pivot)) in values.iter_mut().zip(&diagonal).enumerate() {
                *value = if column > row { *value / pivot } else { 0.0 };
            }
        }
        Self { matrix: root, importance: diagonal.iter().map(|pivot| pivot * pivot).collect() }
    }
}

/// Replaces the upper triangle of a symmetric matrix by the upper triangular `R` with `H = R R^T`: Cholesky's factor, taken
/// from the last row to the first. Says whether there is one.
fn factor(matrix: &mut Array2<f32>) -> bool {
    let size = matrix.nrows();
    let mut end = size;
    while end > 0 {
        let begin = end.saturating_sub(PANEL);
        // Takes the columns behind out of this panel, all rows at once.
        if end < size {
            let behind = part(matrix, 0..end, end..size).to_owned();
            let own = part(&behind, begin..end, 0..size - end);
            general_mat_mul(-1.0, &behind, &own.t(), 1.0, &mut part_mut(matrix, 0..end, begin..end));
        }
        // The triangle on the diagonal, then the rectangle above it, row by row: all that a row needs is in itself and in the
        // triangle.
        let mut panel = part(matrix, 0..end, begin..end).as_standard_layout().into_owned();
        let width = end - begin;
        for column in (0..width).rev() {
            let own = panel.row(begin + column).to_vec();
            let taken: f32 = own[column + 1..].iter().map(|value| value * value).sum();
            let pivot = own[column] - taken;
            if !(pivot > 0.0 && pivot.is_finite()) {
                return false;
            }
            let pivot = pivot.sqrt();
            panel[[begin + column, column]] = pivot;
            for mut row in panel.outer_iter_mut().take(begin + column) {
                let Some(row) = row.as_slice_mut() else { return false };
                let taken: f32 = row[column + 1..].iter().zip(&own[column + 1..]).map(|(a, b)| a * b).sum();
                row[column] = (row[column] - taken) / pivot;
            }
        }
        part_mut(matrix, 0..end, begin..end).assign(&panel);
        end = begin;
    }
    true
}

/// A rectangle of a matrix.
pub(super) fn part(matrix: &Array2<f32>, rows: Range<usize>, columns: Range<usize>) -> ArrayView2<'_, f32> {
    matrix.slice_each_axis(|axis| Slice::from(if axis.axis == Axis(0) { rows.clone() } else { columns.clone() }))
}

fn part_mut(matrix: &mut Array2<f32>, rows: Range<usize>, columns: Range<usize>) -> ArrayViewMut2<'_, f32> {
    matrix.slice_each_axis_mut(|axis| Slice::from(if axis.axis == Axis(0) { rows.clone() } else { columns.clone() }))
}

/// Columns that are factored between two products.
const PANEL: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::{Quantized, Scheme, bell};
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        columns: usize,
        block: usize,
        damping: f32,
        weights: Vec<f32>,
        moments: Vec<f32>,
        values: Vec<f32>,
        loss: f32,
        loss_of_nearest: f32,
    }

    /// `sum ((w - v) x)^2` over rows and inputs.
    fn loss(weights: &[f32], values: &[f32], moments: &Array2<f32>) -> f32 {
        let errors: Vec<f32> = weights.iter().zip(values).map(|(w, v)| w - v).collect();
        let errors = Array2::from_shape_vec((errors.len() / moments.nrows(), moments.nrows()), errors).unwrap();
        (errors.dot(moments) * errors).sum()
    }

    #[test]
    fn rounding_with_feedback_is_what_a_textbook_computes() {
        let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/gptq.json")).unwrap();
        let Fixture { columns, block, damping, weights, moments, values, .. } = fixture;
        let (moments, scheme) =
            (Array2::from_shape_vec((columns, columns), moments).unwrap(), Scheme { bits: 4, block });
        let ours = Quantized::with_feedback(&weights, columns, scheme, &Feedback::new(&moments, damping)).dequantize();
        let equal = ours.iter().zip(&values).filter(|(x, y)| (*x - *y).abs() < 1e-5).count();
        assert_eq!(equal, values.len(), "loss {} and {}", loss(&weights, &ours, &moments), fixture.loss);
        assert!((loss(&weights, &ours, &moments) / fixture.loss - 1.0).abs() < 1e-3);
        let nearest = Quantized::nearest(&weights, columns, scheme).dequantize();
        assert!((loss(&weights, &nearest, &moments) / fixture.loss_of_nearest - 1.0).abs() < 1e-3);
        assert!(fixture.loss < 0.2 * fixture.loss_of_nearest, "correlated inputs are what feedback is for");
    }

    #[test]
    fn factors_multiply_to_the_moments() {
        for size in [1, 31, 32, 33, 100] {
            let inputs = Array2::from_shape_vec((2 * size, size), bell(2 * size * size, 0.3)).unwrap();
            let moments = inputs.t().dot(&inputs);
            let Feedback { matrix, importance } = Feedback::new(&moments, 0.0);
            let unit = &matrix + &Array2::<f32>::eye(size);
            let scaled = &unit * &ndarray::Array1::from(importance);
            let largest = moments.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (product, moment) in scaled.dot(&unit.t()).iter().zip(&moments) {
                assert!((product - moment).abs() < 1e-5 * largest, "{size}: {product} {moment}");
            }
        }
    }

    #[test]
    fn inputs_that_say_nothing_give_rounding_to_nearest() {
        let weights = bell(3 * 64, 0.1);
        for moments in [Array2::zeros((64, 64)), Array2::from_elem((64, 64), f32::NAN), Array2::eye(64) * 5.0] {
            let feedback = Feedback::new(&moments, 0.01);
            let ours = Quantized::with_feedback(&weights, 64, Scheme::INT4, &feedback);
            assert_eq!(ours, Quantized::nearest(&weights, 64, Scheme::INT4));
        }
    }

    #[test]
    fn inputs_that_are_always_the_same_are_damped() {
        let feedback = Feedback::new(&Array2::ones((40, 40)), 0.01);
        assert!(feedback.importance.iter().all(|importance| importance.is_finite() && *importance > 0.0));
    }
}
