//! The decision while the answer is still being written.

use crate::aggregate::Aggregate;
use crate::policy::{EarlyBound, Policy, decide};
use crate::rule::Rule;
use crate::signals::TokenSignals;
use crate::threshold::Threshold;
use crate::verdict::{Decision, Reason, Verdict};

/// Watches one answer token by token and decides about it in the end.
///
/// It is sound: it says [`Progress::Stop`] only if no completion within `max_tokens` would be kept, because
/// the answer is unscorable already or because [`Rule::ceiling`] (the proof is there) is below the threshold.
/// With early deferral an answer gets the same verdict as without, keep or not; only the tokens that nobody
/// would have read are saved. An [`EarlyBound`] of the policy gives up some of that for more tokens saved: how much is for
/// its calibration to say.
#[derive(Debug, Clone)]
pub struct Monitor {
    rule: Rule,
    threshold: Threshold,
    early: Option<EarlyBound>,
    max_tokens: u32,
    answer: Aggregate,
    stopped: bool,
}

/// Whether generating more of the answer can still be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The answer may still be kept.
    Continue,
    /// The answer will not be kept whatever comes: defer at once.
    Stop,
}

impl Monitor {
    /// A monitor of an answer of at most `max_tokens` tokens to a query of `task`.
    ///
    /// A `max_tokens` that is too large costs early deferrals, one that is too small costs the guarantee.
    /// Tokens that the score covers but nobody sees, like the one that ends the answer, are counted too.
    #[must_use]
    pub fn new<const TASKS: usize>(policy: &Policy<TASKS>, task: Option<&str>, max_tokens: u32) -> Self {
        let threshold = policy.threshold_for(task);
        let (rule, early) = (policy.rule(), policy.early_bound());
        Self { rule, threshold, early, max_tokens, answer: Aggregate::new(), stopped: false }
    }

    /// Adds the next token. Once it said [`Progress::Stop`] it says so for good.
    pub fn observe(&mut self, signals: TokenSignals) -> Progress {
        self.answer.observe(signals);
        let more_to_come = self.answer.count() < self.max_tokens;
        if more_to_come && !self.stopped {
            let ceiling = self.rule.ceiling(&self.answer, self.max_tokens);
            self.stopped = !ceiling.is_some_and(|score| self.threshold.keeps(score)) || self.is_hopeless();
        }
        if self.stopped { Progress::Stop } else { Progress::Continue }
    }

    /// The decision about the tokens seen, taken as the whole answer.
    #[must_use]
    pub fn decide(&self) -> Decision {
        let mut decision = decide(self.rule, self.threshold, &self.answer);
        // Where a calibrated bound stopped it, the words so far may even be above the threshold: they are no answer.
        if self.stopped && matches!(decision.verdict, Verdict::Keep | Verdict::Defer(Reason::LowConfidence)) {
            decision.verdict = Verdict::Defer(Reason::EarlyLowConfidence);
        }
        decision
    }

    /// Whether the calibrated bound says that this answer will be deferred.
    fn is_hopeless(&self) -> bool {
        self.early.is_some_and(|early| {
            self.answer.count() >= early.after_tokens
                && self.rule.score(&self.answer).is_none_or(|score| !early.threshold.keeps(score))
        })
    }

