//! One step after the other: batches, gradients, the optimiser.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, ModuleMapper, Param, ParamGroup};
use burn::optim::{AdamW, AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor};
use serde::Serialize;

use super::averages::Averages;
use super::dropout::Dropout;
use super::gradients::clip;
use super::options::TrainOptions;
use crate::annotate::Annotations;
use crate::data::{Batch, Batches, Encoded, Mixture, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CausalLm, Unwatched, Watch};
use crate::objective::{Hits, Loss, Mask, loss, top1_hits};
use crate::recipe::BadRows;

/// What a session trains on, and how.
#[derive(Clone)]
pub struct Work<'a> {
    /// The rows.
    pub rows: &'a dyn Rows,
    /// Which of them an epoch has.
    pub mixture: Mixture,
    /// What the large model thinks of them.
    pub annotations: Option<&'a Annotations>,
    /// Objective, schedule, optimiser.
    pub options: &'a TrainOptions,
    /// Where tensors live.
    pub device: &'a Device,
    /// Whether several rows share a sequence.
    pub packing: bool,
    /// What happens when a row cannot be encoded.
    pub bad_rows: BadRows,
}

impl<'a> Work<'a> {
    /// Every row once an epoch, a sequence each.
    #[must_use]
    pub fn new(
        rows: &'a dyn Rows,
        annotations: Option<&'a Annotations>,
        options: &'a TrainOptions,
        device: &'a Device,
    ) -> Self {
        let (mixture, bad_rows) = (Mixture::whole(rows.count()), BadRows::Refuse);
        Self { rows, mixture, annotations, options, device, packing: false, bad_rows }
    }

    fn validate(&self) -> Result<()> {
        let TrainOptions { objective, objective_options, training, .. } = self.options;
        training.validate()?;
        objective_options.validate()?;
        let refuse = |message: String| Err(Error::new(ErrorKind::Config, message));
        if self.rows.count() == 0 {
            return refuse("there is no row to train on".into());
        }
        match self.annotations {
            None if objective.needs_annotations() => refuse(format!("{objective} needs the large model's annotations")),
            Some(annotations) if objective.distils() && annotations.k() == 0 => refuse(format!(
                "{objective} needs the large model's distribution over the small model's tokens, and these annotations \
                 have hits only: the two models do not share a vocabulary, or the server gave none"
            )),
            _ => Ok(()),
        }
    }
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
    /// Tokens that went through the model, prompts included, padding not.
    pub tokens: usize,
    /// Rows that could not be encoded and were left out, since the session began.
    pub skipped: usize,
}

/// A training under way.
pub struct Session<'a> {
    work: Work<'a>,
    pub(super) model: CausalLm,
    /// The small model as it was, if the mask is to be its.
    initial: Option<CausalLm>,
    pub(super) optimizer: ModuleOptimizer,
    pub(super) averages: Option<Averages>,
    device: Device,
    pub(super) step: usize,
    steps: usize,
    pub(super) place: Place,
    batches: Vec<Vec<usize>>,
    skipped: usize,
}

/// How far the data have been gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: u64,
    /// The next batch of the epoch.
    pub(super) batch: usize,
}

/// One batch's loss and gradients.
struct Pass {
    gradients: GradientsParams,
    sum: f64,
    divisor: usize,
    hits: Hits,
}

impl<'a> Session<'a> {
    /// A session at its first step.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when an option is out of range or annotations are missing.
    pub fn new(model: CausalLm, work: Work<'a>) -> Result<Self> {
        work.validate()?;
        let training = &work.options.training;
        let device = work.device.clone().autodiff();
        let device = if training.checkpoint_activations { device.gradient_checkpointing() } else { device };
        let mask = work.options.objective_options.mask;
        let initial = (mask == Mask::Initial && work.options.objective.masks()).then(|| model.valid());
        let model = model.to_device(&device).train();
        let model = if training.checkpoint_activations { model.map(&mut Recompute) } else { model };
        let averages = training.ema.map(|decay| Averages::new(decay, &model));
        let batches = work.mixture.rows().div_ceil(training.batch_size);
        let steps = match (training.steps, training.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => (batches * epochs.unwrap_or(1) as usize).div_ceil(training.accumulate),
        };
        let place = Place { epoch: 0, batch: 0 };
        let optimizer = optimizer(work.options)?;
        let mut session = Self {
            work,
            model,
            initial,
            optimizer,
            averages,
            device,
            step: 0,
            steps,
            place,
            batches: vec![],
            skipped: 0,
        };
        session.batches = session.epoch();
        Ok(session)
    }

