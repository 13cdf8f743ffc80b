//! All matrices of a model, quantized: which of them how, and from what.

use std::collections::{BTreeMap, BTreeSet};

use margay_trainer::{CausalLm, Checkpoint, Device, Matrix, Moments};
use ndarray::Array2;

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
                let feedback = feedback(moments, matrices);
                for Matrix { name, columns, values } in matrices {
                    let quantized = Quantized::with_feedback(values, *columns, Scheme::INT4, &feedback);
                    *values = quantized.dequantize();
                    stored.insert(name.clone(), quantized);
                }
            });
        }
        // Others were calibrated beside their 4 bits, so they come last.
        let weights = checkpoint.weights()?;
        for name in &self.in_8_bits {
            if let Some(Matrix { columns, values, .. }) = model.matrix(name) {
                let own = weights.tensor(name, &[values.len() / columns, columns])?;
                let quantized = Quantized::nearest(&own, columns, Scheme::INT8);
                model.set_matrix(&Matrix { name: name.clone(), columns, values: quantized.dequantize() });
                stored.insert(name.clone(), quantized);
            }
        }
        Ok((model, stored))
    }
}

fn feedback(moments: &Moments, matrices: &[Matrix]) -> Feedback {
    let looked_up = matrices.iter().any(|matrix| matrix.name == EMBEDDING);
    let columns = matrices.first().map_or(0, |matrix| matrix.columns);
    let moments = Array2::from_shape_vec((columns, columns), moments.values.clone());
    let moments = moments.unwrap_or_else(|_| Array2::zeros((columns, columns)));
    Feedback::new(&moments, if looked_up { EMBEDDING_DAMPING } else { DAMPING })
}

/// Parts of the mean moment that are added to every one: what a few thousand tokens have not shown may still come.
const DAMPING: f32 = 0.01;

/// The same for an embedding that is its own head: as a look-up it has no such inputs, and wants to be near in every lane.
const EMBEDDING_DAMPING: f32 = 0.05;
