//! What is done with gradients between the backward pass and the optimiser: their global norm, and scaling.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::model::CausalLm;

/// Multiplies all gradients by `factor`, then scales them together so that their global norm is at most `most`.
/// Returns the norm between the two.
pub(super) fn clip(gradients: GradientsParams, model: &CausalLm, factor: f64, most: f64) -> (GradientsParams, f64) {
    let mut norm = SquaredNorm { gradients: &gradients, sum: None };
    model.visit(&mut norm);
    let norm = factor * norm.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>())).sqrt();
    let clipped = if norm > most { factor * most / norm } else { factor };
    if clipped == 1.0 {
        return (gradients, norm);
    }
    let mut scale = Scale { gradients, factor: clipped };
    model.visit(&mut scale);
    (scale.gradients, norm)
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient.mul_scalar(self.factor));
        }
    }
}