    fn epoch(&self) -> Vec<Vec<usize>> {
        let TrainOptions { seed, training, .. } = self.work.options;
        Batches::epoch(self.work.rows, &self.work.mixture, training.batch_size, *seed, self.place.epoch)
            .into_iter()
            .collect()
    }

    /// Goes to a place in the data.
    pub(super) fn go_to(&mut self, place: Place) {
        self.place = place;
        self.batches = self.epoch();
    }

    /// Steps in all.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Steps taken.
    #[must_use]
    pub fn steps_taken(&self) -> usize {
        self.step
    }

    /// Takes the next step; `None` when all are taken.
    ///
    /// # Errors
    /// [`ErrorKind::Diverged`] and [`ErrorKind::Device`] name the step and its rows; the model is as before the step then.
    /// Those of reading a row.
    pub fn step(&mut self) -> Result<Option<StepReport>> {
        if self.step == self.steps {
            return Ok(None);
        }
        let training = &self.work.options.training;
        let mut accumulated = GradientsAccumulator::new();
        let (mut sum, mut divisor, mut hits, mut tokens, mut names) = (0.0, 0, Hits::default(), 0, Vec::new());
        let mut only = None;
        for _ in 0..training.accumulate {
            let (rows, of) = self.next_rows()?;
            tokens += rows.iter().map(Encoded::len).sum::<usize>();
            names.extend(of);
            let pass = catch_unwind(AssertUnwindSafe(|| self.pass(&rows)));
            let pass = pass.map_err(|panic| self.failed(&names, tokens, panic.as_ref()))??;
            sum += pass.sum;
            divisor += pass.divisor;
            hits += pass.hits;
            if training.accumulate == 1 {
                only = Some(pass.gradients);
            } else {
                accumulated.accumulate(&self.model, pass.gradients);
            }
        }
        let gradients = only.unwrap_or_else(|| accumulated.grads());
        let divisor = divisor.max(1) as f64;
        let (gradients, gradient_norm) = clip(gradients, &self.model, 1.0 / divisor, training.clip);
        let loss = sum / divisor;
        let step = self.step + 1;
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            let message = format!(
                "training diverged at step {step} of {}: loss {loss} and gradient norm {gradient_norm}, in the batch of {}",
                self.steps,
                listed(&names)
            );
            return Err(Error::new(ErrorKind::Diverged, message));
        }
        let learning_rate = training.rate(step, self.steps);
        self.model = self.optimizer.step(learning_rate, self.model.clone(), gradients);
        self.step = step;
        if let Some(averages) = &mut self.averages {
            averages.follow(&self.model);
        }
        let (steps, skipped) = (self.steps, self.skipped);
        Ok(Some(StepReport { step, steps, loss, hits, gradient_norm, learning_rate, tokens, skipped }))
    }

    /// The rows of the next batch and their names; those that cannot be encoded are left out where that is allowed.
    fn next_rows(&mut self) -> Result<(Vec<Encoded>, Vec<String>)> {
        let mut empty = 0;
        loop {
            if self.place.batch == self.batches.len() {
                self.go_to(Place { epoch: self.place.epoch + 1, batch: 0 });
                empty += 1;
                if empty > 1 || self.batches.is_empty() {
                    return Err(Error::new(ErrorKind::Data, "no row of a whole epoch can be used"));
                }
            }
            let rows = self.batches[self.place.batch].clone();
            self.place.batch += 1;
            let (mut encoded, mut names) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
            for row in rows {
                let name = self.work.rows.name(row);
                match self.work.rows.encoded(row) {
                    Ok(row) => {
                        encoded.push(row);
                        names.push(name);
                    }
                    Err(e) if e.kind() == ErrorKind::Data && self.work.bad_rows == BadRows::Skip => self.skipped += 1,
                    Err(e) if e.kind() == ErrorKind::Data => return Err(Error::new(e.kind(), format!("{name}: {e}"))),
                    Err(e) => return Err(e),
                }
            }
            if !encoded.is_empty() {
                return Ok((encoded, names));
            }
        }
    }

    /// Forward and backward through one batch.
    fn pass(&self, rows: &[Encoded]) -> Result<Pass> {
        let TrainOptions { objective, objective_options, seed, training } = self.work.options;
        let teacher = self.work.annotations.map(|annotations| annotations.batch(rows)).transpose()?;
        let batch = if self.work.packing { Batch::packed(rows, &self.device) } else { Batch::new(rows, &self.device) };
        let number = self.place.epoch.wrapping_mul(1 << 32) ^ self.place.batch as u64;
        let mut dropout = Dropout::new(training.dropout, *seed, number);
        let logits = target_logits(&self.model, &batch, &mut dropout);
        let before = self.initial.as_ref().map(|initial| {
            let plain = if self.work.packing {
                Batch::packed(rows, self.work.device)
            } else {
                Batch::new(rows, self.work.device)
            };
            top1_hits(&target_logits(initial, &plain, &mut Unwatched), &plain.targets)
        });
        let loss = loss(*objective, objective_options, logits, &batch.targets, teacher.as_ref(), before.as_deref());
        let Loss { sum, divisor, hits } = loss;
        let gradients = GradientsParams::from_grads(sum.backward(), &self.model);
        Ok(Pass { gradients, sum: sum.into_scalar::<f32>().into(), divisor, hits })
    }

    fn failed(&self, names: &[String], tokens: usize, panic: &(dyn std::any::Any + Send)) -> Error {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        let message = format!(
            "step {} of {} failed on the device ({said}), in the batch of {tokens} tokens of {}; a smaller batch_size or \
             context, packing off or checkpoint_activations on need less memory",
            self.step + 1,
            self.steps,
            listed(names)
        );
        Error::new(ErrorKind::Device, message)
    }

    /// The model as it is: adapters merged, averages in place of weights if there are any.
    #[must_use]
    pub fn finished_model(&self) -> CausalLm {
        let model = match &self.averages {
            Some(averages) => averages.applied(self.model.clone()),
            None => self.model.clone(),
        };
        model.valid().materialize()
    }
}

