//! What all tokens of an answer say together, in constant memory.

use crate::quantiles::Quantiles;
use crate::rule::Percent;
use crate::signals::TokenSignals;

/// Running aggregates of the signals of one answer: under a kilobyte, whatever the answer's length.
///
/// Sums are integers in units of 2^-40 nats, to which each signal is rounded towards zero, and saturate at
/// 2^24 nats; sums and means read off them are then within two units in the last place of `f32`. All readings
/// are `None` before the first token and from the first invalid token on. Counts saturate at 2^32 - 1 tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    count: u32,
    valid: bool,
    first: f32,
    minimum: f32,
    /// Of the log-probabilities with their sign turned.
    surprise: Sum,
    margin: Sum,
    entropy: Sum,
    quantiles: Quantiles,
}

impl Aggregate {
    /// No token yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            count: 0,
            valid: true,
            first: 0.0,
            minimum: 0.0,
            surprise: Sum(0),
            margin: Sum(0),
            entropy: Sum(0),
            quantiles: Quantiles::new(),
        }
    }

    /// Adds the next token. An invalid one ([`TokenSignals::is_valid`]) makes the answer unscorable for good.
    pub fn observe(&mut self, signals: TokenSignals) {
        self.valid &= signals.is_valid();
        if self.valid {
            let TokenSignals { log_probability, margin, entropy } = signals;
            if self.count == 0 {
                self.first = log_probability;
            }
            if log_probability < self.minimum {
                self.minimum = log_probability;
            }
            self.surprise.add(log_probability);
            self.margin.add(margin);
            self.entropy.add(entropy);
            self.quantiles.insert(log_probability);
        }
        self.count = self.count.saturating_add(1);
    }

    /// Number of tokens, the invalid ones too.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no token had an invalid signal so far.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.valid
    }

    /// Sum of the log-probabilities: the log-likelihood of the answer, in nats.
    #[must_use]
    pub fn sum_log_probability(&self) -> Option<f32> {
        self.scorable().then(|| -self.surprise.over(1))
    }

    /// Mean log-probability per token, in nats.
    #[must_use]
    pub fn mean_log_probability(&self) -> Option<f32> {
        self.mean_log_probability_over(self.count)
    }

    /// Log-probability of the least likely token, in nats.
    #[must_use]
    pub fn minimum_log_probability(&self) -> Option<f32> {
        self.scorable().then_some(self.minimum)
    }

    /// Log-probability of the first token, in nats.
    #[must_use]
    pub fn first_log_probability(&self) -> Option<f32> {
        self.scorable().then_some(self.first)
    }

    /// Quantile of the log-probabilities, in nats: the smallest one that at least `level` of all tokens do
    /// not exceed (nearest rank; Hyndman & Fan 1996, type 1).
    ///
    /// Exact up to [`EXACT_TOKENS`](crate::EXACT_TOKENS) tokens. Beyond, an estimate `y` of the exact `x`
    /// that never flatters: `1.125 x <= y <= x` for `-64 < x <= -2^-16`, `-2^-16 <= y <= x` nearer to zero;
    /// from -64 nats down it is the minimum.
    #[must_use]
    pub fn quantile_log_probability(&self, level: Percent) -> Option<f32> {
        self.quantile_log_probability_over(level, self.count)
    }

    /// Mean margin between the two likeliest tokens, in nats.
    #[must_use]
    pub fn mean_margin(&self) -> Option<f32> {
        self.scorable().then(|| self.margin.over(self.count))
    }

    /// Mean entropy of the next-token distributions, in nats.
    #[must_use]
    pub fn mean_entropy(&self) -> Option<f32> {
        self.mean_entropy_over(self.count)
    }

    /// The mean over `tokens` tokens, at least those seen, had every further one been certain:
    /// log-probability zero.
    pub(crate) fn mean_log_probability_over(&self, tokens: u32) -> Option<f32> {
        self.scorable().then(|| -self.surprise.over(tokens))
    }

    /// The same for the mean entropy: a certain token's is zero.
    pub(crate) fn mean_entropy_over(&self, tokens: u32) -> Option<f32> {
        self.scorable().then(|| self.entropy.over(tokens))
    }

    /// The same for a quantile.
    pub(crate) fn quantile_log_probability_over(&self, level: Percent, tokens: u32) -> Option<f32> {
        self.scorable().then(|| self.quantiles.quantile(level, tokens, self.minimum))
    }

    fn scorable(&self) -> bool {
        self.valid && self.count > 0
    }
}

/// A sum of numbers that are not negative, in units of 2^-40 nats. It never sinks, and costs a
/// microcontroller without double precision a few instructions.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sum(u64);

