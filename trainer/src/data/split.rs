//! Which split a row belongs to: decided by a hash of its words alone, so that adding rows or changing
//! their order never moves a row from one split to another.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Example;

/// Rows to train on, and rows held back to calibrate on.
#[derive(Debug, Clone)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<Example>,
    /// Rows held back: thresholds are chosen on them, never weights.
    pub calibration: Vec<Example>,
}

/// Holds back about `share` of the rows (a number from 0 to 1), in their order.
///
/// The hash is SHA-256 of the input in lower case with single spaces: rows that differ only there stay together.
#[must_use]
pub fn split_by_hash(rows: Vec<Example>, share: f64) -> Split {
    let (calibration, train) = rows.into_iter().partition(|row| position(&row.input) < share);
    Split { train, calibration }
}

/// Where a text falls in `[0, 1)`.
pub(super) fn position(text: &str) -> f64 {
    f64::from(words(text)[0]) / (f64::from(u32::MAX) + 1.0)
}

/// A number for folds, which has nothing to do with [`position`].
pub(super) fn fold_number(text: &str) -> u32 {
    words(text)[1]
}

fn words(text: &str) -> [u32; 2] {
    let mut hash = Sha256::new();
    for word in text.split_whitespace() {
        hash.update(word.to_lowercase());
        hash.update(" ");
    }
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = hash.finalize().into();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

/// One of several parts that the rows fall into by a stable hash of their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// Which part, from 0.
    pub fold: u32,
    /// How many parts there are.
    pub of: u32,
}

impl Fold {
    pub(super) fn has(self, number: u32) -> bool {
        number % self.of.max(1) == self.fold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Example> {
        (0..2000)
            .map(|n| Example {
                id: n.to_string(),
                task: "t".into(),
                input: format!("say {n}"),
                target: "x".into(),
                ..Example::default()
            })
            .collect()
    }

    #[test]
    fn the_share_is_held_back_and_nothing_is_lost() {
        let split = split_by_hash(rows(), 0.1);
        assert_eq!(split.train.len() + split.calibration.len(), 2000);
        assert!((150..250).contains(&split.calibration.len()), "{}", split.calibration.len());
    }

    #[test]
    fn a_row_keeps_its_side_whatever_stands_around_it() {
        let whole = split_by_hash(rows(), 0.1).calibration;
        let half = split_by_hash(rows().into_iter().rev().step_by(2).collect(), 0.1).calibration;
        assert!(half.iter().all(|row| whole.contains(row)));
        assert_eq!(position("Say  HELLO"), position("say hello"));
    }
}
