//! Learned rules as the runtime runs them: what is fitted here in `f64` becomes a rule of `margay-policy`, and a table is
//! scored by that rule's own arithmetic, so that a threshold chosen here means the same there.

use margay_policy::{Feature, LearnedError, Linear, PiecewiseLinear, Rule};

use super::{Calibrator, LearnedRule, LinearRule};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Row;

impl LearnedRule {
    /// The rule for a bundle's policy, its numbers rounded to 32 bits. Choose its threshold on scores that
    /// [`score_recorded`] gave.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a signal that the runtime does not compute, or more of them than a policy holds.
    pub fn to_policy(&self) -> Result<Rule> {
        Ok(match self {
            Self::PostHoc { small } => Rule::Linear(small.to_policy()?),
            Self::Benefit { small, large } => Rule::Benefit { small: small.to_policy()?, large: large.to_policy()? },
        })
    }
}

impl Calibrator {
    /// The rule for a bundle's policy that calibrates log-odds which the runtime computes, this calibrator having been fitted
    /// on scores that [`score_recorded`] gave for [`Rule::Linear`] of them (temperature: on their sigmoid).
    ///
    /// A line in the log-odds (Platt, temperature) gives log-odds again, whose sigmoid is the probability; a map (isotonic,
    /// histogram) gives the probability. Numbers are rounded to 32 bits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for more knots than a policy holds ([`Calibrator::isotonic_within`] makes fewer; a bin less
    /// takes two off a histogram's), a histogram that falls, and spread log-probabilities, which the runtime does not
    /// compute.
    pub fn to_policy(&self, log_odds: &Linear) -> Result<Rule> {
        let invalid = |fault: LearnedError| Error::new(ErrorKind::Invalid, fault.to_string());
        let line = |slope: f64, intercept: f64| {
            let weights: Vec<(Feature, f32)> =
                log_odds.weights().map(|(feature, weight)| (feature, (slope * f64::from(weight)) as f32)).collect();
            let shifted = slope * f64::from(log_odds.intercept()) + intercept;
            Linear::new(shifted as f32, &weights).map(Rule::Linear).map_err(invalid)
        };
        let map = |knots: &[(f32, f32)]| {
            let map = PiecewiseLinear::new(knots).map_err(invalid)?;
            Ok(Rule::Calibrated { linear: *log_odds, map })
        };
        match self {
            Self::Platt { slope, intercept } => line(*slope, *intercept),
            Self::Temperature { temperature } => line(1.0 / temperature, 0.0),
            Self::Isotonic { scores, probabilities } => {
                let mut knots: Vec<(f32, f32)> = Vec::with_capacity(scores.len());
                for (score, probability) in scores.iter().zip(probabilities) {
                    let score = *score as f32;
                    // Two knots may be one in 32 bits.
                    knots.pop_if(|(last, _)| *last == score);
                    knots.push((score, *probability as f32));
                }
                map(&knots)
            }
            Self::Histogram { edges, probabilities } => {
                let step = |(edge, two): (&f64, &[f64])| {
                    // The last 32-bit score of the bin below, and the first of the bin above.
                    let near = *edge as f32;
                    let edge = if f64::from(near) > *edge { near.next_down() } else { near };
                    [(edge, two[0] as f32), (edge.next_up(), two[1] as f32)]
                };
                let knots: Vec<_> = edges.iter().zip(probabilities.windows(2)).flat_map(step).collect();
                match probabilities[..] {
                    [only] => map(&[(0.0, only as f32)]),
                    _ => map(&knots),
                }
            }
            Self::LogProbability { .. } => {
                Err(Error::new(ErrorKind::Invalid, "the runtime does not compute spread log-probabilities"))
            }
        }
    }
}

impl LinearRule {
    fn to_policy(&self) -> Result<Linear> {
        let weights = self.signals.iter().zip(&self.weights).map(|(signal, weight)| {
            let feature = signal.parse::<Feature>().map_err(|_| {
                let message = format!("signal `{signal}` is none that the runtime computes");
                Error::new(ErrorKind::Invalid, message)
            })?;
            Ok((feature, *weight as f32))
        });
        Linear::new(self.intercept as f32, &weights.collect::<Result<Vec<_>>>()?)
            .map_err(|fault| Error::new(ErrorKind::Invalid, fault.to_string()))
    }
}

