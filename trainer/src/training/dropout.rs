//! Inverted dropout from a seeded stream of its own, so that two runs drop the same units on every device.

use burn::tensor::{Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::model::Watch;

/// Drops units in one forward pass.
pub(super) struct Dropout {
    rng: StdRng,
    /// A byte below this drops its unit.
    below: u8,
}

impl Dropout {
    /// The stream follows from seed and batch alone, so that a resumed run draws what it would have drawn.
    pub(super) fn new(probability: f64, seed: u64, batch: u64) -> Self {
        let stream = seed ^ 0xD20 ^ batch.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Self { rng: StdRng::seed_from_u64(stream), below: (probability * 256.0).round() as u8 }
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
