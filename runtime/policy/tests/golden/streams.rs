//! Twelve thousand answers made of nothing but an index, and what the policy says about each.
//!
//! Shared by the test on the host, the example that writes `verdicts.bin`, and the program for the microcontroller.
//! `core` only; all numbers are made with exact or correctly rounded operations.

use margay_policy::{
    Decision, EarlyBound, Feature, Linear, Mlp, MlpUnit, Monitor, Percent, PiecewiseLinear, Policy, Progress, Reason,
    Rule, Threshold, TokenSignals, Verdict,
};

/// Number of streams.
pub(crate) const STREAMS: u32 = 12_000;

/// From this one on they have 100 000 tokens: one scored by a sum, one by a quantile.
const LONG: u32 = LEARNED - 2;

/// From this one on rules are learned, logits have 8 bits, and there may be a calibrated bound for early deferral.
const LEARNED: u32 = 10_000;

/// Bytes kept of each stream: score bits (4, little-endian; all ones for none), verdict (1), digest (3).
///
/// The digest covers the bits of every token's signals and where the monitor stopped.
pub(crate) const RECORD: usize = 8;

/// What the policy says about stream `index`.
pub(crate) fn record(index: u32) -> [u8; RECORD] {
    let mut stream = Stream::new(index);
    let mut digest = Fnv::new();
    let mut monitor = Monitor::new(&stream.policy(), None, stream.max_tokens());
    while let Some(signals) = stream.next_token() {
        let TokenSignals { log_probability, margin, entropy } = signals;
        for signal in [log_probability, margin, entropy] {
            digest.add(canonical(signal).to_bits());
        }
        if monitor.observe(signals) == Progress::Stop {
            digest.add(monitor.answer().count());
            break;
        }
    }
    let Decision { verdict, score, threshold } = monitor.decide();
    digest.add(threshold.value().to_bits());
    let [s0, s1, s2, s3] = score.map_or(u32::MAX, |score| score.value().to_bits()).to_le_bytes();
    let [d0, d1, d2, _] = digest.0.to_le_bytes();
    [s0, s1, s2, s3, code(verdict), d0, d1, d2]
}

/// The verdict as a byte.
pub(crate) fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Keep => 0,
        Verdict::Defer(Reason::LowConfidence) => 1,
        Verdict::Defer(Reason::EarlyLowConfidence) => 2,
        Verdict::Defer(Reason::NoTokens) => 3,
        Verdict::Defer(Reason::Unscorable) => 4,
        _ => 255,
    }
}

/// The bits of a NaN are the one thing that IEEE 754 leaves open; they only occur in what a stream feeds in.
fn canonical(signal: f32) -> f32 {
    if signal.is_nan() { f32::NAN } else { signal }
}

struct Stream {
    random: Xorshift,
    kind: Kind,
    index: u32,
    length: u32,
    position: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Signals drawn one by one.
    Drawn,
    /// The same, one of them not a distribution's.
    Spoilt,
    /// Signals of drawn logits: goes through `exp` and `ln`.
    Logits,
    /// The same of logits in 8 bits.
    SmallLogits,
}

impl Stream {
    fn new(index: u32) -> Self {
        let mut random = Xorshift::new(index);
        let (kind, length) = match index % 16 {
            2 if index >= LEARNED => (Kind::Spoilt, 1 + random.below(40)),
            0..6 if index >= LEARNED => (Kind::Drawn, random.below(80)),
            _ if index >= LEARNED => (Kind::SmallLogits, 1 + random.below(12)),
            _ if index >= LONG => (Kind::Drawn, 100_000),
            0 if index.is_multiple_of(64) => (Kind::Drawn, 0),
            0 | 1 => (Kind::Drawn, 1),
            2 => (Kind::Spoilt, 1 + random.below(40)),
            3 => (Kind::Drawn, 60 + random.below(10)), // around the end of exact quantiles
            4 if index % 64 == 4 => (Kind::Drawn, 200 + random.below(800)),
            4..9 => (Kind::Drawn, 2 + random.below(62)),
            _ => (Kind::Logits, 1 + random.below(12)),
        };
        Self { random, kind, index, length, position: 0 }
    }