/// The score that the runtime would give an answer with these recorded signals, bit for bit if they were recorded as the
/// runtime computed them.
///
/// # Errors
/// [`ErrorKind::MissingValue`] with the column of a signal that the row lacks, [`ErrorKind::Value`] for signals that
/// have no score.
pub fn score_recorded<'a>(rule: &Rule, row: impl Into<Row<'a>>) -> Result<f64> {
    let row = row.into();
    let read = |feature: Feature| row.signal(&feature.to_string()).map(|signal| signal as f32);
    if let Some(score) = rule.score_of(read) {
        return Ok(f64::from(score.value()));
    }
    for feature in rule.features() {
        row.needed_signal(&feature.to_string())?;
    }
    let message = format!("query `{}` has signals that give no score", row.query());
    Err(Error::new(ErrorKind::Value, message))
}

#[cfg(test)]
mod tests {
    use margay_policy::{Aggregate, Monitor, Percent, Policy, Threshold, TokenSignals};
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::outcome::{Outcome, Table};

    fn stream(random: &mut StdRng) -> Vec<TokenSignals> {
        let sure: f32 = random.random_range(0.05..3.0);
        let token = |random: &mut StdRng| TokenSignals {
            log_probability: -sure * random.random::<f32>().powi(3),
            margin: 5.0 * random.random::<f32>() / sure,
            entropy: sure * random.random::<f32>(),
        };
        (0..random.random_range(1..100)).map(|_| token(random)).collect()
    }

    fn features() -> Vec<Feature> {
        let deciles = (0..=10).map(|tenth| Feature::Quantile(Percent::new(10 * tenth).unwrap()));
        deciles.chain([Feature::ChowAverage, Feature::MeanMargin, Feature::MeanEntropy]).collect()
    }

