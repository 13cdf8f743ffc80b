//! An exponential moving average of what is trained.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use super::state::{Tensors, trained};
use crate::model::{CausalLm, floats};

/// Averages by the path of the parameter.
pub(super) struct Averages {
    decay: f64,
    values: Tensors,
}

impl Averages {
    pub(super) fn new(decay: f64, model: &CausalLm) -> Self {
        Self { decay, values: trained(model) }
    }

    pub(super) fn resumed(decay: f64, values: Tensors) -> Self {
        Self { decay, values }
    }

    pub(super) fn decay(&self) -> f64 {
        self.decay
    }

    pub(super) fn values(&self) -> &Tensors {
        &self.values
    }

    /// Moves every average towards the weight: `decay x average + (1 - decay) x weight`.
    pub(super) fn follow(&mut self, model: &CausalLm) {
        let decay = self.decay as f32;
        let now = trained(model);
        for ((_, average), (_, weight)) in self.values.values_mut().zip(now.values()) {
            average
                .iter_mut()
                .zip(weight)
                .for_each(|(average, weight)| *average += (1.0 - decay) * (weight - *average));
        }
    }

    /// The model with the averages as its weights.
    pub(super) fn applied(&self, model: CausalLm) -> CausalLm {
        put(model, &self.values)
    }
}

/// The model with the given values in place of its own; parameters that are not named stay.
pub(super) fn put(model: CausalLm, values: &Tensors) -> CausalLm {
    model.map(&mut Put { values, path: vec![] })
}

struct Put<'a> {
    values: &'a BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    path: Vec<String>,
}

impl ModuleMapper for Put<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((shape, values)) = self.values.get(&self.path.join(".")) else { return param };
        param.map(|tensor| {
            let (device, grad) = (tensor.device(), tensor.is_require_grad());
            let put = Tensor::from_data(TensorData::new(values.clone(), shape.clone()), &device);
            if grad { put.require_grad() } else { put }
        })
    }
}

/// Values of a parameter.
pub(super) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    floats(tensor.clone().detach().into_data())
}
