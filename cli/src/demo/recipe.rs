//! Every number that the demonstration depends on, in one place.
//!
//! They were chosen on CLINC150's published validation split, which the demonstration itself never reads; the
//! test split played no part.

use margay_trainer::objective::ObjectiveOptions;
use margay_trainer::{Architecture, Objective, TrainOptions, Training};

/// Sizes, schedules and rates of one demonstration.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Take every n-th row of the data.
    pub every: usize,
    /// Entries in the tokenizer's vocabulary.
    pub vocabulary: usize,
    /// Share of the training rows that is held back to calibrate the threshold on.
    pub calibration_share: f64,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// The model that stands for the cloud.
    pub large: ModelRecipe,
    /// The model for the device.
    pub small: ModelRecipe,
    /// How many of the large model's likeliest tokens are kept per target token.
    pub top_k: usize,
    /// Share of queries that the calibrated threshold is to defer.
    pub deferral_rate: f64,
    /// Resamples behind every interval.
    pub resamples: usize,
    /// Seed of weights, data order, dropout and resampling.
    pub seed: u64,
}

/// One model's dimensions and schedule.
#[derive(Debug, Clone)]
pub struct ModelRecipe {
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
    /// Passes over the data.
    pub epochs: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Probability that a unit is dropped.
    pub dropout: f64,
}

impl Recipe {
    /// All of CLINC150.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self {
            every: 1,
            vocabulary: 2048,
            calibration_share: 0.1,
            context: 128,
            large: ModelRecipe {
                hidden: 128,
                intermediate: 256,
                layers: 3,
                heads: 4,
                key_value_heads: 2,
                epochs: 6,
                learning_rate: 3e-3,
                dropout: 0.2,
            },
            small: ModelRecipe {
                hidden: 16,
                intermediate: 32,
                layers: 1,
                heads: 1,
                key_value_heads: 1,
                epochs: 5,
                learning_rate: 6e-3,
                dropout: 0.0,
            },
            top_k: 8,
            deferral_rate: 0.3,
            resamples: 1000,
            seed,
        }
    }

    /// A tenth of the data, the same path.
    #[must_use]
    pub fn quick(seed: u64) -> Self {
        let full = Self::full(seed);
        Self {
            every: 10,
            vocabulary: 1024,
            large: ModelRecipe { epochs: 12, ..full.large },
            small: ModelRecipe { epochs: 30, ..full.small },
            resamples: 200,
            ..full
        }
    }

    /// How a model of this recipe is trained.
    pub(super) fn training(&self, model: &ModelRecipe, objective: Objective) -> TrainOptions {
        TrainOptions {
            objective,
            objective_options: ObjectiveOptions::default(),
            seed: self.seed,
            training: Training {
                batch_size: 64,
                weight_decay: 0.05,
                dropout: model.dropout,
                ..Training::epochs(model.epochs, model.learning_rate)
            },
        }
    }
}

impl ModelRecipe {
    /// The dimensions as an architecture.
    pub(super) fn architecture(&self, vocabulary: usize, context: usize) -> Architecture {
        let Self { hidden, intermediate, layers, heads, key_value_heads, .. } = *self;
        let shape = Architecture::llama(vocabulary, hidden, intermediate, layers, heads, key_value_heads);
        Architecture { max_position_embeddings: context, ..shape }
    }
}
