//! The training loop: AdamW under a cosine schedule with warm-up, clipped by the global gradient norm.

use std::ops::ControlFlow;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::annotate::Annotations;
use crate::data::{Batch, Batches, Encoded};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CausalLm, Watch};
use crate::objective::{Hits, Objective, ObjectiveOptions, loss};

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// What is minimised.
    pub objective: Objective,
    /// The choices within the objective.
    #[serde(default)]
    pub objective_options: ObjectiveOptions,
    /// Passes over the data.
    pub epochs: u64,
    /// Sequences per step.
    pub batch_size: usize,
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Share of the steps over which the rate rises from zero, 0 to 1.
    pub warm_up: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest global gradient norm.
    pub clip: f64,
    /// Probability that a unit of the embedding or of a residual branch is dropped, in steps of 1/256.
    pub dropout: f64,
    /// Seed of data order and dropout.
    pub seed: u64,
}

/// What one step did.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// This step, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The objective, nats per target token.
    pub loss: f64,
    /// Where the two models' guesses fell.
    pub hits: Hits,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate that was applied.
    pub learning_rate: f64,
}

/// Trains `model` on `data` and returns it.
///
/// `on_step` sees every step and may stop the training early; the model as it is then is returned. The same
/// model, data and options give the same weights on one device.
///
/// # Errors
/// [`ErrorKind::Config`] when an option is out of range or annotations are missing or belong to other data,
/// [`ErrorKind::Diverged`] when loss or gradient stop being finite numbers.
pub fn train(
    model: CausalLm,
    data: &[Encoded],
    annotations: Option<&Annotations>,
    options: &TrainOptions,
    device: &Device,
    on_step: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<CausalLm> {
    options.validate(data, annotations)?;
    let device = device.clone().autodiff();
    let mut model = model.to_device(&device).train();
    let mut optimizer =
        AdamWConfig::new().with_beta_2(0.98).with_epsilon(1e-8).with_weight_decay(options.weight_decay).init();
    let steps = data.len().div_ceil(options.batch_size) * options.epochs as usize;
    let mut dropout = Dropout::new(options);
    let mut step = 0;
    for epoch in 0..options.epochs {
        for rows in Batches::epoch(data, options.batch_size, options.seed, epoch) {
            step += 1;
            let batch = Batch::new(data, rows, &device);
            let teacher = annotations.map(|annotations| annotations.batch(&batch.rows));
            let hidden = model.hidden_watched(batch.ids.clone(), &mut dropout);
            let [rows, sequence, width] = hidden.dims();
            let hidden = hidden.reshape([rows * sequence, width]).select(0, batch.positions.clone());
            let logits = model.head(hidden);
            let loss =
                loss(options.objective, &options.objective_options, logits, &batch.targets, teacher.as_ref(), None);
            let gradients = GradientsParams::from_grads(loss.value.backward(), &model);
            let (gradients, gradient_norm) = clip(gradients, &model, options.clip);
            let report = StepReport {
                step,
                steps,
                loss: loss.value.into_scalar::<f32>().into(),
                hits: loss.hits,
                gradient_norm,
                learning_rate: options.rate(step, steps),
            };
            if !(report.loss.is_finite() && gradient_norm.is_finite()) {
                let what = format!("step {step} of {steps}: loss {} and gradient norm {gradient_norm}", report.loss);
                return Err(Error::new(ErrorKind::Diverged, format!("training diverged at {what}")));
            }
            model = optimizer.step(report.learning_rate, model, gradients);
            if on_step(&report).is_break() {
                return Ok(model.valid());
            }
        }
    }
    Ok(model.valid())
}

impl TrainOptions {
    fn validate(&self, data: &[Encoded], annotations: Option<&Annotations>) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Config, message));
        for (name, value, most) in [
            ("warm_up", self.warm_up, 1.0),
            ("dropout", self.dropout, 0.9),
            ("target_weight", self.objective_options.target_weight, 1.0),
            ("gatekeeper", self.objective_options.gatekeeper, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return refuse(format!("{name}: {value} is outside 0..={most}"));
            }
        }
        if self.batch_size == 0 || self.epochs == 0 || data.is_empty() {
            return refuse("batch_size, epochs and the data set must not be empty".into());
        }
        match annotations {
            None if self.objective.needs_annotations() => {
                refuse(format!("{} needs the large model's annotations", self.objective))
            }
            Some(annotations) if !annotations.belongs_to(data) => {
                refuse("the annotations were made for another data set or tokenizer".into())
            }
            _ => Ok(()),
        }
    }

    /// Linear warm-up, then half a cosine down to a tenth of the highest rate.
    fn rate(&self, step: usize, steps: usize) -> f64 {
        let warm_up = (self.warm_up * steps as f64).max(1.0);
        let step = step as f64;
        if step < warm_up {
            return self.learning_rate * step / warm_up;
        }
        let progress = (step - warm_up) / (steps as f64 - warm_up).max(1.0);
        self.learning_rate * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * progress).cos()))
    }
}

/// Scales all gradients together so that their global norm is at most `most`; returns the norm before.
fn clip(gradients: GradientsParams, model: &CausalLm, most: f64) -> (GradientsParams, f64) {
    let mut norm = SquaredNorm { gradients: &gradients, sum: None };
    model.visit(&mut norm);
    let norm = norm.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>())).sqrt();
    if norm <= most {
        return (gradients, norm);
    }
    let mut scale = Scale { gradients, factor: most / norm };
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

/// Inverted dropout from a seeded stream of its own, so that two runs drop the same units on every device.
struct Dropout {
    rng: StdRng,
    /// A byte below this drops its unit.
    below: u8,
}

impl Dropout {
    fn new(options: &TrainOptions) -> Self {
        Self { rng: StdRng::seed_from_u64(options.seed ^ 0xD20), below: (options.dropout * 256.0).round() as u8 }
    }
}

impl Watch for Dropout {
    fn branch(&mut self, x: Tensor<3>) -> Tensor<3> {
        if self.below == 0 {
            return x;
        }
        let shape = x.dims();
        let mut bytes = vec![0_u8; shape.iter().product()];
        self.rng.fill_bytes(&mut bytes);
        let kept = 256.0 / (256.0 - f32::from(self.below));
        let mask: Vec<f32> = bytes.into_iter().map(|byte| if byte < self.below { 0.0 } else { kept }).collect();
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x * mask
    }
}
