//! A walk through a model, layer by layer, for whoever replaces its weights and wants to know what they are multiplied with.
//! What is put in their place is not decided here.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Int, Tensor, TensorData};

use crate::model::{CausalLm, Input, Unwatched, Watch, floats};
use crate::parameters::transposed;

/// A matrix of the model, as a checkpoint has it.
#[derive(Debug)]
pub struct Matrix {
    /// Name in the checkpoint, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Length of a row: inputs of a projection.
    pub columns: usize,
    /// `[outputs, inputs]`, row by row.
    pub values: Vec<f32>,
}

/// Second moments of what some matrices are multiplied with.
#[derive(Debug)]
pub struct Moments {
    /// `sum x x^T` over tokens, `[columns, columns]`.
    pub values: Vec<f32>,
    /// Tokens in the sum.
    pub tokens: usize,
}

impl CausalLm {
    /// Runs sequences of token ids through the model and lets `rewrite` replace the values of the `wanted` matrices, those
    /// with the same inputs together, first layer to last and the head at the end. Every layer sees what the layers before it
    /// compute with their new weights; a tied head is the embedding.
    pub fn rewrite(
        &mut self,
        sequences: &[Vec<u32>],
        wanted: &dyn Fn(&str) -> bool,
        rewrite: &mut dyn FnMut(&Moments, &mut [Matrix]),
    ) {
        let device = self.model.norm.gamma.device();
        let equal = |a: &Vec<u32>, b: &Vec<u32>| a.len() == b.len();
        let batches = sequences.chunk_by(equal).flat_map(|equal| equal.chunks(BATCH)).map(|rows| {
            let ids: Vec<i64> = rows.iter().flatten().map(|&id| i64::from(id)).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [rows.len(), rows[0].len()]), &device)
        });
        let mut states: Vec<_> =
            batches.map(|ids| (self.positions(ids.dims()[1], None, &device), self.embedded(ids))).collect();
        for layer in 0..self.model.layers.len() {
            let wanted = |part: &&str| wanted(&weight(layer, part));
            // Within the layer, later matrices see what earlier ones computed before: a pass for each input would cost more
            // than that is worth.
            let mut sums = Sums::default();
            if PROJECTIONS.iter().any(|(_, parts)| parts.iter().any(wanted)) {
                for (positions, state) in &states {
                    self.layer(layer, state.clone(), positions, &mut sums);
                }
            }
            for (input, parts) in PROJECTIONS {
                let parts: Vec<&str> = parts.iter().copied().filter(|part| wanted(part)).collect();
                let Some(moments) = sums.take(input).filter(|_| !parts.is_empty()) else { continue };
                let mut matrices: Vec<Matrix> =
                    parts.iter().map(|part| matrix(weight(layer, part), self.projection(layer, part))).collect();
                rewrite(&moments, &mut matrices);
                for (part, matrix) in parts.iter().zip(&matrices) {
                    replace(self.projection(layer, part), matrix);
                }
            }
            for (positions, state) in &mut states {
                *state = self.layer(layer, state.clone(), positions, &mut Unwatched);
            }
        }
        let head = if self.lm_head.is_some() { HEAD } else { EMBEDDING };
        if !wanted(head) {
            return;
        }
        let mut sums = Sums::default();
        for (_, state) in states {
            sums.add(Input::Head, &self.normed(state));
        }
        if let (Some(moments), Some(matrix)) = (sums.take(Input::Head), self.matrix(head)) {
            let mut matrices = [matrix];
            rewrite(&moments, &mut matrices);
            self.set_matrix(&matrices[0]);
        }
    }

    /// The matrix of this name in a checkpoint, e.g. `model.layers.0.mlp.up_proj.weight`, if the model has it.
    #[must_use]
    pub fn matrix(&mut self, name: &str) -> Option<Matrix> {
        if name == EMBEDDING {
            let weight = self.model.embed_tokens.weight.val();
            let columns = weight.dims()[1];
            return Some(Matrix { name: name.into(), columns, values: floats(weight.into_data()) });
        }
        Some(matrix(name.into(), self.linear(name)?))
    }

    /// Replaces the values of the matrix of that name, if the model has it; the shape is the same.
    pub fn set_matrix(&mut self, matrix: &Matrix) {
        if matrix.name == EMBEDDING {
            let weight = &mut self.model.embed_tokens.weight;
            let data = TensorData::new(matrix.values.clone(), weight.val().dims());
            *weight = Param::from_data(data, &weight.device());
        } else if let Some(linear) = self.linear(&matrix.name) {
            replace(linear, matrix);
        }
    }

    fn linear(&mut self, name: &str) -> Option<&mut Linear> {
        if name == HEAD {
            return self.lm_head.as_mut();
        }
        let (layer, part) = name.strip_prefix(LAYERS)?.strip_suffix(".weight")?.split_once('.')?;
        let layer = layer.parse().ok().filter(|&layer: &usize| layer < self.model.layers.len())?;
        let known = PROJECTIONS.iter().any(|(_, parts)| parts.contains(&part));
        known.then(|| self.projection(layer, part))
    }

    fn projection(&mut self, layer: usize, part: &str) -> &mut Linear {
        let layer = &mut self.model.layers[layer];
        match part {
            "self_attn.q_proj" => &mut layer.self_attn.q_proj,
            "self_attn.k_proj" => &mut layer.self_attn.k_proj,
            "self_attn.v_proj" => &mut layer.self_attn.v_proj,
            "self_attn.o_proj" => &mut layer.self_attn.o_proj,
            "mlp.gate_proj" => &mut layer.mlp.gate_proj,
            "mlp.up_proj" => &mut layer.mlp.up_proj,
            _ => &mut layer.mlp.down_proj,
        }
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const LAYERS: &str = "model.layers.";

fn weight(layer: usize, part: &str) -> String {
    format!("{LAYERS}{layer}.{part}.weight")
}

/// Sequences that are computed side by side.
const BATCH: usize = 4;

/// A layer's matrices, by what they are multiplied with.
const PROJECTIONS: [(Input, &[&str]); 4] = [
    (Input::Attention, &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    (Input::AttentionOutput, &["self_attn.o_proj"]),
    (Input::Mlp, &["mlp.gate_proj", "mlp.up_proj"]),
    (Input::MlpOutput, &["mlp.down_proj"]),
];

/// Sums of second moments, by input.
#[derive(Default)]
struct Sums(Vec<(Input, Tensor<2>, usize)>);

impl Sums {
    fn add(&mut self, input: Input, x: &Tensor<3>) {
        let [batch, sequence, columns] = x.dims();
        let rows = x.clone().reshape([batch * sequence, columns]);
        let moments = rows.clone().transpose().matmul(rows);
        match self.0.iter_mut().find(|(own, ..)| *own == input) {
            Some((_, sum, tokens)) => {
                *sum = sum.clone() + moments;
                *tokens += batch * sequence;
            }
            None => self.0.push((input, moments, batch * sequence)),
        }
    }

    fn take(&mut self, input: Input) -> Option<Moments> {
        let index = self.0.iter().position(|(own, ..)| *own == input)?;
        let (_, sum, tokens) = self.0.swap_remove(index);
        Some(Moments { values: floats(sum.into_data()), tokens })
    }
}

impl Watch for Sums {
    fn input(&mut self, input: Input, x: &Tensor<3>) {
        self.add(input, x);
    }
}

/// Burn keeps a projection as `[inputs, outputs]`.
fn matrix(name: String, linear: &Linear) -> Matrix {
    let weight = linear.weight.val();
    let [inputs, outputs] = weight.dims();
    Matrix { name, columns: inputs, values: transposed(&floats(weight.into_data()), outputs) }
}

fn replace(linear: &mut Linear, matrix: &Matrix) {
    let shape = linear.weight.val().dims();
    let values = transposed(&matrix.values, matrix.columns);
    linear.weight = Param::from_data(TensorData::new(values, shape), &linear.weight.device());
}
