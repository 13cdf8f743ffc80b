//! Two objectives on the same queries: where they differ, and what may be said about it.

use serde::{Deserialize, Serialize};

use super::DEFERRAL_RATES;
use crate::bootstrap::{Bootstrap, Difference};
use crate::error::Result;
use crate::measures;
use crate::pairing::Pairing;

/// Two objectives compared: differences are first less second, with paired-bootstrap intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the first objective.
    pub first: String,
    /// Name of the second objective.
    pub second: String,
    /// Difference in accuracy at each of [`DEFERRAL_RATES`].
    pub at_deferral: Vec<AtRate>,
    /// Difference in the area under the deferral curve.
    pub audc: Option<Difference>,
    /// What the data say, in one sentence. Intervals are read one by one, without a correction for their number.
    pub sentence: String,
}

/// A difference in accuracy at one deferral rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtRate {
    /// Share of queries deferred.
    pub deferral_rate: f64,
    /// First less second.
    pub accuracy: Difference,
}

impl Comparison {
    /// Compares the named cascades on the same queries.
    ///
    /// # Errors
    /// [`ErrorKind::MissingPair`](crate::ErrorKind::MissingPair) if they are not about the same queries, and what
    /// [`Bootstrap::intervals`] refuses.
    pub fn new(first: (&str, &Pairing), second: (&str, &Pairing), bootstrap: &Bootstrap) -> Result<Self> {
        let differences = bootstrap.differences(first.1, second.1, |sample| {
            let curve = sample.curve();
            let areas = [Some(measures::audc(&curve))];
            areas.into_iter().chain(DEFERRAL_RATES.map(|rate| Some(curve.at(rate).quality))).collect()
        })?;
        let audc = differences.first().copied().flatten();
        let rated = DEFERRAL_RATES.into_iter().zip(differences.into_iter().skip(1));
        let at_deferral: Vec<AtRate> =
            rated.filter_map(|(deferral_rate, accuracy)| Some(AtRate { deferral_rate, accuracy: accuracy? })).collect();
        let sentence = sentence(first.0, second.0, &at_deferral, bootstrap.level);
        Ok(Self { first: first.0.to_owned(), second: second.0.to_owned(), at_deferral, audc, sentence })
    }
}

/// Who is better where; a difference counts when its interval does not contain zero.
fn sentence(first: &str, second: &str, at_deferral: &[AtRate], level: f64) -> String {
    let level = format!("{:.0} %", 100.0 * level);
    let rates = |of: &[&AtRate]| list(of.iter().map(|at| format!("{:.0}", 100.0 * at.deferral_rate)).collect());
    let points =
        |of: &[&AtRate]| list(of.iter().map(|at| format!("{:.1}", 100.0 * at.accuracy.estimate.abs())).collect());
    let better = |winner: &str, loser: &str, at: &[&AtRate]| {
        format!("{winner} is better than {loser} at {} % deferral, by {} points of accuracy", rates(at), points(at))
    };
    let (mut for_first, mut for_second, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for at in at_deferral {
        match at.accuracy.interval {
            interval if interval.low > 0.0 => for_first.push(at),
            interval if interval.high < 0.0 => for_second.push(at),
            _ => open.push(at),
        }
    }
    if for_first.is_empty() && for_second.is_empty() {
        return format!(
            "The data do not tell {first} and {second} apart at {} % deferral: every paired {level} interval of the difference contains zero.",
            rates(&open)
        );
    }
    let mut parts = Vec::new();
    if !for_first.is_empty() {
        parts.push(better(first, second, &for_first));
    }
    if !for_second.is_empty() {
        parts.push(better(second, first, &for_second));
    }
    let mut sentence = format!("{} (paired {level} intervals exclude zero)", parts.join(", and "));
    if !open.is_empty() {
        sentence.push_str(&format!("; at {} % the data do not tell them apart", rates(&open)));
    }
    sentence + "."
}

/// `a`, `a and b`, `a, b and c`.
fn list(mut items: Vec<String>) -> String {
    match items.pop() {
        Some(last) if !items.is_empty() => format!("{} and {last}", items.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Interval;

    fn at(deferral_rate: f64, low: f64, high: f64) -> AtRate {
        let interval = Interval { low, high };
        AtRate { deferral_rate, accuracy: Difference { estimate: (low + high) / 2.0, interval } }
    }

    #[test]
    fn the_sentence_claims_no_more_than_the_intervals() {
        let open = [at(0.1, -0.01, 0.02), at(0.3, 0.0, 0.01)];
        assert_eq!(
            sentence("cat-xent", "xent", &open, 0.95),
            "The data do not tell cat-xent and xent apart at 10 and 30 % deferral: every paired 95 % interval of the difference contains zero."
        );
        let won = [at(0.1, 0.01, 0.03), at(0.2, 0.005, 0.007), at(0.3, -0.01, 0.02)];
        assert_eq!(
            sentence("cat-xent", "xent", &won, 0.9),
            "cat-xent is better than xent at 10 and 20 % deferral, by 2.0 and 0.6 points of accuracy (paired 90 % intervals exclude zero); at 30 % the data do not tell them apart."
        );
        let mixed = [at(0.1, 0.01, 0.03), at(0.5, -0.03, -0.01)];
        assert_eq!(
            sentence("a", "b", &mixed, 0.95),
            "a is better than b at 10 % deferral, by 2.0 points of accuracy, and b is better than a at 50 % deferral, by 2.0 points of accuracy (paired 95 % intervals exclude zero)."
        );
    }
}
