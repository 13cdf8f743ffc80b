//! Learned rules as the runtime runs them: what is fitted here in `f64` becomes a rule of `margay-policy`, and a table is
//! scored by that rule's own arithmetic, so that a threshold chosen here means the same there.

use margay_policy::{Feature, Linear, Rule};

use super::{LearnedRule, LinearRule};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{Outcome, SIGNAL_PREFIX, recorded};

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
pub fn score_recorded(rule: &Rule, row: &Outcome) -> Result<f64> {
    let read = |feature: Feature| row.signals.get(&feature.to_string()).map(|signal| *signal as f32);
    if let Some(score) = rule.score_of(read) {
        return Ok(f64::from(score.value()));
    }
    for feature in rule.features() {
        let name = feature.to_string();
        recorded(row, &format!("{SIGNAL_PREFIX}{name}"), row.signals.get(&name).copied())?;
    }
    let message = format!("query `{}` has signals that give no score", row.query);
    Err(Error::new(ErrorKind::Value, message))
}

#[cfg(test)]
mod tests {
    use margay_policy::{Aggregate, Monitor, Percent, Policy, Threshold, TokenSignals};
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::outcome::Table;

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
        let of = |model: &str| table.rows().iter().filter(|row| row.model == model).collect::<Vec<_>>();
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
                let recorded = score_recorded(&rule, row).unwrap();
                let mut monitor = Monitor::new(&policy, None, u32::MAX);
                stream.iter().for_each(|token| _ = monitor.observe(*token));
                let decision = monitor.decide();
                let said = decision.score.unwrap().value();
                assert_eq!((recorded as f32).to_bits(), said.to_bits(), "{recorded} {said}");
                assert_eq!(decision.verdict.is_keep(), recorded >= 0.25);
                assert!((recorded - learned.score(row).unwrap()).abs() < 1e-3, "what was fitted, but for rounding");
            }
        }
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
