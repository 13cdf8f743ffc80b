//! The two models: trained, read off, kept as checkpoints under the output folder.

use std::ops::ControlFlow;
use std::path::Path;

use margay_trainer::data::Encoded;
use margay_trainer::objective::Hits;
use margay_trainer::{Annotations, CausalLm, Checkpoint, Device, Objective, Tokenizer, train};

use super::recipe::ModelRecipe;
use super::{Data, Recipe};
use crate::console::{Bar, Console};
use crate::error::Result;

/// What training works on: the encoded training rows and what everything is encoded with.
pub(super) struct Workshop<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    train: Vec<Encoded>,
    device: Device,
}

/// A finished model on disk.
pub(super) struct Trained {
    pub(super) checkpoint: Checkpoint,
    pub(super) model: CausalLm,
    /// Share of target tokens that the objective's mask let through, over the whole training; `None` without a mask.
    pub(super) unmasked: Option<f64>,
}

impl<'a> Workshop<'a> {
    /// Trains the tokenizer on the training rows and encodes them.
    pub(super) fn new(recipe: &'a Recipe, data: &Data) -> Result<Self> {
        let texts = data.train.iter().flat_map(|row| [row.input.as_str(), row.target.as_str()]);
        let texts: Vec<&str> = texts.collect();
        let tokenizer = Tokenizer::train(texts.into_iter(), recipe.vocabulary)?;
        let train = Encoded::all(&data.train, &tokenizer, recipe.context)?;
        Ok(Self { recipe, tokenizer, train, device: Device::flex() })
    }

    /// Training tokens of one pass over the data: prompts, and targets.
    pub(super) fn tokens(&self) -> (usize, usize) {
        let prompts = self.train.iter().map(|row| row.prompt.len()).sum();
        (prompts, self.train.iter().map(|row| row.target.len()).sum())
    }

    /// Entries in the vocabulary, which may be fewer than asked for.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokenizer.vocabulary_size()
    }

    /// Tokens of the longest answer in the training rows, its end included.
    pub(super) fn longest_answer(&self) -> usize {
        self.train.iter().map(|row| row.target.len()).max().unwrap_or(1)
    }

    /// Trains a model from scratch and keeps it in `folder`. The same `model` recipe starts from the same weights
    /// whatever the objective.
    pub(super) fn train(
        &self,
        console: &Console,
        model: &ModelRecipe,
        objective: Objective,
        annotations: Option<&Annotations>,
        folder: &Path,
    ) -> Result<Trained> {
        let architecture = model.architecture(self.vocabulary(), self.recipe.context);
        let options = self.recipe.training(model, objective);
        let initial = CausalLm::random(&architecture, self.recipe.seed, &self.device)?;
        let mut bar: Option<Bar> = None;
        let mut seen = Hits::default();
        let trained = train(initial, &self.train, annotations, &options, &self.device, &mut |report| {
            let bar = bar.get_or_insert_with(|| console.bar("training", report.steps as u64));
            bar.advance(1);
            bar.say(format!("loss {:.3}", report.loss));
            seen += report.hits;
            ControlFlow::Continue(())
        })?;
        let checkpoint = Checkpoint::save(folder, &architecture, &trained, &self.tokenizer)?;
        let unmasked = objective.masks().then(|| 1.0 - seen.neither as f64 / seen.total().max(1) as f64);
        Ok(Trained { checkpoint, model: trained, unmasked })
    }

    /// Teacher-forces the large model over the training targets and keeps what it says in `path`.
    pub(super) fn annotate(&self, console: &Console, large: &CausalLm, path: &Path) -> Result<Annotations> {
        let bar = console.bar("annotating", self.train.len() as u64);
        let (k, batch) = (self.recipe.top_k, 128);
        let annotations =
            Annotations::read_off(large, &self.train, k, batch, &self.device, &mut |rows| bar.advance(rows as u64))?;
        annotations.save(path)?;
        Ok(Annotations::open(path)?)
    }
}