    /// What the tokens seen say together.
    #[must_use]
    pub fn answer(&self) -> &Aggregate {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::feature::Feature;
    use crate::learned::{Linear, Mlp, MlpUnit, PiecewiseLinear};
    use crate::rule::Percent;

    fn token(log_probability: f32) -> TokenSignals {
        TokenSignals { log_probability, margin: 1.0, entropy: -log_probability }
    }

    /// After how many of these log-probabilities the monitor stops, if ever.
    fn stops_after(rule: Rule, threshold: f32, max_tokens: u32, stream: &[f32]) -> Option<usize> {
        let policy: Policy = Policy::new(rule, Threshold::new(threshold).unwrap());
        let mut monitor = Monitor::new(&policy, None, max_tokens);
        stream.iter().position(|&x| monitor.observe(token(x)) == Progress::Stop).map(|index| index + 1)
    }

    #[test]
    fn it_stops_as_soon_as_all_is_lost() {
        let stream = [-0.5, -1.0, -2.0, -0.25, -4.0, -0.125];
        // The sum falls below -3 at the third token.
        assert_eq!(stops_after(Rule::ChowSum, -3.0, 100, &stream), Some(3));
        assert_eq!(stops_after(Rule::Minimum, -3.0, 100, &stream), Some(5));
        assert_eq!(stops_after(Rule::FirstToken, -0.25, 100, &stream), Some(1));
        // At most 10 tokens: the mean is below -0.5 for sure once the sum is below -5, at the fifth. At most
        // 100: never.
        assert_eq!(stops_after(Rule::ChowAverage, -0.5, 10, &stream), Some(5));
        assert_eq!(stops_after(Rule::ChowAverage, -0.5, 100, &stream), None);
        assert_eq!(stops_after(Rule::MeanEntropy, -0.5, 10, &stream), Some(5));
        // The quartile of at most 12 tokens is the third smallest; three are below -0.75 after the fifth.
        assert_eq!(stops_after(Rule::Quantile(Percent::new(25).unwrap()), -0.75, 12, &stream), Some(5));
        assert_eq!(stops_after(Rule::MeanMargin, 5.0, 100, &stream), None, "margins have no bound");
        assert_eq!(stops_after(Rule::MeanMargin, f32::INFINITY, 100, &stream), Some(1), "but they are finite");
        assert_eq!(stops_after(Rule::ChowSum, f32::NEG_INFINITY, 100, &stream), None);
        assert_eq!(stops_after(Rule::ChowSum, f32::NEG_INFINITY, 100, &[-1.0, f32::NAN]), Some(2), "unscorable");
    }

    #[test]
    fn the_last_token_is_no_early_deferral() {
        let policy: Policy = Policy::new(Rule::Minimum, Threshold::new(-1.0).unwrap());
        let decide = |max_tokens| {
            let mut monitor = Monitor::new(&policy, None, max_tokens);
            let _ = monitor.observe(token(-2.0));
            monitor.decide().verdict
        };
        assert_eq!(decide(1), Verdict::Defer(Reason::LowConfidence));
        assert_eq!(decide(2), Verdict::Defer(Reason::EarlyLowConfidence));
    }

    #[test]
    fn a_calibrated_bound_stops_what_could_still_be_kept() {
        let early = EarlyBound { after_tokens: 2, threshold: Threshold::new(-2.0).unwrap() };
        let policy: Policy = Policy::new(Rule::ChowAverage, Threshold::new(-1.0).unwrap());
        let stops = |policy: &Policy, stream: &[f32]| {
            let mut monitor = Monitor::new(policy, None, 100);
            let stopped = stream.iter().position(|&x| monitor.observe(token(x)) == Progress::Stop);
            (stopped, monitor.decide().verdict)
        };
        assert_eq!(stops(&policy, &[-4.0, -4.0]).0, None, "98 certain tokens would save it");
        let policy = policy.with_early_bound(early);
        let deferred = Verdict::Defer(Reason::EarlyLowConfidence);
        assert_eq!(stops(&policy, &[-4.0, -4.0]), (Some(1), deferred), "not before the second token");
        assert_eq!(stops(&policy, &[-4.0, 0.0, 0.0, 0.0]), (None, Verdict::Keep), "at the bound");
        assert_eq!(stops(&policy, &[-4.5, 0.0, 0.0, 0.0, 0.0]).0, Some(1));
    }

    fn rules() -> impl Strategy<Value = Rule> {
        prop_oneof![
            Just(Rule::ChowAverage),
            Just(Rule::ChowSum),
            Just(Rule::FirstToken),
            Just(Rule::Minimum),
            (0..=100_u8).prop_map(|level| Rule::Quantile(Percent::new(level).unwrap())),
            Just(Rule::MeanEntropy),
            Just(Rule::MeanMargin),
            linear().prop_map(Rule::Linear),
            (linear(), map()).prop_map(|(linear, map)| Rule::Calibrated { linear, map }),
            (linear(), linear(), any::<bool>()).prop_map(|(one, other, bent)| {
                if bent { Rule::Mlp(network(one, other)) } else { Rule::Benefit { small: one, large: other } }
            }),
        ]
    }

    /// Weights of both signs on a few features, all positive as often as not, so that there are early deferrals.
    fn linear() -> impl Strategy<Value = Linear> {
        let feature = prop_oneof![
            Just(Feature::ChowAverage),
            Just(Feature::ChowSum),
            Just(Feature::FirstToken),
            (0..=100_u8).prop_map(|level| Feature::Quantile(Percent::new(level).unwrap())),
            Just(Feature::MeanEntropy),
            Just(Feature::MeanMargin),
        ];
        let weight = prop_oneof![Just(1.0_f32), -3.0..3.0_f32, 0.0..1e30_f32];
        let weights = prop::collection::vec((feature, weight), 1..5);
        (weights, any::<bool>(), -5.0..5.0_f32).prop_map(|(mut weights, positive, intercept)| {
            if positive {
                weights.iter_mut().for_each(|(_, weight)| *weight = weight.abs());
            }
            let distinct = (1..weights.len()).find(|end| weights[..*end].iter().any(|(f, _)| *f == weights[*end].0));
            weights.truncate(distinct.unwrap_or(weights.len()));
            Linear::new(intercept, &weights).unwrap()
        })
    }

    /// Two hidden units that read what the first rule reads, one with its weights and one with the second's first one.
    fn network(first: Linear, second: Linear) -> Mlp {
        let (features, weights): (Vec<Feature>, Vec<f32>) = first.weights().unzip();
        let slope = second.weights().next().map_or(1.0, |(_, weight)| weight);
        let other = std::vec![slope; weights.len()];
        let units = [(first.intercept(), &weights, 1.5), (second.intercept(), &other, slope)];
        let units = units.map(|(intercept, weights, output)| MlpUnit { intercept, weights, output });
        Mlp::new(&features, units, 0.5).unwrap()
    }

    fn map() -> impl Strategy<Value = PiecewiseLinear> {
        prop::collection::vec((0.1..4.0_f32, 0.0..0.5_f32), 1..6).prop_map(|mut steps| {
            let mut knot = (-8.0, 0.0);
            for (score, value) in &mut steps {
                knot = (knot.0 + *score, knot.1 + *value);
                (*score, *value) = knot;
            }
            PiecewiseLinear::new(&steps).unwrap()
        })
    }

    fn signals() -> impl Strategy<Value = TokenSignals> {
        // Mostly ordinary; zeros and huge values for the rounding; now and then not a distribution's.
        let power = || (-60..60).prop_map(|e| 2.0_f32.powi(e));
        let size = || prop_oneof![8 => 0.0..4.0_f32, 3 => Just(0.0), 1 => 0.0..f32::MAX, 1 => power()];
        let log_probability = prop_oneof![400 => size().prop_map(|x| -x), 1 => Just(f32::NAN), 1 => Just(1.0)];
        (log_probability, size(), size()).prop_map(|(log_probability, margin, entropy)| TokenSignals {
            log_probability,
            margin,
            entropy,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The theorem: the monitor never changes whether an answer is kept. Thresholds lie at, just above
        /// and just below scores that occur, where a rounding error would show.
        #[test]
        fn early_deferral_is_sound(
            rule in rules(),
            stream in prop::collection::vec(signals(), 1..150),
            spare_tokens in prop_oneof![Just(0), 0..40_u32, Just(u32::MAX - 150)],
            pick in any::<prop::sample::Index>(),
            nudge in 0..3_usize,
        ) {
            let mut answer = Aggregate::new();
            let mut scores = Vec::new();
            for &token in &stream {
                answer.observe(token);
                scores.extend(rule.score(&answer));
            }
            let near = if scores.is_empty() { 0.0 } else { scores[pick.index(scores.len())].value() };
            let near = [near, near.next_up(), near.next_down()][nudge];
            let policy: Policy = Policy::new(rule, Threshold::new(near).unwrap());
            let whole = policy.decide(&answer, None);

            let mut monitor = Monitor::new(&policy, None, stream.len() as u32 + spare_tokens);
            let mut stopped = false;
            for &token in &stream {
                stopped |= monitor.observe(token) == Progress::Stop;
                if stopped {
                    prop_assert!(!whole.verdict.is_keep(), "stopped, yet the whole answer is kept: {whole:?}");
                    prop_assert!(!monitor.decide().verdict.is_keep());
                    break;
                }
            }
            if !stopped {
                prop_assert_eq!(monitor.decide(), whole);
            }
        }

        /// No score of any prefix's completion exceeds the prefix's ceiling, and ceilings only sink.
        #[test]
        fn ceilings_only_sink(
            rule in rules(),
            stream in prop::collection::vec(signals(), 1..150),
            spare_tokens in 0..40_u32,
        ) {
            let max_tokens = stream.len() as u32 + spare_tokens;
            let mut answer = Aggregate::new();
            let mut lowest = f32::INFINITY;
            for &token in &stream {
                answer.observe(token);
                let (Some(score), Some(ceiling)) = (rule.score(&answer), rule.ceiling(&answer, max_tokens)) else {
                    prop_assert!(!answer.is_valid());
                    continue;
                };
                prop_assert!(score <= ceiling);
                // A margin, and a weight whose feature can get worse, have no bound until the last token.
                let bounded = rule.features().all(|feature| feature != Feature::MeanMargin);
                if bounded || answer.count() < max_tokens {
                    prop_assert!(ceiling.value() <= lowest, "{ceiling} after {lowest}");
                    lowest = ceiling.value();
                }
            }
        }
    }
}