    #[test]
    fn a_table_and_the_monitor_give_the_same_bits() {
        let mut random = StdRng::seed_from_u64(3);
        let streams: Vec<Vec<TokenSignals>> = (0..400).map(|_| stream(&mut random)).collect();
        let mut table = Table::default();
        for (query, stream) in streams.iter().enumerate() {
            let mut answer = Aggregate::new();
            stream.iter().for_each(|token| answer.observe(*token));
            let right = random.random::<f32>() < answer.mean_log_probability().unwrap().exp();
            for (model, right) in [("small", right), ("large", random.random::<f32>() < 0.9)] {
                let mut row = Outcome::new(format!("{query:03}"), model, f64::from(u8::from(right)));
                for feature in features() {
                    row.signals.insert(feature.to_string(), f64::from(feature.of(&answer).unwrap()));
                }
                table.push(row).unwrap();
            }
        }
        // Through a file and back, as tables go.
        let mut csv = Vec::new();
        table.to_csv(&mut csv).unwrap();
        let table = Table::from_csv(&csv[..]).unwrap();
        let of = |model: &str| table.rows().filter(|row| row.model() == model).collect::<Vec<_>>();
        let (small, large) = (of("small"), of("large"));
        let names: Vec<String> = features().iter().map(Feature::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for learned in [
            LearnedRule::post_hoc(&small, &names, 1.0).unwrap(),
            LearnedRule::benefit(&small, &large, &names, 1.0).unwrap(),
        ] {
            let rule = learned.to_policy().unwrap();
            let policy: Policy = Policy::new(rule, Threshold::new(0.25).unwrap());
            for (row, stream) in small.iter().zip(&streams) {
                let recorded = score_recorded(&rule, *row).unwrap();
                let mut monitor = Monitor::new(&policy, None, u32::MAX);
                stream.iter().for_each(|token| _ = monitor.observe(*token));
                let decision = monitor.decide();
                let said = decision.score.unwrap().value();
                assert_eq!((recorded as f32).to_bits(), said.to_bits(), "{recorded} {said}");
                assert_eq!(decision.verdict.is_keep(), recorded >= 0.25);
                assert!((recorded - learned.score(*row).unwrap()).abs() < 1e-3, "what was fitted, but for rounding");
            }
        }
    }

    /// Answers whose log-odds are on a grid, and whether they are right.
    fn answers() -> (Vec<f64>, Vec<bool>) {
        let mut random = StdRng::seed_from_u64(9);
        let odds = |_| (f64::from(random.random_range(-40_i32..40)) / 10.0, random.random::<f64>());
        let drawn: Vec<(f64, f64)> = (0..2000).map(odds).collect();
        drawn.into_iter().map(|(odds, coin)| (odds, coin < sigmoid(0.5 * odds - 0.2))).unzip()
    }

    fn sigmoid(odds: f64) -> f64 {
        1.0 / (1.0 + (-odds).exp())
    }

    #[test]
    fn calibrators_run_in_the_policy_as_they_were_fitted() {
        let (odds, right) = answers();
        let linear = Linear::new(0.0, &[(Feature::ChowAverage, 1.0)]).unwrap();
        let probabilities: Vec<f64> = odds.iter().map(|odds| sigmoid(*odds)).collect();
        let isotonic = Calibrator::isotonic_within(&odds, &right, margay_policy::MAX_KNOTS).unwrap();
        let Calibrator::Isotonic { scores, .. } = &isotonic else { panic!("{isotonic:?}") };
        assert!((3..=margay_policy::MAX_KNOTS).contains(&scores.len()));
        assert!(
            Calibrator::isotonic(&odds, &right).unwrap().to_policy(&linear).is_err(),
            "more knots than there is room for"
        );
        let cases = [
            (Calibrator::platt(&odds, &right).unwrap(), true, false),
            (Calibrator::temperature(&probabilities, &right).unwrap(), true, true),
            (isotonic, false, false),
            (Calibrator::histogram(&odds, &right, 5).unwrap(), false, false),
        ];
        for (calibrator, gives_odds, takes_probability) in cases {
            let rule = calibrator.to_policy(&linear).unwrap();
            for tenth in -60..60_i32 {
                let at = f64::from(tenth) as f32 / 10.0;
                let ours = rule.score_of(|_| Some(at)).unwrap().value();
                let ours = if gives_odds { sigmoid(f64::from(ours)) } else { f64::from(ours) };
                let score = if takes_probability { sigmoid(f64::from(at)) } else { f64::from(at) };
                let fitted = calibrator.probability(score);
                assert!((ours - fitted).abs() < 1e-5, "{calibrator:?} at {at}: {ours}, fitted {fitted}");
            }
        }
        let falls = Calibrator::Histogram { edges: vec![0.0], probabilities: vec![0.7, 0.3] };
        assert!(falls.to_policy(&linear).unwrap_err().to_string().contains("do not fall"));
        let level = Calibrator::Histogram { edges: vec![], probabilities: vec![0.7] };
        assert_eq!(level.to_policy(&linear).unwrap().score_of(|_| Some(3.0)).unwrap().value(), 0.7);
    }

    #[test]
    fn what_the_runtime_cannot_run_is_refused() {
        let linear = |signals: Vec<String>| LearnedRule::PostHoc {
            small: LinearRule { weights: vec![1.0; signals.len()], signals, intercept: 0.0 },
        };
        let unknown = linear(vec!["verbosity".into()]).to_policy().unwrap_err();
        assert!(unknown.to_string().contains("`verbosity`"), "{unknown}");
        let many = linear((0..17).map(|level| format!("quantile-{level}")).collect()).to_policy().unwrap_err();
        assert!(many.to_string().contains("more than 16"), "{many}");
        let rule = linear(vec!["minimum".into()]).to_policy().unwrap();
        let missing = score_recorded(&rule, &Outcome::new("q", "small", 1.0)).unwrap_err();
        assert_eq!((missing.kind(), missing.column()), (ErrorKind::MissingValue, Some("signal.minimum")));
    }
}
