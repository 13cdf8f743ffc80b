//! Where a model's parameters come from: drawn from a seed, or read from a checkpoint.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::{Device, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::error::Result;
use crate::weights::Weights;

/// Gives each module its parameters. Names are the module's path in the checkpoint.
pub(crate) trait Parameters {
    /// Token embedding `[vocabulary, hidden]`.
    fn embedding(&mut self, name: &str, vocabulary: usize, hidden: usize) -> Result<Embedding>;

    /// A projection; `gain` scales what is drawn.
    fn linear(&mut self, name: &str, size: Projection, bias: bool, gain: f64) -> Result<Linear>;

    /// RMSNorm over the last axis; a weight of `neutral` changes nothing.
    fn norm(&mut self, name: &str, size: usize, epsilon: f64, neutral: f32) -> Result<RmsNorm>;
}

/// Inputs and outputs of a projection.
#[derive(Clone, Copy)]
pub(crate) struct Projection {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// Normal with deviation `gain / sqrt(inputs)`, from one seeded stream; biases zero, norms neutral.
pub(crate) struct Drawn<'a> {
    rng: StdRng,
    device: &'a Device,
}

impl<'a> Drawn<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), device }
    }

    fn matrix(&mut self, rows: usize, columns: usize, deviation: f64) -> TensorData {
        let values: Vec<f32> = (0..rows * columns).map(|_| (normal(&mut self.rng) * deviation) as f32).collect();
        TensorData::new(values, [rows, columns])
    }
}

/// A standard normal number by Box and Muller's transform.
pub(crate) fn normal(rng: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl Parameters for Drawn<'_> {
    fn embedding(&mut self, _: &str, vocabulary: usize, hidden: usize) -> Result<Embedding> {
        let weight = self.matrix(vocabulary, hidden, 1.0 / (hidden as f64).sqrt());
        Ok(Embedding { weight: Param::from_data(weight, self.device) })
    }

    fn linear(&mut self, _: &str, size: Projection, bias: bool, gain: f64) -> Result<Linear> {
        let weight = self.matrix(size.inputs, size.outputs, gain / (size.inputs as f64).sqrt());
        let bias = bias.then(|| Param::from_data(vector(vec![0.0; size.outputs]), self.device));
        Ok(Linear { weight: Param::from_data(weight, self.device), bias })
    }

    fn norm(&mut self, _: &str, size: usize, epsilon: f64, neutral: f32) -> Result<RmsNorm> {
        Ok(RmsNorm { gamma: Param::from_data(vector(vec![neutral; size]), self.device), epsilon })
    }
}

/// The tensors of a checkpoint, each read once.
pub(crate) struct Read<'a> {
    weights: &'a Weights,
    device: &'a Device,
    read: BTreeSet<String>,
    /// May change the values of a matrix `[rows, columns]` on its way, e.g. to what quantization leaves of them.
    through: MatrixHook<'a>,
}

/// Called with the name, the length of a row and the values of a matrix.
pub type MatrixHook<'a> = &'a mut dyn FnMut(&str, usize, &mut [f32]);

impl<'a> Read<'a> {
    pub(crate) fn new(weights: &'a Weights, device: &'a Device, through: MatrixHook<'a>) -> Self {
        Self { weights, device, read: BTreeSet::new(), through }
    }

    /// Checks that nothing is left over.
    pub(crate) fn finish(self) -> Result<()> {
        self.weights.all_read(&self.read)
    }

    fn tensor(&mut self, name: String, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.weights.tensor(&name, shape)?;
        self.read.insert(name);
        Ok(values)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
        let name = format!("{name}.weight");
        let mut values = self.tensor(name.clone(), &[rows, columns])?;
        (self.through)(&name, columns, &mut values);
        Ok(values)
    }
}

impl Parameters for Read<'_> {
    fn embedding(&mut self, name: &str, vocabulary: usize, hidden: usize) -> Result<Embedding> {
        let values = self.matrix(name, vocabulary, hidden)?;
        Ok(Embedding { weight: Param::from_data(TensorData::new(values, [vocabulary, hidden]), self.device) })
    }

    fn linear(&mut self, name: &str, size: Projection, bias: bool, _: f64) -> Result<Linear> {
        let Projection { inputs, outputs } = size;
        let values = transposed(&self.matrix(name, outputs, inputs)?, inputs);
        let bias = if bias { Some(self.tensor(format!("{name}.bias"), &[outputs])?) } else { None };
        Ok(Linear {
            weight: Param::from_data(TensorData::new(values, [inputs, outputs]), self.device),
            bias: bias.map(|values| Param::from_data(vector(values), self.device)),
        })
    }

    fn norm(&mut self, name: &str, size: usize, epsilon: f64, _: f32) -> Result<RmsNorm> {
        let gamma = self.tensor(format!("{name}.weight"), &[size])?;
        Ok(RmsNorm { gamma: Param::from_data(vector(gamma), self.device), epsilon })
    }
}

/// A matrix with `columns` columns, row by row, as the rows of its transpose.
#[must_use]
pub fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(values.len());
    for column in 0..columns {
        result.extend(values.iter().skip(column).step_by(columns));
    }
    result
}

fn vector(values: Vec<f32>) -> TensorData {
    let size = values.len();
    TensorData::new(values, [size])
}
