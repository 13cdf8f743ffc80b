//! How long and how fast a model is trained.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::objective::{Objective, ObjectiveOptions};

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// What is minimised.
    pub objective: Objective,
    /// The choices within the objective.
    pub objective_options: ObjectiveOptions,
    /// Seed of data order and dropout.
    pub seed: u64,
    /// Steps, rates, optimiser.
    pub training: Training,
}

/// Steps, rates and the optimiser. Exactly one of `steps` and `epochs` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Steps of the optimiser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Passes over the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Rows side by side.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Batches whose gradients are summed for one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// How the rate goes on after the warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Share of the steps over which the rate rises from zero, 0 to 1.
    #[serde(default = "default_warm_up")]
    pub warm_up: f64,
    /// What the rate falls to, as a share of the highest.
    #[serde(default = "default_floor")]
    pub floor: f64,
    /// Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), of matrices only.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f32,
    /// Decay of the first moment.
    #[serde(default = "default_beta_1")]
    pub beta_1: f32,
    /// Decay of the second moment.
    #[serde(default = "default_beta_2")]
    pub beta_2: f32,
    /// Added to the root of the second moment.
    #[serde(default = "default_epsilon")]
    pub epsilon: f32,
    /// Largest global gradient norm.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// Probability that a unit of the embedding or of a residual branch is dropped, in steps of 1/256.
    #[serde(default)]
    pub dropout: f64,
    /// Decay of the moving average of the weights, which is then what is measured and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Recomputes cheap activations on the way back instead of keeping them.
    #[serde(default)]
    pub checkpoint_activations: bool,
}

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to the floor.
    #[default]
    Cosine,
    /// A straight line down to the floor.
    Linear,
    /// It does not.
    Constant,
}

impl Training {
    /// So many passes over the data at this rate, everything else as a recipe that does not say it.
    #[must_use]
    pub fn epochs(epochs: u64, learning_rate: f64) -> Self {
        Self {
            steps: None,
            epochs: Some(epochs),
            batch_size: default_batch_size(),
            accumulate: 1,
            learning_rate,
            schedule: Schedule::default(),
            warm_up: default_warm_up(),
            floor: default_floor(),
            weight_decay: default_weight_decay(),
            beta_1: default_beta_1(),
            beta_2: default_beta_2(),
            epsilon: default_epsilon(),
            clip: default_clip(),
            dropout: 0.0,
            ema: None,
            checkpoint_activations: false,
        }
    }

    /// # Errors
    /// [`ErrorKind::Config`] naming the key that is out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Config, format!("training.{message}")));
        if self.steps.is_some() == self.epochs.is_some() {
            return refuse("steps, epochs: exactly one of them is needed".into());
        }
        if self.steps == Some(0) || self.epochs == Some(0) || self.batch_size == 0 || self.accumulate == 0 {
            return refuse("steps, epochs, batch_size, accumulate: must be at least 1".into());
        }
        for (name, value, most) in [
            ("warm_up", self.warm_up, 1.0),
            ("floor", self.floor, 1.0),
            ("dropout", self.dropout, 0.9),
            ("beta_1", self.beta_1.into(), 0.9999),
            ("beta_2", self.beta_2.into(), 0.999_999),
            ("ema", self.ema.unwrap_or(0.0), 0.999_999),
        ] {
            if !(0.0..=most).contains(&value) {
                return refuse(format!("{name}: {value} is outside 0..={most}"));
            }
        }
        for (name, value, least) in [
            ("learning_rate", self.learning_rate, 0.0),
            ("clip", self.clip, f64::MIN_POSITIVE),
            ("epsilon", self.epsilon.into(), f64::MIN_POSITIVE),
            ("weight_decay", self.weight_decay.into(), 0.0),
        ] {
            if !(value.is_finite() && value >= least) {
                return refuse(format!("{name}: {value} is out of range"));
            }
        }
        Ok(())
    }

    /// The rate of a step, from 1, of so many.
    #[must_use]
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        let warm_up = (self.warm_up * steps as f64).max(1.0);
        let step = step as f64;
        if step < warm_up {
            return self.learning_rate * step / warm_up;
        }
        let progress = (step - warm_up) / (steps as f64 - warm_up).max(1.0);
        let left = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        };
        self.learning_rate * (self.floor + (1.0 - self.floor) * left)
    }
}

fn one() -> usize {
    1
}

fn default_batch_size() -> usize {
    32
}

fn default_warm_up() -> f64 {
    0.1
}

fn default_floor() -> f64 {
    0.1
}

fn default_weight_decay() -> f32 {
    0.01
}

fn default_beta_1() -> f32 {
    0.9
}

fn default_beta_2() -> f32 {
    0.98
}

fn default_epsilon() -> f32 {
    1e-8
}

fn default_clip() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_the_floor() {
        for (schedule, half) in [(Schedule::Cosine, 0.55), (Schedule::Linear, 0.55), (Schedule::Constant, 1.0)] {
            let training = Training { schedule, warm_up: 0.1, floor: 0.1, ..Training::epochs(1, 1.0) };
            assert!((training.rate(5, 100) - 0.5).abs() < 1e-12);
            assert!((training.rate(10, 100) - 1.0).abs() < 1e-12);
            assert!((training.rate(55, 100) - half).abs() < 1e-12, "{schedule:?}");
        }
        assert!((Training::epochs(1, 1.0).rate(100, 100) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let good = Training::epochs(1, 0.1);
        for (training, key) in [
            (Training { steps: Some(3), ..good.clone() }, "steps, epochs"),
            (Training { epochs: None, ..good.clone() }, "steps, epochs"),
            (Training { accumulate: 0, ..good.clone() }, "accumulate"),
            (Training { warm_up: 1.5, ..good.clone() }, "warm_up"),
            (Training { clip: 0.0, ..good.clone() }, "clip"),
            (Training { learning_rate: f64::NAN, ..good.clone() }, "learning_rate"),
        ] {
            let error = training.validate().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
