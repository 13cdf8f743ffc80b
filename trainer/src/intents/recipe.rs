//! What an intent classifier is trained on, and how: a TOML file with a table `[intents]`.

use std::path::{Path, PathBuf};

use margay_intents::MAX_HIDDEN;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Everything about one training run. Relative paths are relative to the recipe's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentRecipe {
    /// Folder of the finished classifier.
    pub out: PathBuf,
    /// Seed of weights, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Its size, and how it learns.
    pub intents: IntentOptions,
    /// What it is trained and measured on.
    pub data: IntentData,
}

/// Size of the classifier, and how it learns: stochastic gradient descent, one utterance a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentOptions {
    /// Buckets that n-grams are hashed into; a power of two.
    pub buckets: usize,
    /// Hidden units.
    pub hidden: usize,
    /// Times that every utterance is seen.
    pub epochs: usize,
    /// Learning rate of the first step; it falls to nothing along a straight line.
    pub rate: f32,
    /// Share of an utterance's n-grams that are left out while training, drawn anew each time; below 1.
    #[serde(default)]
    pub dropout: f32,
}

/// Task rows: `input` is the utterance, `target` its intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentData {
    /// Rows to learn from.
    pub train: PathBuf,
    /// Rows to measure on.
    pub test: PathBuf,
    /// How often in each epoch a task's rows are seen; once unless said.
    #[serde(default)]
    pub repeat: std::collections::BTreeMap<String, usize>,
}

/// Most buckets: as many rows as 16-bit floats of 64 units fit into a large microcontroller's flash, and more.
const MAX_BUCKETS: usize = 1 << 16;

impl IntentRecipe {
    /// Whether a recipe is one of these, by its table `[intents]`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]. What is no TOML is none of these; its reader says why.
    pub fn is_one(path: &Path) -> Result<bool> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Ok(text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("intents")))
    }

    /// Reads a recipe.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Config`] naming file and key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let wrong = |why: &dyn std::fmt::Display| Error::new(ErrorKind::Config, format!("{}: {why}", path.display()));
        let mut recipe: Self = toml::from_str(&text).map_err(|e| wrong(&e).with_source(e))?;
        recipe.intents.validate().map_err(|e| wrong(&e))?;
        if let Some(folder) = path.parent() {
            for path in [&mut recipe.out, &mut recipe.data.train, &mut recipe.data.test] {
                *path = folder.join(&*path);
            }
        }
        Ok(recipe)
    }
}

impl IntentOptions {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Config, why));
        if !self.buckets.is_power_of_two() || self.buckets > MAX_BUCKETS {
            return refuse(format!("intents.buckets: {} is not a power of two up to {MAX_BUCKETS}", self.buckets));
        }
        if self.hidden == 0 || self.hidden > MAX_HIDDEN {
            return refuse(format!("intents.hidden: {} is not from 1 to {MAX_HIDDEN}", self.hidden));
        }
        if self.epochs == 0 {
            return refuse("intents.epochs: 0 learns nothing".into());
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return refuse(format!("intents.rate: {} is not a positive number", self.rate));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("intents.dropout: {} is not from 0 to below 1", self.dropout));
        }
        Ok(())
    }
}
