//! All matrices of a model, quantized: which of them how, and from what.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use margay_trainer::{CausalLm, Checkpoint, Device, Matrix};
use ndarray::Array2;

use super::fit::{in_8_bits, round};
use super::{EMBEDDING, Feedback, Method, Quantized, Scheme, WeightFormat};
use crate::error::Result;

/// The matrices of a model that are stored in blocks, by their names in the checkpoint. Others stay in floats.
pub(crate) type StoredMatrices = BTreeMap<String, Quantized>;

/// All that decides how the weights of a checkpoint are stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recipe {
    pub(crate) format: WeightFormat,
    pub(crate) method: Method,
    /// Token ids of texts that show what the inputs of matrices look like.
    pub(crate) calibration: Vec<Vec<u32>>,
    /// Matrices that are rounded though they lie on grids of their own.
    pub(crate) rounded: BTreeSet<String>,
    /// Matrices that 4 bits are not enough for.
    pub(crate) in_8_bits: BTreeSet<String>,
}

impl Recipe {
    fn scheme(&self, name: &str, columns: usize) -> Option<Scheme> {
        self.format.scheme().filter(|scheme| scheme.applies_to(name, columns))
    }

    /// Reads a checkpoint. Returns the model with the weights that its codes stand for, and the codes.
    ///
    /// A matrix that lies on a grid of 4-bit blocks is stored as it is. Of the others, those in 8 bits, and an embedding that
    /// is looked up only, are rounded to the nearest.
    pub(crate) fn apply(&self, checkpoint: &Checkpoint) -> Result<(CausalLm, StoredMatrices)> {
        let mut stored = StoredMatrices::new();
        let tied = checkpoint.architecture().tie_word_embeddings;
        let multiplied = |name: &str| name != EMBEDDING || tied;
        let mut left = BTreeSet::new();
        let mut model = checkpoint.model_through(&Device::flex(), &mut |name, columns, values| {
            if self.format == WeightFormat::F16 {
                values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
            }
            let Some(scheme) = self.scheme(name, columns) else { return };
            let exact = scheme == Scheme::INT4 && name != EMBEDDING && self.method == Method::Feedback;
            let exact = if exact { Quantized::exact(values, columns) } else { None };
            let quantized = match exact {
                Some(exact) => exact,
                None if scheme == Scheme::INT4 && self.method == Method::Feedback && multiplied(name) => {
                    left.insert(name.to_owned());
                    return;
                }
                None => Quantized::nearest(values, columns, scheme),
            };
            values.copy_from_slice(&quantized.dequantize());
            stored.insert(name.to_owned(), quantized);
        })?;
        if !left.is_empty() {
            model.rewrite(&self.calibration, &|name| left.contains(name), &mut |moments, matrices| {
                let Some(Matrix { name, columns, .. }) = matrices.first() else { return };
                let moments = Array2::from_shape_vec((*columns, *columns), moments.values.clone());
                let feedback = feedback(name, &moments.unwrap_or_else(|_| Array2::zeros((*columns, *columns))));
                for Matrix { name, columns, values } in matrices {
                    let quantized = Quantized::with_feedback(values, *columns, Scheme::INT4, &feedback);
                    *values = quantized.dequantize();
                    stored.insert(name.clone(), quantized);
                }
            });
        }
        // Others were calibrated beside what these were, so they come last.
        if !self.rounded.is_empty() {
            round(&mut model, &mut stored, &self.calibration, &self.rounded);
        }
        in_8_bits(&mut model, &mut stored, checkpoint, &self.in_8_bits)?;
        Ok((model, stored))
    }
}

/// What the inputs of a matrix of this name say about its errors.
pub(super) fn feedback(name: &str, moments: &Array2<f32>) -> Feedback {
    Feedback::new(moments, if name == EMBEDDING { EMBEDDING_DAMPING } else { DAMPING })
}

/// Parts of the mean moment that are added to every one: what a few thousand tokens have not shown may still come.
const DAMPING: f32 = 0.01;

/// The same for an embedding that is its own head: as a look-up it has no such inputs, and wants to be near in every lane.
const EMBEDDING_DAMPING: f32 = 0.05;
