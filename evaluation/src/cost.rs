//! What an answer costs, in one unit, and what the device's share of it counts as.
//!
//! A cascade always pays the device, a router that looks at the prompt does not: which of them is better can turn on
//! what the device's work is said to cost. So that is never left unsaid.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::joined::Joined;
use crate::outcome::Row;
use crate::pairing::Pairing;

/// How rows of an outcome table are costed. The default is FLOPs, the device's as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CostModel {
    /// What is counted.
    pub unit: Unit,
    /// What the first model of a chain, the one on the device, counts as.
    pub device: DeviceCost,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Floating-point operations, column `flops`.
    #[default]
    Flops,
    /// Money, column `cost`, in the table's currency.
    Money,
    /// Milliseconds that the caller waits, column `latency_ms`.
    Milliseconds,
    /// Joules drawn from the device's battery, an estimate: computing there, and the radio for each call elsewhere.
    Joules {
        /// Joules per floating-point operation of the device.
        per_flop: f64,
        /// Joules per query sent to another model.
        per_call: f64,
    },
    /// Calls to models other than the device's. Needs no column: the mean cost of two models is how often they defer.
    Calls,
}

/// What the device's own work counts as.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceCost {
    /// As the table has it.
    #[default]
    Recorded,
    /// So much for each query, in the unit. 0 is a choice like any other.
    PerQuery(f64),
}

impl CostModel {
    /// The cost of a row; `on_device` for the first model of a chain.
    ///
    /// # Errors
    /// [`ErrorKind::MissingValue`] naming the column that the unit needs and the row lacks, [`ErrorKind::Invalid`] for
    /// a price that is negative or not finite.
    pub fn of<'a>(&self, row: impl Into<Row<'a>>, on_device: bool) -> Result<f64> {
        let row: Row<'_> = row.into();
        let lacks = |column| row.lacks_and(column, "; a cost in calls needs no column");
        let flops = || row.flops().ok_or_else(|| lacks("flops"));
        let cost = match (self.device, self.unit) {
            (DeviceCost::PerQuery(cost), _) if on_device => cost,
            (_, Unit::Flops) => flops()?,
            (_, Unit::Money) => row.cost().ok_or_else(|| lacks("cost"))?,
            (_, Unit::Milliseconds) => row.latency_ms().ok_or_else(|| lacks("latency_ms"))?,
            (_, Unit::Joules { per_flop, .. }) if on_device => per_flop * flops()?,
            (_, Unit::Joules { per_call, .. }) => per_call,
            (_, Unit::Calls) => f64::from(u8::from(!on_device)),
        };
        if cost.is_finite() && cost >= 0.0 {
            return Ok(cost);
        }
        Err(Error::new(ErrorKind::Invalid, format!("{cost} is not a cost: a finite number of at least 0")))
    }

    /// [`Pairing::join`] with costs in this unit: what the pairing and everything made from it calls FLOPs is this
    /// cost.
    ///
    /// # Errors
    /// As [`Pairing::join`] and [`CostModel::of`].
    pub fn join<'a, R: Into<Row<'a>>>(
        &self,
        rows: impl IntoIterator<Item = R>,
        small: &str,
        large: &str,
    ) -> Result<Pairing> {
        Pairing::of(Joined::of(rows, &[small, large], self)?)
    }
}

/// In words, as a report prints it.
impl fmt::Display for CostModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Flops => f.write_str("floating-point operations per query")?,
            Unit::Money => f.write_str("money per query")?,
            Unit::Milliseconds => f.write_str("milliseconds per query")?,
            Unit::Joules { per_flop, per_call } => write!(
                f,
                "joules of the device per query, estimated at {per_flop:e} J per floating-point operation and {per_call} J per \
                 call"
            )?,
            Unit::Calls => return f.write_str("calls to other models than the device's per query"),
        }
        match self.device {
            DeviceCost::Recorded => f.write_str("; the device's work is counted as recorded"),
            DeviceCost::PerQuery(0.0) => f.write_str("; the device's work is counted as free"),
            DeviceCost::PerQuery(cost) => write!(f, "; the device's work is counted as {cost:e} per query"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    fn rows() -> [Outcome; 2] {
        ["small", "large"].map(|model| Outcome {
            score: Some(0.5),
            flops: Some(if model == "small" { 1e9 } else { 1e12 }),
            cost: (model == "large").then_some(0.002),
            latency_ms: Some(40.0),
            ..Outcome::new("q", model, 1.0)
        })
    }

    #[test]
    fn each_unit_reads_its_column() {
        let cost = |unit, device| {
            let pairing = CostModel { unit, device }.join(&rows(), "small", "large").unwrap();
            (pairing.small_flops()[0], pairing.large_flops()[0])
        };
        assert_eq!(cost(Unit::Flops, DeviceCost::Recorded), (1e9, 1e12));
        assert_eq!(cost(Unit::Money, DeviceCost::PerQuery(0.0)), (0.0, 0.002));
        assert_eq!(cost(Unit::Milliseconds, DeviceCost::Recorded), (40.0, 40.0));
        assert_eq!(cost(Unit::Joules { per_flop: 1e-10, per_call: 2.5 }, DeviceCost::Recorded), (0.1, 2.5));
        assert_eq!(cost(Unit::Calls, DeviceCost::Recorded), (0.0, 1.0));
    }

    #[test]
    fn what_is_not_recorded_is_not_free() {
        let money = CostModel { unit: Unit::Money, device: DeviceCost::Recorded };
        let error = money.join(&rows(), "small", "large").unwrap_err();
        assert_eq!((error.kind(), error.column()), (ErrorKind::MissingValue, Some("cost")));
        for price in [-1.0, f64::NAN, f64::INFINITY] {
            let model = CostModel { unit: Unit::Flops, device: DeviceCost::PerQuery(price) };
            assert_eq!(model.join(&rows(), "small", "large").unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn the_choice_is_printed() {
        let free = CostModel { unit: Unit::Flops, device: DeviceCost::PerQuery(0.0) };
        assert_eq!(free.to_string(), "floating-point operations per query; the device's work is counted as free");
    }
}
