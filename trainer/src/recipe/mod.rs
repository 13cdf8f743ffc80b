//! A training run in a file: which model, which data, what is minimised, how long, and where everything goes.
//!
//! TOML; a key that is not known is an error. Relative paths are relative to the working directory.

mod parse;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::data::{Fold, PromptStyle, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::lora::LoraOptions;
use crate::objective::{Objective, ObjectiveOptions};
use crate::training::{Measure, Training};

/// Everything about one training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Folder of the run: checkpoints, metrics, the finished model.
    pub out: PathBuf,
    /// Seed of weights, data order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// What computes: `cpu`, or a GPU whose Cargo feature the program was built with.
    #[serde(default)]
    pub backend: Backend,
    /// What is trained.
    pub model: ModelRecipe,
    /// What it is trained and measured on.
    pub data: DataRecipe,
    /// The large model's view of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<LargeRecipe>,
    /// What is minimised.
    #[serde(default)]
    pub objective: ObjectiveRecipe,
    /// Steps, rates, optimiser.
    pub training: Training,
    /// Measuring on the way.
    #[serde(default)]
    pub evaluation: EvaluationRecipe,
    /// Saving on the way.
    #[serde(default)]
    pub checkpoints: CheckpointRecipe,
}

/// Where the first weights come from: exactly one of `checkpoint` and `scratch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder of a checkpoint to fine-tune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Keeps only the first so many layers of the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_layers: Option<usize>,
    /// Dimensions of a model with random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<ScratchRecipe>,
    /// Trains low-rank adapters instead of all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraOptions>,
}

/// A Llama-style model with random weights. Its context is that of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchRecipe {
    /// Folder whose `tokenizer.json` is used, e.g. the large model's; a new one is trained if this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Entries of a new tokenizer's vocabulary.
    #[serde(default = "default_vocabulary")]
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub key_value_heads: usize,
}

/// Data sets and how a row becomes a prompt and a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Rows to train on.
    pub train: Vec<Source>,
    /// Rows to measure on while training; the held-back rows if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluation: Vec<Source>,
    /// Rows to measure on once, when training is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<Source>,
    /// Longest sequence, in tokens. A longer prompt loses its middle, a target never loses anything.
    #[serde(default = "default_context")]
    pub context: usize,
    /// How a row is put to the model.
    #[serde(default)]
    pub prompt: PromptStyle,
    /// The system message before every row, for templates that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Data sets are drawn in proportion to `rows^(1 / temperature)`: 1 is by size, a large number is alike.
    /// Without it, and without weights, an epoch is every row once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Share of the training rows that is held back by a stable hash of the input, 0 to 1.
    #[serde(default)]
    pub calibration_share: f64,
    /// Does not train on one part of the rows: for the models of `large.cross_fit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_out: Option<Fold>,
    /// What happens when a row is malformed or its target does not fit.
    #[serde(default)]
    pub bad_rows: BadRows,
    /// Puts several short rows into one sequence, each blind to the others.
    #[serde(default)]
    pub packing: bool,
}

/// What happens to malformed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRows {
    /// The first one ends the run before it starts.
    #[default]
    Refuse,
    /// They are counted, reported and left out.
    Skip,
}

/// The large model's view of the data, made once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LargeRecipe {
    /// The annotation cache.
    pub annotations: PathBuf,
    /// Checkpoint folder of the large model: makes the cache if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Checkpoint folders of large models, the i-th trained with `data.leave_out = { fold = i, of = n }`: each reads the
    /// training rows that it was not trained on. A model that has learned its rows by heart predicts all of them, and a
    /// mask that is made of that lets everything through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cross_fit: Vec<PathBuf>,
    /// Likeliest tokens kept per target token when the cache is made here.
    #[serde(default = "default_top_k")]
    pub top_k: usize,
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveRecipe {
    /// The objective.
    pub name: Objective,
    /// The choices within it.
    pub options: ObjectiveOptions,
}

