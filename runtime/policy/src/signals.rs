//! What one token says about the model's confidence, read off its logits.
//!
//! The arithmetic is fixed to the last bit, see the crate's front page.

use core::fmt;

/// Confidence signals of one generated token, over the full vocabulary.
///
/// A signal out of its range (not finite, or the wrong sign) was not read off a distribution: it makes the
/// whole answer unscorable, see [`Aggregate::observe`](crate::Aggregate::observe).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct TokenSignals {
    /// Log-probability of the token that was chosen, in nats; never above zero.
    pub log_probability: f32,
    /// Log-probability of the likeliest token less that of the second likeliest, in nats; never below zero.
    pub margin: f32,
    /// Shannon entropy of the next-token distribution, in nats; never below zero.
    pub entropy: f32,
}

/// Why there are no signals. Either is the fault of whoever made the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalError {
    /// Fewer than two logits: there is nothing to be unsure between.
    TooFewLogits {
        /// How many there were.
        count: usize,
    },
    /// The token is not in the vocabulary.
    TokenOutOfRange {
        /// The token's id.
        token: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A logit is infinite or not a number.
    NotFinite {
        /// The first such token's id.
        token: usize,
    },
    /// The scale of 8-bit logits is negative, not a number, or so large that a logit is not finite.
    Scale,
}

impl TokenSignals {
    /// Signals of `token` under the distribution softmax(`logits`), with `logits` of shape `[vocabulary]`.
    ///
    /// Two passes: the two largest logits, then `Z = sum exp(d)` and `W = sum d exp(d)` with
    /// `d = logit - largest`. From these `log p = d_token - ln Z` and `H = ln Z - W/Z`. No term of `Z` or of
    /// `-W` is negative and `Z >= 1`, so nothing cancels. Terms are `f32`, sums `f64`. For logits within 100
    /// of the largest and vocabularies up to 2^18 all three signals are within `1e-6 (1 + |value|)` of exact
    /// arithmetic, and a log-probability just below zero keeps its relative accuracy. Values beyond the range
    /// of `f32` saturate.
    ///
    /// # Errors
    /// [`SignalError`] if there are fewer than two logits, one of them is not finite, or `token` is not among them.
    pub fn from_logits(logits: &[f32], token: usize) -> Result<Self, SignalError> {
        Self::of(logits, 1.0, token)
    }

    /// Signals of `token` where the logits are `scale * q`, with `logits` `q` of shape `[vocabulary]`: the very bits of
    /// [`TokenSignals::from_logits`] on these products, each rounded to `f32` once. A zero point of the quantization may be
    /// left out, because a distribution does not change when all logits move alike.
    ///
    /// # Errors
    /// [`SignalError`] if there are fewer than two logits, `token` is not among them, or `scale` is none.
    pub fn from_int8_logits(logits: &[i8], scale: f32, token: usize) -> Result<Self, SignalError> {
        if !(0.0..=f32::MAX / 128.0).contains(&scale) {
            return Err(SignalError::Scale);
        }
        Self::of(logits, scale, token)
    }

    fn of<L: Logit>(logits: &[L], scale: f32, token: usize) -> Result<Self, SignalError> {
        let vocabulary = logits.len();
        if vocabulary < 2 {
            return Err(SignalError::TooFewLogits { count: vocabulary });
        }
        let Some(&chosen) = logits.get(token) else {
            return Err(SignalError::TokenOutOfRange { token, vocabulary });
        };
        let [largest, second] = two_largest(logits, scale)?;
        let Moments { z, w } = Moments::of(logits, scale, largest);
        let log_z = libm::log(z);
        Ok(Self {
            log_probability: saturate(f64::from(chosen.value(scale)) - f64::from(largest) - log_z),
            margin: saturate(f64::from(largest) - f64::from(second)),
            entropy: saturate(log_z - w / z),
        })
    }