    /// Every rule in turn, with a threshold in the midst of its scores, or at either end.
    fn policy(&mut self) -> Policy<1> {
        if self.index >= LEARNED {
            return self.learned_policy();
        }
        let level = Percent::new(self.random.below(101) as u8);
        let turn = if self.index >= LONG { 4 * (self.index - LONG) } else { self.index / 16 % 7 };
        let scale = if self.kind == Kind::Logits { 2.0 } else { 1.0 };
        let (rule, middle) = match turn {
            0 => (Rule::ChowAverage, -1.0),
            1 => (Rule::ChowSum, -8.0),
            2 => (Rule::FirstToken, -0.5),
            3 => (Rule::Minimum, -4.0),
            4 => (level.map_or(Rule::Minimum, Rule::Quantile), -1.0),
            5 => (Rule::MeanEntropy, -1.0),
            _ => (Rule::MeanMargin, 1.0),
        };
        let threshold = match self.random.below(20) {
            0 => Threshold::KEEP_ALL,
            1 => Threshold::DEFER_ALL,
            _ => Threshold::new(middle * scale * 2.0 * self.random.unit()).unwrap_or(Threshold::DEFER_ALL),
        };
        Policy::new(rule, threshold)
    }

    /// A learned rule with drawn weights, of each kind in turn, and a threshold where its scores may be.
    fn learned_policy(&mut self) -> Policy<1> {
        let (small, large) = (self.linear(), self.linear());
        let rule = match (self.index / 16 % 4, small, large) {
            (0, Some(linear), _) => Rule::Linear(linear),
            (1, Some(linear), _) => self.map().map_or(Rule::ChowSum, |map| Rule::Calibrated { linear, map }),
            (2, Some(small), Some(large)) => Rule::Benefit { small, large },
            _ => self.network().map_or(Rule::ChowSum, Rule::Mlp),
        };
        let scale = if matches!(rule, Rule::Linear(_) | Rule::Mlp(_)) { 4.0 } else { 1.0 };
        let threshold = |unit: f32| Threshold::new(scale * (2.0 * unit - 1.0)).unwrap_or(Threshold::DEFER_ALL);
        let policy = Policy::new(rule, threshold(self.random.unit()));
        if self.random.below(4) > 0 {
            return policy;
        }
        let early = EarlyBound { after_tokens: self.random.below(8), threshold: threshold(self.random.unit() - 0.5) };
        policy.with_early_bound(early)
    }

    fn features(&mut self) -> [Feature; 4] {
        let level = Percent::new(self.random.below(101) as u8).map_or(Feature::Minimum, Feature::Quantile);
        let last = [Feature::MeanEntropy, Feature::MeanMargin, Feature::FirstToken][self.random.below(3) as usize];
        [Feature::ChowAverage, level, Feature::ChowSum, last]
    }

    /// Mostly such that worse answers score lower, as fitted rules do.
    fn weight(&mut self) -> f32 {
        2.0 * self.random.unit() - 0.25
    }

    fn linear(&mut self) -> Option<Linear> {
        let weights = self.features().map(|feature| (feature, self.weight()));
        Linear::new(4.0 * self.random.unit(), &weights[..1 + self.random.below(4) as usize]).ok()
    }

    fn map(&mut self) -> Option<PiecewiseLinear> {
        let mut knots = [(-6.0_f32, -1.0_f32); 6];
        for at in 1..knots.len() {
            let (score, value) = knots[at - 1];
            knots[at] = (score + 0.25 + 4.0 * self.random.unit(), value + 0.5 * self.random.unit());
        }
        PiecewiseLinear::new(&knots).ok()
    }

    fn network(&mut self) -> Option<Mlp> {
        let features = self.features();
        let mut weights = [[0.0_f32; 4]; 5];
        weights.iter_mut().flatten().for_each(|weight| *weight = self.weight());
        let mut unit = |weights| {
            let (intercept, output) = (6.0 * self.random.unit() - 1.0, self.weight());
            MlpUnit { intercept, weights, output }
        };
        let units = [unit(&weights[0]), unit(&weights[1]), unit(&weights[2]), unit(&weights[3]), unit(&weights[4])];
        Mlp::new(&features, units, -2.0 * self.random.unit()).ok()
    }

