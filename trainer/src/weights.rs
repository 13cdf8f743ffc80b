//! Weights of a checkpoint, wherever they lie. Values are converted to 32-bit floats as they are asked for, one tensor at a
//! time, so that a model never stands in memory whole for having been read.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Gguf;
use crate::shards::Shards;

/// The weights of a checkpoint. Matrices are `[outputs, inputs]`, as PyTorch lays them out; names are Hugging Face's.
#[derive(Debug)]
pub struct Weights(Store);

#[derive(Debug)]
enum Store {
    Shards(Shards),
    Gguf(Gguf),
}

impl Weights {
    /// Maps what is in a folder of Hugging Face's layout.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(Store::Shards(Shards::open(folder)?)))
    }

    /// Those of a GGUF file.
    pub(crate) fn gguf(file: Gguf) -> Self {
        Self(Store::Gguf(file))
    }

    /// Values of a tensor that must have this shape.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] when there is no such tensor, it has another shape or is not of floats.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match &self.0 {
            Store::Shards(shards) => shards.tensor(name, shape),
            Store::Gguf(file) => file.tensor(name, shape),
        }
    }

    /// Refuses a checkpoint that has more than was `read`: what it computes is not what we do.
    pub(crate) fn all_read(&self, read: &BTreeSet<String>) -> Result<()> {
        match &self.0 {
            Store::Shards(shards) => shards.all_read(read),
            Store::Gguf(file) => file.all_read(read),
        }
    }
}

pub(crate) fn malformed(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Checkpoint, format!("{}: {what}", path.display()))
}

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
