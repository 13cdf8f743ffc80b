//! The least loss in so many bytes: which matrices on 4-bit grids are rounded to plain blocks after all, and which others get
//! 8 bits, by how much of their products each takes away on the calibration texts.

use std::collections::BTreeSet;

use margay_trainer::{CausalLm, Checkpoint, Matrix};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::model::feedback;
use super::{Quantized, Scheme, StoredMatrices};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a matrix `[rows, columns]` in a file, by its name.
pub(crate) type Sizes<'a> = &'a dyn Fn(&str, Scheme, [usize; 2]) -> u64;

/// What was decided, by the names of matrices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// Rounded, though they lie on grids of their own.
    pub(crate) rounded: BTreeSet<String>,
    /// In 8 bits instead of 4.
    pub(crate) in_8_bits: BTreeSet<String>,
}

/// Changes how matrices are stored until they take `room` more bytes than now, less if it is negative, and no more.
///
/// # Errors
/// [`ErrorKind::Quality`] when not even the smallest form of all fits, naming how many bytes are missing.
pub(crate) fn fit(
    model: &mut CausalLm,
    stored: &mut StoredMatrices,
    checkpoint: &Checkpoint,
    calibration: &[Vec<u32>],
    room: i64,
    sizes: Sizes<'_>,
) -> Result<Fitted> {
    let mut choices: Vec<Choice> = stored
        .iter()
        .filter(|(_, matrix)| matrix.scheme == Scheme::INT4)
        .map(|(n, m)| Choice::new(n, m, sizes))
        .collect();
    let least_more = choices.iter().filter(|choice| choice.upgrade).map(|choice| choice.bytes).min();
    if room >= 0 && least_more.is_none_or(|more| more > room as u64) {
        return Ok(Fitted::default());
    }
    let wanted: BTreeSet<String> = choices.iter().map(|choice| choice.name.clone()).collect();
    let mut plain = StoredMatrices::new();
    let weights = checkpoint.weights()?;
    let mut failed = None;
    losses(model, calibration, &wanted, &mut |matrix, moments| {
        let Some(choice) = choices.iter_mut().find(|choice| choice.name == matrix.name) else { return };
        let own = weights.tensor(&matrix.name, &[matrix.values.len() / matrix.columns, matrix.columns]);
        let own = match own {
            Ok(own) => own,
            Err(error) => return failed = Some(error),
        };
        choice.loss = if choice.upgrade {
            relative_loss(&own, &matrix.values, moments, matrix.columns)
        } else {
            let rounded =
                Quantized::with_feedback(&own, matrix.columns, Scheme::INT4, &feedback(&matrix.name, moments));
            let loss = relative_loss(&own, &rounded.dequantize(), moments, matrix.columns);
            plain.insert(matrix.name.clone(), rounded);
            loss
        };
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let smallest: u64 = choices.iter().filter(|choice| !choice.upgrade).map(|choice| choice.bytes).sum();
    let room = room.saturating_add_unsigned(smallest);
    let Ok(room) = u64::try_from(room) else {
        let message = format!("the smallest form of every matrix is still {} bytes too many", room.unsigned_abs());
        return Err(Error::new(ErrorKind::Quality, message));
    };
    let taken = chosen(&mut choices, room);
    let mut fitted = Fitted::default();
    for (Choice { name, upgrade, .. }, taken) in choices.iter().zip(taken) {
        match (upgrade, taken) {
            (true, true) => fitted.in_8_bits.insert(name.clone()),
            (false, false) => fitted.rounded.insert(name.clone()),
            _ => false,
        };
    }
    for name in &fitted.rounded {
        if let (Some(rounded), Some(matrix)) = (plain.remove(name), model.matrix(name)) {
            model.set_matrix(&Matrix { values: rounded.dequantize(), ..matrix });
            stored.insert(name.clone(), rounded);
        }
    }
    in_8_bits(model, stored, checkpoint, &fitted.in_8_bits)?;
    Ok(fitted)
}

/// Rounds matrices that lie on grids of their own to plain blocks.
pub(super) fn round(
    model: &mut CausalLm,
    stored: &mut StoredMatrices,
    calibration: &[Vec<u32>],
    names: &BTreeSet<String>,
) {
    let mut plain = vec![];
    losses(model, calibration, names, &mut |matrix, moments| {
        let feedback = feedback(&matrix.name, moments);
        let rounded = Quantized::with_feedback(&matrix.values, matrix.columns, Scheme::INT4, &feedback);
        plain.push((Matrix { name: matrix.name.clone(), values: rounded.dequantize(), ..*matrix }, rounded));
    });
    for (matrix, rounded) in plain {
        model.set_matrix(&matrix);
        stored.insert(matrix.name, rounded);
    }
}

/// Stores matrices in 8 bits.
pub(super) fn in_8_bits(
    model: &mut CausalLm,
    stored: &mut StoredMatrices,
    checkpoint: &Checkpoint,
    names: &BTreeSet<String>,
) -> Result<()> {
    let weights = checkpoint.weights()?;
    for name in names {
        let Some(Matrix { columns, values, .. }) = model.matrix(name) else { continue };
        let own = weights.tensor(name, &[values.len() / columns, columns])?;
        let quantized = Quantized::nearest(&own, columns, Scheme::INT8);
        model.set_matrix(&Matrix { name: name.clone(), columns, values: quantized.dequantize() });
        stored.insert(name.clone(), quantized);
    }
    Ok(())
}

/// A matrix that could take more bytes than it has to.
struct Choice {
    name: String,
    /// Whether these would be 8 bits; else they keep it on its own grids, where it is.
    upgrade: bool,
    /// How many more.
    bytes: u64,
    /// What they would save: the share of its products' energy that is lost without them.
    loss: f64,
}

impl Choice {
    fn new(name: &str, matrix: &Quantized, sizes: Sizes<'_>) -> Self {
        let [rows, columns] = matrix.shape();
        let plain = sizes(name, Scheme::INT4, [rows, columns]);
        let upgrade = matrix.block_sums() == 0;
        let larger = match upgrade {
            true => sizes(name, Scheme::INT8, [rows, columns]),
            false => sizes(name, Scheme::INT4, [rows, columns + matrix.block_sums()]),
        };
        Self { name: name.into(), upgrade, bytes: larger - plain, loss: 0.0 }
    }
}

/// Sorts by what a byte saves, the most first, and says which of them fit.
fn chosen(choices: &mut [Choice], room: u64) -> Vec<bool> {
    let density = |choice: &Choice| choice.loss / choice.bytes.max(1) as f64;
    choices.sort_by(|a, b| density(b).total_cmp(&density(a)));
    let mut left = room;
    let fits = choices.iter().map(|choice| {
        let fits = choice.loss > 0.0 && choice.bytes <= left;
        left -= if fits { choice.bytes } else { 0 };
        fits
    });
    fits.collect()
}

/// Shows the wanted matrices with the second moments of their inputs, and changes none.
fn losses(
    model: &mut CausalLm,
    calibration: &[Vec<u32>],
    wanted: &BTreeSet<String>,
    seen: &mut dyn FnMut(&Matrix, &Array2<f32>),
) {
    model.rewrite(calibration, &|name| wanted.contains(name), &mut |moments, matrices| {
        let columns = matrices.first().map_or(0, |matrix| matrix.columns);
        let Ok(moments) = Array2::from_shape_vec((columns, columns), moments.values.clone()) else { return };
        matrices.iter().for_each(|matrix| seen(matrix, &moments));
    });
}

/// `|(W - V) x|^2 / |W x|^2` over inputs `x` with these second moments.
fn relative_loss(own: &[f32], values: &[f32], moments: &Array2<f32>, columns: usize) -> f64 {
    let energy = |rows: &[f32]| {
        let rows = ArrayView2::from_shape((rows.len() / columns, columns), rows);
        rows.map_or(0.0, |rows| (rows.dot(moments) * rows).axis_iter(Axis(0)).map(|row| f64::from(row.sum())).sum())
    };
    let parts = own.par_chunks(columns * ROWS_AT_ONCE).zip(values.par_chunks(columns * ROWS_AT_ONCE));
    let (lost, all) = parts
        .map(|(own, values)| {
            let errors: Vec<f32> = own.iter().zip(values).map(|(own, value)| own - value).collect();
            (energy(&errors), energy(own))
        })
        .reduce(|| (0.0, 0.0), |(a, b): (f64, f64), (c, d)| (a + c, b + d));
    if all > 0.0 { lost / all } else { 0.0 }
}

/// Rows whose products are in memory at once, on each thread.
const ROWS_AT_ONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::bell;
    use super::*;

    #[test]
    fn a_byte_goes_where_it_saves_the_most() {
        let choice = |name: &str, bytes, loss| Choice { name: name.into(), upgrade: true, bytes, loss };
        let mut choices =
            vec![choice("dear", 10, 0.2), choice("good", 4, 0.3), choice("nothing", 1, 0.0), choice("fair", 8, 0.3)];
        let taken = chosen(&mut choices, 14);
        let names: Vec<&str> =
            choices.iter().zip(taken).filter(|(_, taken)| *taken).map(|(c, _)| c.name.as_str()).collect();
        assert_eq!(names, ["good", "fair"]);
    }

    #[test]
    fn what_is_lost_is_that_of_the_products() {
        let (own, inputs) = (bell(5 * 32, 0.1), bell(40 * 32, 0.2));
        let values: Vec<f32> = own.iter().map(|weight| (weight * 8.0).round() / 8.0).collect();
        let product = |weights: &[f32]| -> f64 {
            let rows = weights.chunks(32).flat_map(|row| inputs.chunks(32).map(move |x| (row, x)));
            rows.map(|(row, x)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).map(|y| f64::from(y * y)).sum()
        };
        let errors: Vec<f32> = own.iter().zip(&values).map(|(w, v)| w - v).collect();
        let inputs = Array2::from_shape_vec((40, 32), inputs.clone()).unwrap();
        let loss = relative_loss(&own, &values, &inputs.t().dot(&inputs), 32);
        assert!((loss / (product(&errors) / product(&own)) - 1.0).abs() < 1e-4, "{loss}");
    }
}