/// Puts parameters under the strategy that keeps few activations; all that meet in an operation must share one.
struct Recompute;

impl ModuleMapper for Recompute {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let grad = tensor.is_require_grad();
            let strategy = GradientCheckpointingStrategy::Balanced;
            let tensor = Tensor::from_inner(tensor.inner()).with_gradient_checkpointing_strategy(strategy);
            if grad { tensor.require_grad() } else { tensor }
        })
    }
}

/// Logits of the positions that predict a target, `[targets, vocabulary]`.
fn target_logits(model: &CausalLm, batch: &Batch, watch: &mut dyn Watch) -> Tensor<2> {
    let hidden = model.hidden_watched(batch.ids.clone(), batch.segments.as_ref(), watch);
    let [rows, sequence, width] = hidden.dims();
    model.head(hidden.reshape([rows * sequence, width]).select(0, batch.positions.clone()))
}

/// AdamW; only matrices decay.
fn optimizer(options: &TrainOptions) -> Result<ModuleOptimizer> {
    let training = &options.training;
    let adamw = |decay: f32| {
        AdamWConfig::new()
            .with_beta_1(training.beta_1)
            .with_beta_2(training.beta_2)
            .with_epsilon(training.epsilon)
            .with_weight_decay(decay)
    };
    let vectors = ParamGroup::from_regex(r"(gamma|bias)$")
        .map_err(|e| Error::new(ErrorKind::Config, format!("the group of vectors: {e:?}")))?;
    let undecayed: AdamW = adamw(0.0).build();
    Ok(adamw(training.weight_decay).init().with_group(vectors, undecayed, None))
}

/// The first few names, and how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