    /// Whether every signal is finite and has the sign it must have.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        // A comparison with NaN is false, so NaN is invalid without being named.
        (f32::MIN..=0.0).contains(&self.log_probability)
            && (0.0..=f32::MAX).contains(&self.margin)
            && (0.0..=f32::MAX).contains(&self.entropy)
    }
}

/// A logit as a model computes it: `f32`, or 8 bits that count in units of a scale.
trait Logit: Copy {
    fn value(self, scale: f32) -> f32;
}

impl Logit for f32 {
    #[inline]
    fn value(self, _scale: f32) -> f32 {
        self
    }
}

impl Logit for i8 {
    #[inline]
    fn value(self, scale: f32) -> f32 {
        f32::from(self) * scale
    }
}

/// The nearest `f32`, the largest finite one in place of an infinity.
fn saturate(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Independent partial results that a compiler may hold in vector registers without reordering anything:
/// element `i` always goes to lane `i mod LANES`.
const LANES: usize = 8;

/// The largest and the second largest logit (equal on a tie).
fn two_largest<L: Logit>(logits: &[L], scale: f32) -> Result<[f32; 2], SignalError> {
    let mut lanes = [Largest::NONE; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            lane.take(x.value(scale));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        lane.take(x.value(scale));
    }
    if lanes.iter().any(|lane| lane.poison != 0.0) {
        let token = logits.iter().position(|x| !x.value(scale).is_finite()).unwrap_or_default();
        return Err(SignalError::NotFinite { token });
    }
    let mut all = Largest::NONE;
    for lane in lanes {
        all.take(lane.first);
        all.take(lane.second);
    }
    Ok([all.first, all.second])
}

#[derive(Clone, Copy)]
struct Largest {
    first: f32,
    second: f32,
    /// Zero while all logits are finite, NaN for ever after one that is not.
    poison: f32,
}

impl Largest {
    const NONE: Self = Self { first: f32::NEG_INFINITY, second: f32::NEG_INFINITY, poison: 0.0 };

    #[inline]
    fn take(&mut self, x: f32) {
        let loser = if x > self.first { self.first } else { x };
        self.first = if x > self.first { x } else { self.first };
        self.second = if loser > self.second { loser } else { self.second };
        self.poison += x * 0.0;
    }
}

/// `z = sum exp(d)` and `w = sum d exp(d)`, with `d = logit - largest`.
#[derive(Clone, Copy)]
struct Moments {
    z: f64,
    w: f64,
}

impl Moments {
    fn of<L: Logit>(logits: &[L], scale: f32, largest: f32) -> Self {
        let mut lanes = [Self { z: 0.0, w: 0.0 }; LANES];
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                lane.take(x.value(scale) - largest);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            lane.take(x.value(scale) - largest);
        }
        lanes.into_iter().fold(Self { z: 0.0, w: 0.0 }, |sum, lane| Self { z: sum.z + lane.z, w: sum.w + lane.w })
    }

    #[inline]
    fn take(&mut self, d: f32) {
        let d = if d < EXP_LOWEST { EXP_LOWEST } else { d };
        let e = exp(d);
        self.z += f64::from(e);
        self.w += f64::from(d * e);
    }
}

/// Below this [`exp`] would leave the normal numbers. `exp(-86)` is 4.5e-38: nothing, next to a sum of at
/// least one.
pub(crate) const EXP_LOWEST: f32 = -86.0;

/// `e^x` for `x` in [`EXP_LOWEST`]`..=0`, within 2 units in the last place; `exp(0)` is exactly 1.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial for `e^r`, and `n` added to the exponent. Constants:
/// `expf` of the Cephes library (Moshier 1984). No branch and no table, so that it runs in vector registers.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LN_2_HIGH: f32 = 355.0 / 512.0; // nine significant bits: n * LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4; // ln 2 - LN_2_HIGH
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooFewLogits { count } => {
                write!(f, "{count} logits are too few: at least 2 are needed")
            }
            Self::TokenOutOfRange { token, vocabulary } => {
                write!(f, "token {token} is not in a vocabulary of {vocabulary}")
            }
            Self::NotFinite { token } => write!(f, "the logit of token {token} is not finite"),
            Self::Scale => f.write_str("the scale of the logits is negative, not a number, or too large"),
        }
    }
}

