//! What a threshold is wanted for, as a person writes it: `deferral<=0.3`, `risk<=0.05@0.95`.

use std::fmt;
use std::str::FromStr;

use crate::certificate::{Certificate, Certified, Guarantee, Method, Risk, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::guarantee::{self, RiskControl};
use crate::pairing::Pairing;
use crate::threshold::{self, Choice};

/// A target, and the level at which it is to hold on queries to come, if at all.
///
/// | written | meaning |
/// | --- | --- |
/// | `deferral<=0.3` | defer at most 30 % of the calibration queries |
/// | `deferral<=0.3@0.95` | the same of queries to come, with probability 0.95 |
/// | `cost<=2e9` | the best quality at this mean cost on the calibration queries |
/// | `quality>=0.9` | the least deferral with this mean quality on the calibration queries |
/// | `risk<=0.05@0.95` | [`Risk::WorseAmongKept`] by Learn-then-Test |
/// | `overall-risk<=0.05@0.95` | [`Risk::WorseOverAll`] by Learn-then-Test |
/// | `overall-risk<=0.05` | the same in expectation, by conformal risk control |
/// | `shortfall<=0.02@0.95` | [`Risk::ShortfallAmongKept`] by Learn-then-Test |
/// | `overall-shortfall<=0.02@0.95` | [`Risk::ShortfallOverAll`]: at most 0.02 below the large model's quality |
/// | `overall-shortfall<=0.02` | the same in expectation, by conformal risk control |
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// What is wanted.
    pub target: Target,
    /// With what probability over the draw of the calibration queries.
    pub level: Option<f64>,
}

impl Goal {
    /// The threshold for this goal, and what can be promised about it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for numbers out of range, and for a goal that no method here can meet: a cost or a
    /// quality at a level (their range is unknown), or a risk among kept without one.
    pub fn choose(&self, calibration: &Pairing) -> Result<Guarantee> {
        match (self.target, self.level) {
            (Target::Risk { risk, at_most }, Some(level)) => RiskControl { risk, at_most, level }.choose(calibration),
            (Target::Risk { risk, at_most }, None) => guarantee::conformal(calibration, risk, at_most),
            (Target::DeferralRate { at_most }, Some(level)) => guarantee::deferral_rate(calibration, at_most, level),
            (Target::DeferralRate { at_most }, None) => {
                let choice = threshold::for_deferral_rate(calibration.scores(), at_most)?;
                // At -inf a router sends more away than that.
                Ok(self.empirical(calibration, Some(choice).filter(|choice| choice.threshold > f64::NEG_INFINITY)))
            }
            (Target::MeanCost { at_most }, None) => {
                Ok(self.empirical(calibration, threshold::for_cost(calibration, at_most)?))
            }
            (Target::MeanQuality { at_least }, None) => {
                Ok(self.empirical(calibration, threshold::for_quality(calibration, at_least)?))
            }
            (Target::MeanCost { .. } | Target::MeanQuality { .. }, Some(_)) => Err(Error::new(
                ErrorKind::Invalid,
                "a mean cost or quality cannot be promised at a level; `overall-shortfall` and `deferral` can",
            )),
        }
    }

    fn empirical(&self, calibration: &Pairing, choice: Option<Choice>) -> Guarantee {
        let have = calibration.len() as u64;
        let Some(Choice { threshold, deferral_rate }) = choice else {
            return Guarantee::CannotGuarantee { needed: None, have };
        };
        let at = calibration.curve().at(deferral_rate);
        let measured = match self.target {
            Target::MeanCost { .. } => at.mean_flops,
            Target::MeanQuality { .. } => at.quality,
            Target::DeferralRate { .. } | Target::Risk { .. } => deferral_rate,
        };
        let certificate = Certificate {
            method: Method::Empirical,
            target: self.target,
            level: None,
            measured,
            sample_size: have,
            joint: 1,
            assumptions: "True of the calibration queries; nothing is promised about others.".to_owned(),
            model_digest: None,
        };
        Guarantee::Certified(Certified { threshold, deferral_rate, certificate })
    }
}

impl FromStr for Goal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not = |what: String| Error::new(ErrorKind::Invalid, format!("`{text}` is not a goal: {what}"));
        let (wanted, level) = text.split_once('@').map_or((text, None), |(wanted, level)| (wanted, Some(level)));
        let number = |digits: &str| {
            let number: Option<f64> = digits.trim().parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| not(format!("`{digits}` is not a number")))
        };
        let level = level.map(number).transpose()?;
        let target = if let Some((name, bound)) = wanted.split_once("<=") {
            let at_most = number(bound)?;
            let risk = |risk| Target::Risk { risk, at_most };
            match name.trim() {
                "deferral" => Target::DeferralRate { at_most },
                "cost" => Target::MeanCost { at_most },
                "risk" => risk(Risk::WorseAmongKept),
                "overall-risk" => risk(Risk::WorseOverAll),
                "shortfall" => risk(Risk::ShortfallAmongKept),
                "overall-shortfall" => risk(Risk::ShortfallOverAll),
                name => {
                    let known = "deferral, cost, risk, overall-risk, shortfall, overall-shortfall";
                    return Err(not(format!("`{name}` is none of {known}")));
                }
            }
        } else if let Some((name, bound)) = wanted.split_once(">=") {
            if name.trim() != "quality" {
                return Err(not(format!("only `quality` has a lower bound, not `{}`", name.trim())));
            }
            Target::MeanQuality { at_least: number(bound)? }
        } else {
            return Err(not("it has neither `<=` nor `>=`".to_owned()));
        };
        Ok(Self { target, level })
    }
}