/// Measuring on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationRecipe {
    /// Steps between evaluations; 0 measures at the end only.
    pub every: usize,
    /// Most rows measured on while training: the first of each data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// Sequences side by side.
    pub batch_size: usize,
    /// Which measure tells the best checkpoint.
    pub best_by: Measure,
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self { every: 0, rows: None, batch_size: 32, best_by: Measure::default() }
    }
}

/// Saving on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointRecipe {
    /// Steps between checkpoints; 0 saves at the end and when stopped.
    pub every: usize,
    /// How many of the last ones stay.
    pub keep: usize,
}

impl Default for CheckpointRecipe {
    fn default() -> Self {
        Self { every: 0, keep: 2 }
    }
}

impl Recipe {
    /// Reads a recipe, with `key=value` settings that replace what it says. A value is TOML, or else text.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Config`] naming file and line, or the setting.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let recipe = parse::recipe(&text, path, settings)?;
        recipe.validate().map_err(|e| Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(recipe)
    }

    /// The recipe as TOML, with every default written out.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a number does not fit TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self)
            .map_err(|e| Error::new(ErrorKind::Config, format!("cannot write the recipe: {e}")).with_source(e))
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Config, message));
        if self.model.checkpoint.is_some() == self.model.scratch.is_some() {
            return refuse("model: needs either `checkpoint` or `scratch`".into());
        }
        if self.model.first_layers.is_some() && (self.model.checkpoint.is_none() || self.model.lora.is_some()) {
            return refuse("model.first_layers: is for a checkpoint that is trained fully".into());
        }
        if self.model.first_layers == Some(0) {
            return refuse("model.first_layers: 0 is no model".into());
        }
        if self.data.train.is_empty() {
            return refuse("data.train: names no data set".into());
        }
        if !(0.0..1.0).contains(&self.data.calibration_share) {
            return refuse(format!("data.calibration_share: {} is outside 0..1", self.data.calibration_share));
        }
        if self.data.leave_out.is_some_and(|Fold { fold, of }| of < 2 || fold >= of) {
            return refuse("data.leave_out: fold must be below of, and of at least 2".into());
        }
        if self.large.as_ref().is_some_and(|large| {
            large.cross_fit.len() == 1 || (!large.cross_fit.is_empty() && large.checkpoint.is_none())
        }) {
            return refuse("large.cross_fit: needs two models or more, and `checkpoint` for all other rows".into());
        }
        if self.data.temperature.is_some_and(|t| !(t.is_finite() && t > 0.0)) {
            return refuse("data.temperature: must be above 0".into());
        }
        if self.data.temperature.is_some() && self.data.train.iter().any(|source| source.weight.is_some()) {
            return refuse("data.temperature: not together with `weight` of a data set".into());
        }
        let weights = self.data.train.iter().filter_map(|source| source.weight);
        if weights.clone().any(|weight| !(weight.is_finite() && weight >= 0.0)) {
            return refuse("data.train.weight: must be 0 or more".into());
        }
        let weighted = weights.clone().count();
        if weighted > 0 && (weighted < self.data.train.len() || weights.sum::<f64>() <= 0.0) {
            return refuse("data.train.weight: all data sets need one, or none, and not all 0".into());
        }
        if self.evaluation.batch_size == 0 {
            return refuse("evaluation.batch_size: must be at least 1".into());
        }
        if self.checkpoints.keep == 0 {
            return refuse("checkpoints.keep: must be at least 1".into());
        }
        self.objective.options.validate()?;
        self.training.validate()?;
        let needs = self.objective.name.needs_annotations();
        if needs && self.large.is_none() {
            return refuse(format!("large: `{}` needs the large model's annotations", self.objective.name));
        }
        Ok(())
    }
}

fn default_vocabulary() -> usize {
    4096
}

fn default_context() -> usize {
    256
}

fn default_top_k() -> usize {
    8
}
