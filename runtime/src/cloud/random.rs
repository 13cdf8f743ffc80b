//! Random numbers for jitter and idempotency keys: SHA-256 of a secret seed and a counter.
//!
//! Draws never fail and repeat exactly when the seed is given, which is what a test needs.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A stream of random blocks, shared by all requests of one client.
pub(crate) struct Random {
    seed: [u8; 32],
    drawn: AtomicU64,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }

    /// 32 lower-case hexadecimal digits that no other draw repeats.
    pub(crate) fn key(&self) -> String {
        format!("{:032x}", self.draw())
    }

    /// Uniform in `0.0..1.0`.
    pub(super) fn unit(&self) -> f64 {
        // The upper 53 bits: every multiple of 2^-53 below one is exact in a double.
        let bits = (self.draw() >> 75) as u64;
        bits as f64 / (1_u64 << 53) as f64
    }

    fn draw(&self) -> u128 {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        let block = Sha256::new().chain_update(self.seed).chain_update(count.to_le_bytes()).finalize();
        block.iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_first_half_of_sha256_over_seed_and_counter() {
        // python3 -c "import hashlib; [print(hashlib.sha256(bytes(32) + i.to_bytes(8, 'little')).hexdigest()[:32]) for i in (0, 1)]"
        let random = Random::new([0; 32]);
        assert_eq!(random.key(), "2c34ce1df23b838c5abf2a7f6437cca3");
        assert_eq!(random.key(), "19ea44be89eece0fd4ec7482049f472a");
    }

    #[test]
    fn units_fill_the_half_open_interval() {
        let random = Random::new([7; 32]);
        let units: Vec<f64> = (0..4096).map(|_| random.unit()).collect();
        assert!(units.iter().all(|unit| (0.0..1.0).contains(unit)));
        // Mean of 4096 uniform draws: 0.5 with a standard error of 0.0045.
        assert!((units.iter().sum::<f64>() / 4096.0 - 0.5).abs() < 0.02);
        assert!(units.iter().any(|unit| *unit < 0.01) && units.iter().any(|unit| *unit > 0.99));
    }
}