/// As it is read.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::DeferralRate { at_most } => write!(f, "deferral<={at_most}")?,
            Target::MeanCost { at_most } => write!(f, "cost<={at_most}")?,
            Target::MeanQuality { at_least } => write!(f, "quality>={at_least}")?,
            Target::Risk { risk, at_most } => {
                let name = match risk {
                    Risk::WorseAmongKept => "risk",
                    Risk::WorseOverAll => "overall-risk",
                    Risk::ShortfallAmongKept => "shortfall",
                    Risk::ShortfallOverAll => "overall-shortfall",
                };
                write!(f, "{name}<={at_most}")?;
            }
        }
        self.level.map_or(Ok(()), |level| write!(f, "@{level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::Pair;

    /// 200 queries, the lower half of which the small model answers wrong.
    fn calibration() -> Pairing {
        let pair = |i: u32| Pair {
            query: format!("{i}"),
            score: f64::from(i),
            small_quality: f64::from(u8::from(i >= 100)),
            large_quality: 1.0,
            small_flops: 1.0,
            large_flops: 10.0,
            small_latency_ms: None,
            large_latency_ms: None,
        };
        Pairing::new((0..200).map(pair).collect()).unwrap()
    }

    #[test]
    fn goals_are_written_as_they_are_read_and_met_on_the_data() {
        for (text, threshold) in [
            ("deferral<=0.3", 60.0),
            ("cost<=4", 60.0),
            ("quality>=0.9", 80.0),
            // P(Bin(200, 0.3) <= 48) = 0.036, <= 49: 0.051.
            ("deferral<=0.3@0.95", 48.0),
            // P(Bin(200, 0.1) <= 12) = 0.032, <= 13: 0.057. Twelve wrong ones may stay.
            ("overall-risk<=0.1@0.95", 88.0),
            // (lost + 1) / 201 <= 0.1: 19 may stay.
            ("overall-risk<=0.1", 81.0),
            ("overall-shortfall<=0.1", 81.0),
        ] {
            let goal: Goal = text.parse().unwrap();
            assert_eq!(goal.to_string(), text);
            let guarantee = goal.choose(&calibration()).unwrap();
            assert_eq!(guarantee.certified().map(|certified| certified.threshold), Some(threshold), "{text}");
        }
        for text in ["risk<=0.1@0.9", "shortfall<=0.1@0.9", "overall-shortfall<=0.1@0.9"] {
            let chosen = text.parse::<Goal>().unwrap().choose(&calibration()).unwrap();
            let threshold = chosen.certified().unwrap().threshold;
            assert!((80.0..=110.0).contains(&threshold), "{text}: {threshold}");
        }
        let out_of_reach: Goal = "cost<=0.5".parse().unwrap();
        let found = out_of_reach.choose(&calibration()).unwrap();
        assert_eq!(found, Guarantee::CannotGuarantee { needed: None, have: 200 });
    }

    #[test]
    fn what_a_router_sends_away_counts_as_deferred_and_is_never_kept() {
        // The router sends away every other query, right or wrong.
        let behind = calibration().behind(|query| query.parse::<u32>().is_ok_and(|query| query.is_multiple_of(2)));
        let at = |goal: &str| goal.parse::<Goal>().unwrap().choose(&behind).unwrap();
        let kept = |goal: &str| at(goal).certified().map(|certified| (certified.threshold, certified.deferral_rate));
        // 100 are gone; 20 of those that are left may go too.
        assert_eq!(kept("deferral<=0.6"), Some((41.0, 0.6)));
        // 50 wrong ones are left, of which 9.5 % of 201 less one may stay.
        assert_eq!(kept("overall-risk<=0.1"), Some((63.0, 0.655)));
        assert_eq!(kept("overall-risk<=0.9"), Some((1.0, 0.5)), "all that is left");
        assert_eq!(kept("quality>=0.7"), Some((1.0, 0.5)));
        // Nothing is spent here on what was sent away.
        assert_eq!(kept("cost<=5.5"), Some((1.0, 0.5)));
        for goal in ["deferral<=0.4", "deferral<=0.4@0.9", "cost<=5"] {
            assert_eq!(at(goal), Guarantee::CannotGuarantee { needed: None, have: 200 }, "{goal}");
        }
        let certified = at("deferral<=0.6@0.9").certified().cloned().unwrap();
        assert!(certified.threshold.is_finite() && (0.5..0.6).contains(&certified.deferral_rate), "{certified:?}");
        let among = at("risk<=0.2@0.9").certified().cloned().unwrap();
        assert!(among.threshold > 60.0 && among.deferral_rate > 0.5, "{among:?}");
    }

    #[test]
    fn what_is_no_goal_says_why() {
        for (text, why) in [
            ("risk", "neither"),
            ("rsk<=0.1", "`rsk` is none of"),
            ("cost>=1", "only `quality`"),
            ("risk<=much", "`much` is not a number"),
            ("risk<=0.1@", "`` is not a number"),
            ("risk<=nan", "`nan` is not a number"),
        ] {
            let error = text.parse::<Goal>().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        for text in ["cost<=3@0.9", "quality>=0.9@0.9", "risk<=0.1", "risk<=1.5@0.9", "deferral<=1.5", "quality>=2"] {
            let error = text.parse::<Goal>().unwrap().choose(&calibration()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