impl Sum {
    const UNITS_PER_NAT: f32 = (1_u64 << 40) as f32;

    /// Adds the magnitude of `nats`, rounded down to a unit; saturates.
    ///
    /// In integers, because a microcontroller converts an `f32` to 64 bits in software: its mantissa has 24 bits, and from
    /// the highest place it is moved down by what its exponent is less than that of 2^24 nats.
    fn add(&mut self, nats: f32) {
        const HIGHEST: u32 = 127 + 23;
        let bits = nats.to_bits() & 0x7fff_ffff;
        let mantissa = u64::from(bits & 0x007f_ffff | 0x0080_0000);
        let units = match HIGHEST.checked_sub(bits >> 23) {
            Some(places) => (mantissa << 40).checked_shr(places).unwrap_or(0),
            None => u64::MAX,
        };
        self.0 = self.0.saturating_add(units);
    }

    /// The sum divided by `tokens`, in nats.
    fn over(self, tokens: u32) -> f32 {
        self.0 as f32 / tokens as f32 / Self::UNITS_PER_NAT
    }
}

impl Default for Aggregate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(log_probability: f32, margin: f32, entropy: f32) -> TokenSignals {
        TokenSignals { log_probability, margin, entropy }
    }

    #[test]
    fn readings_by_hand() {
        let mut answer = Aggregate::new();
        assert_eq!(answer.mean_log_probability(), None);
        for signals in [token(-0.5, 3.0, 0.25), token(-2.0, 0.5, 1.5), token(-0.125, 4.0, 0.5), token(0.0, 8.5, 0.0)] {
            answer.observe(signals);
        }
        assert_eq!(answer.count(), 4);
        assert_eq!(answer.sum_log_probability(), Some(-2.625));
        assert_eq!(answer.mean_log_probability(), Some(-0.65625));
        assert_eq!(answer.minimum_log_probability(), Some(-2.0));
        assert_eq!(answer.first_log_probability(), Some(-0.5));
        assert_eq!(answer.mean_margin(), Some(4.0));
        assert_eq!(answer.mean_entropy(), Some(0.5625));
        assert_eq!(answer.quantile_log_probability(Percent::new(50).unwrap()), Some(-0.5));
    }

    #[test]
    fn an_invalid_signal_is_never_forgotten() {
        for bad in
            [token(f32::NAN, 0.0, 0.0), token(0.5, 0.0, 0.0), token(-1.0, -1.0, 0.0), token(-1.0, 0.0, f32::INFINITY)]
        {
            let mut answer = Aggregate::new();
            answer.observe(token(-1.0, 1.0, 1.0));
            answer.observe(bad);
            answer.observe(token(-1.0, 1.0, 1.0));
            assert_eq!((answer.count(), answer.is_valid()), (3, false));
            assert_eq!(answer.mean_log_probability(), None);
            assert_eq!(answer.first_log_probability(), None);
            assert_eq!(answer.quantile_log_probability(Percent::new(0).unwrap()), None);
        }
    }

    #[test]
    fn sums_saturate() {
        let mut answer = Aggregate::new();
        answer.observe(token(f32::MIN, f32::MAX, 16_777_215.0));
        answer.observe(token(f32::MIN, 0.0, 2.0));
        let limit = 16_777_216.0; // 2^24
        assert_eq!(answer.sum_log_probability(), Some(-limit));
        assert_eq!(answer.mean_log_probability(), Some(-limit / 2.0));
        assert_eq!(answer.mean_margin(), Some(limit / 2.0));
        assert_eq!(answer.mean_entropy(), Some(limit / 2.0));
    }

    #[test]
    fn many_small_numbers_are_not_lost_on_a_large_one() {
        let mut answer = Aggregate::new();
        answer.observe(token(-1000.0, 0.0, 0.0));
        for _ in 0..100_000 {
            answer.observe(token(-1e-5, 0.0, 0.0)); // an f32 sum would stay at -1000
        }
        let error = f64::from(answer.sum_log_probability().unwrap()) + 1001.0;
        assert!(error.abs() < 1e-4, "{error}");
    }

    proptest! {
        /// The conversion of the language says the same in floating point: a product with a power of two is exact.
        #[test]
        fn units_are_rounded_down(magnitude in 0..=f32::MAX.to_bits()) {
            let nats = f32::from_bits(magnitude);
            let mut sum = Sum(0);
            sum.add(-nats);
            prop_assert_eq!(sum.0, (nats * Sum::UNITS_PER_NAT) as u64);
        }
    }

    #[test]
    fn it_takes_under_a_kilobyte() {
        assert!(size_of::<Aggregate>() < 1024, "{}", size_of::<Aggregate>());
    }
}