impl core::error::Error for SignalError {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn assert_close(got: TokenSignals, [log_probability, margin, entropy]: [f64; 3]) {
        for (name, got, wanted) in [
            ("log-probability", got.log_probability, log_probability),
            ("margin", got.margin, margin),
            ("entropy", got.entropy, entropy),
        ] {
            let error = (f64::from(got) - wanted).abs();
            assert!(error <= 1e-6 * (1.0 + wanted.abs()), "{name}: got {got}, wanted {wanted}");
        }
    }

    /// Made with scipy 1.17 in double precision:
    ///
    /// ```python
    /// def signals(logits, token):
    ///     lp = scipy.special.log_softmax(np.asarray(logits, np.float32).astype(float)); top = np.sort(lp)[::-1]
    ///     return lp[token], top[0] - top[1], scipy.special.entr(np.exp(lp)).sum()
    /// signals([2, 1, 0.1, -3, 1.5], 0); signals([10, 10, -20], 2); signals([-50, 30, 3, 5.5], 1)
    /// signals(np.arange(50000) % 101 / 8, 100); signals(np.arange(262144) * 40503 % 65536 / 4096 - 8, 65535)
    /// ```
    #[test]
    fn signals_agree_with_scipy() {
        let of = |logits: &[f32], token| TokenSignals::from_logits(logits, token).unwrap();
        assert_close(of(&[2.0, 1.0, 0.1, -3.0, 1.5], 0), [-0.7564583866647596, 0.5, 1.2206284463971644]);
        assert_close(of(&[10.0, 10.0, -20.0], 2), [-30.693147180559993, 0.0, 0.6931471805613957]);
        let logits: Vec<f32> = (0..50_000).map(|i| (i % 101) as f32 / 8.0).collect();
        assert_close(of(&logits, 100), [-8.345845064335212, 0.0, 9.28460535305146]);
        let logits: Vec<f32> = (0..262_144_u64).map(|i| (i * 40_503 % 65_536) as f32 / 4096.0 - 8.0).collect();
        assert_close(of(&logits, 65_535), [-19.592366076883025, 0.0, 10.704058617224582]);

        // A token that is almost certain keeps its relative accuracy.
        let sure = of(&[-50.0, 30.0, 3.0, 5.5], 1);
        assert_close(sure, [-2.4776847240252673e-11, 24.5, 6.365091624554257e-10]);
        assert!((f64::from(sure.log_probability) / -2.4776847240252673e-11 - 1.0).abs() < 1e-5);
        assert!((f64::from(sure.entropy) / 6.365091624554257e-10 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn malformed_logits_are_named() {
        let error = |logits: &[f32], token| TokenSignals::from_logits(logits, token).unwrap_err();
        assert_eq!(error(&[], 0), SignalError::TooFewLogits { count: 0 });
        assert_eq!(error(&[1.0], 0), SignalError::TooFewLogits { count: 1 });
        assert_eq!(error(&[1.0, 2.0], 2), SignalError::TokenOutOfRange { token: 2, vocabulary: 2 });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 8, 18] {
                let mut logits = [0.5; 19];
                logits[at] = bad;
                assert_eq!(error(&logits, 3), SignalError::NotFinite { token: at });
            }
        }
    }

    #[test]
    fn scales_that_are_none_are_refused() {
        let of = |scale| TokenSignals::from_int8_logits(&[-128, 127, 0], scale, 1);
        for scale in [-0.5, f32::NAN, f32::INFINITY, f32::MAX] {
            assert_eq!(of(scale), Err(SignalError::Scale));
        }
        assert_eq!(of(0.0).map(|signals| signals.margin), Ok(0.0), "all alike");
        assert_eq!(of(f32::MAX / 128.0).map(|signals| signals.is_valid()), Ok(true));
        assert_eq!(TokenSignals::from_int8_logits(&[1], 1.0, 0), Err(SignalError::TooFewLogits { count: 1 }));
    }

    #[test]
    fn values_beyond_f32_saturate() {
        let signals = TokenSignals::from_logits(&[f32::MAX, f32::MIN], 1).unwrap();
        let expected = TokenSignals { log_probability: f32::MIN, margin: f32::MAX, entropy: 0.0 };
        assert!(signals.is_valid());
        assert_eq!((signals.log_probability, signals.margin), (expected.log_probability, expected.margin));
        assert!(signals.entropy < 1e-30);
    }

    #[test]
    fn a_signal_out_of_its_range_is_invalid() {
        let valid = TokenSignals { log_probability: -0.5, margin: 1.0, entropy: 0.25 };
        assert!(valid.is_valid());
        assert!(TokenSignals { log_probability: 0.0, margin: 0.0, entropy: -0.0 }.is_valid());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!TokenSignals { log_probability: bad, ..valid }.is_valid());
            assert!(!TokenSignals { margin: bad, ..valid }.is_valid());
            assert!(!TokenSignals { entropy: bad, ..valid }.is_valid());
        }
        assert!(!TokenSignals { log_probability: f32::MIN_POSITIVE, ..valid }.is_valid());
        assert!(!TokenSignals { margin: -f32::MIN_POSITIVE, ..valid }.is_valid());
        assert!(!TokenSignals { entropy: -f32::MIN_POSITIVE, ..valid }.is_valid());
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        assert_eq!(exp(0.0), 1.0);
        let step = 1.0 / 4096.0; // exact in f32 over the whole range
        for i in 0..=(-EXP_LOWEST / step) as u32 {
            let x = -(i as f32) * step;
            let exact = f64::from(x).exp();
            let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            let error = (f64::from(exp(x)) - exact).abs() / ulp;
            assert!(error <= 2.0, "exp({x}) is {error} ulp away");
        }
    }

    proptest! {
        #[test]
        fn logits_of_8_bits_are_those_they_stand_for(
            logits in prop::collection::vec(any::<i8>(), 2..100),
            scale in 0.0..4.0_f32,
            token in any::<prop::sample::Index>(),
        ) {
            let token = token.index(logits.len());
            let floats: Vec<f32> = logits.iter().map(|&q| f32::from(q) * scale).collect();
            let expected = TokenSignals::from_logits(&floats, token).unwrap();
            prop_assert_eq!(TokenSignals::from_int8_logits(&logits, scale, token), Ok(expected));
        }

        #[test]
        fn signals_agree_with_double_precision(
            logits in prop::collection::vec(-50.0..50.0_f32, 2..400),
            token in 0..400_usize,
        ) {
            let token = token % logits.len();
            let largest = logits.iter().map(|&x| f64::from(x)).fold(f64::MIN, f64::max);
            let d = || logits.iter().map(|&x| f64::from(x) - largest);
            let z: f64 = d().map(f64::exp).sum();
            let log_probability = f64::from(logits[token]) - largest - z.ln();
            let entropy = z.ln() - d().map(|d| d * d.exp()).sum::<f64>() / z;
            let mut sorted = logits.clone();
            sorted.sort_by(f32::total_cmp);
            let margin = largest - f64::from(sorted[sorted.len() - 2]);
            assert_close(TokenSignals::from_logits(&logits, token).unwrap(), [log_probability, margin, entropy]);
        }

        #[test]
        fn any_finite_logits_give_valid_signals(
            bits in prop::collection::vec(any::<f32>(), 2..40),
            token in 0..40_usize,
        ) {
            let logits: Vec<f32> = bits.into_iter().map(|x| if x.is_finite() { x } else { 0.0 }).collect();
            let signals = TokenSignals::from_logits(&logits, token % logits.len()).unwrap();
            prop_assert!(signals.is_valid(), "{signals:?}");
        }
    }
}