    /// Tight, so that early deferral has its chance, or without any bound.
    fn max_tokens(&mut self) -> u32 {
        match self.random.below(3) {
            _ if (LONG..LEARNED).contains(&self.index) => u32::MAX,
            0 => self.length,
            1 => self.length + self.random.below(20),
            _ => u32::MAX,
        }
    }

    fn next_token(&mut self) -> Option<TokenSignals> {
        if self.position == self.length {
            return None;
        }
        self.position += 1;
        match self.kind {
            Kind::Logits => return Some(self.of_logits()),
            Kind::SmallLogits => return Some(self.of_small_logits()),
            Kind::Drawn | Kind::Spoilt => {}
        }
        let mut signals = self.drawn();
        if self.kind == Kind::Spoilt && self.position == self.length / 2 + 1 {
            match self.random.below(6) {
                0 => signals.log_probability = f32::NAN,
                1 => signals.log_probability = f32::NEG_INFINITY,
                2 => signals.log_probability = 0.125,
                3 => signals.margin = f32::INFINITY,
                4 => signals.entropy = f32::NAN,
                _ => signals.entropy = -1.0,
            }
        }
        Some(signals)
    }

    /// Most tokens are nearly certain, some are not, a few are extreme.
    fn drawn(&mut self) -> TokenSignals {
        let u = self.random.unit();
        let log_probability = match self.random.below(64) {
            0 => 0.0,
            1 => -80.0 * u,
            2 => -f32::MIN_POSITIVE * u, // below the normal numbers
            _ => -8.0 * u * u * u,
        };
        TokenSignals { log_probability, margin: 6.0 * self.random.unit(), entropy: 3.0 * self.random.unit() }
    }

    fn of_logits(&mut self) -> TokenSignals {
        let mut logits = [0.0_f32; 40];
        let vocabulary = 2 + self.random.below(39) as usize;
        let logits = &mut logits[..vocabulary];
        let spread = [0.5, 4.0, 20.0, 200.0][self.random.below(4) as usize];
        for logit in logits.iter_mut() {
            *logit = spread * (2.0 * self.random.unit() - 1.0);
        }
        let token = self.token(logits);
        if self.random.below(200) == 0 {
            logits[token] = f32::NAN;
        }
        TokenSignals::from_logits(logits, token).unwrap_or(UNSCORABLE)
    }

    /// The likeliest token, or now and then another, as a sampler would.
    fn token<T: PartialOrd>(&mut self, logits: &[T]) -> usize {
        if self.random.below(8) == 0 {
            return self.random.below(logits.len() as u32) as usize;
        }
        let mut token = 0;
        for id in 1..logits.len() {
            if logits[id] > logits[token] {
                token = id;
            }
        }
        token
    }

    fn of_small_logits(&mut self) -> TokenSignals {
        let mut logits = [0_i8; 40];
        let vocabulary = 2 + self.random.below(39) as usize;
        let logits = &mut logits[..vocabulary];
        for logit in logits.iter_mut() {
            *logit = self.random.next() as i8;
        }
        let token = self.token(logits);
        let spread = [0.0, 1.0, 0.125, 0.01][self.random.below(4) as usize];
        let scale = if self.random.below(200) == 0 { f32::NAN } else { spread * self.random.unit() };
        TokenSignals::from_int8_logits(logits, scale, token).unwrap_or(UNSCORABLE)
    }
}

/// What a caller makes of malformed logits: the answer becomes unscorable.
const UNSCORABLE: TokenSignals = TokenSignals { log_probability: f32::NAN, margin: f32::NAN, entropy: f32::NAN };

/// Marsaglia's xorshift32 (2003), seeded through a multiplicative hash so that neighbours differ.
struct Xorshift(u32);

impl Xorshift {
    fn new(index: u32) -> Self {
        let mut random = Self((index + 1).wrapping_mul(0x9e37_79b9) | 1);
        (0..4).for_each(|_| _ = random.next());
        random
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(end)) >> 32) as u32
    }

    /// A multiple of 2^-24 in `0..1`: exact.
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / 16_777_216.0
    }
}

/// FNV-1a over 32-bit words, byte by byte.
struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn add(&mut self, word: u32) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
}
