//! Logistic regression on sparse rows: Newton's method, its linear systems solved by conjugate gradients.

use crate::error::{Error, ErrorKind, Result};

/// Newton steps before a fit is given up. From zero, tens suffice.
const MAX_STEPS: usize = 200;
/// A gradient this much smaller than at the start, in the largest component, is none.
const TOLERANCE: f64 = 1e-12;

/// A row: features that are not zero, by index.
pub(super) type Row = Vec<(usize, f64)>;

/// Weights of the features, and the intercept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Linear {
    pub(super) weights: Vec<f64>,
    pub(super) intercept: f64,
}

/// The probability of log-odds.
pub(super) fn sigmoid(log_odds: f64) -> f64 {
    if log_odds >= 0.0 {
        1.0 / (1.0 + (-log_odds).exp())
    } else {
        let odds = log_odds.exp();
        odds / (1.0 + odds)
    }
}

/// Minimises `sum over rows of -(t ln p + (1 - t) ln(1 - p)) + penalty / 2 * |weights|^2`, p the sigmoid of the
/// log-odds, t the targets in [0, 1]. The intercept is not penalised.
///
/// # Errors
/// [`ErrorKind::Invalid`] without rows, for targets that are all 0 or all 1 (no finite intercept is best), and where no
/// finite weights are best, which takes a penalty of 0 and targets of 0 and 1.
pub(super) fn fit(rows: &[Row], targets: &[f64], features: usize, penalty: f64) -> Result<Linear> {
    let mean = targets.iter().sum::<f64>() / targets.len() as f64;
    if !(mean > 0.0 && mean < 1.0) {
        return Err(Error::new(ErrorKind::Invalid, "a fit needs both right and wrong answers"));
    }
    let problem = Problem { rows, targets, features, penalty };
    let mut at = vec![0.0; features + 1];
    at[features] = (mean / (1.0 - mean)).ln();
    let mut log_odds = problem.times(&at);
    let mut gradient = problem.gradient(&at, &log_odds);
    // The scale of a gradient: that of zero weights and a fair coin, which never vanishes with both targets there.
    let scale = largest(&problem.gradient(&vec![0.0; features + 1], &vec![0.0; rows.len()])).max(1.0);
    for _ in 0..MAX_STEPS {
        if largest(&gradient) <= TOLERANCE * scale {
            break;
        }
        let step = problem.newton_step(&log_odds, &gradient);
        let along = problem.times(&step);
        let slope = dot(&step, &gradient);
        let before = problem.loss(&at, &log_odds);
        let mut length = 1.0;
        let moved = loop {
            let next: Vec<f64> = at.iter().zip(&step).map(|(at, step)| at + length * step).collect();
            let next_odds: Vec<f64> = log_odds.iter().zip(&along).map(|(z, along)| z + length * along).collect();
            // Near the minimum the fall is below rounding: a step that does not rise by more is taken.
            let allowed = before + 1e-4 * length * slope + 1e-14 * before.abs();
            if problem.loss(&next, &next_odds) <= allowed {
                break Some((next, next_odds));
            }
            length /= 2.0;
            if length < 1e-10 {
                break None;
            }
        };
        let Some((next, next_odds)) = moved else { break };
        (at, log_odds) = (next, next_odds);
        gradient = problem.gradient(&at, &log_odds);
    }
    // What is left is rounding, unless the loss falls for ever along some direction.
    if largest(&gradient) > 1e-7 * scale || log_odds.iter().any(|z| z.abs() > 1e6) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "no finite weights fit best: the features separate right from wrong",
        ));
    }
    let intercept = at.pop().unwrap_or_default();
    Ok(Linear { weights: at, intercept })
}

/// # Errors
/// [`ErrorKind::Invalid`] for a penalty that is not above 0: without one, answers that the features tell apart exactly
/// would have infinite weights.
pub(super) fn check_penalty(penalty: f64) -> Result<()> {
    if penalty.is_finite() && penalty > 0.0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("{penalty} is not a penalty: a finite number above 0")))
}

struct Problem<'a> {
    rows: &'a [Row],
    targets: &'a [f64],
    features: usize,
    penalty: f64,
}

/// Vectors of parameters have the intercept last.
impl Problem<'_> {
    fn times(&self, vector: &[f64]) -> Vec<f64> {
        let of_row = |row: &Row| vector[self.features] + row.iter().map(|(at, value)| vector[*at] * value).sum::<f64>();
        self.rows.iter().map(of_row).collect()
    }

    /// `sum of rows * of_row + penalty * vector`, the intercept without the penalty.
    fn back(&self, of_row: impl Iterator<Item = f64>, vector: &[f64]) -> Vec<f64> {
        let mut sum: Vec<f64> = vector.iter().map(|value| self.penalty * value).collect();
        sum[self.features] = 0.0;
        for (row, weight) in self.rows.iter().zip(of_row) {
            for (at, value) in row {
                sum[*at] += weight * value;
            }
            sum[self.features] += weight;
        }
        sum
    }

    fn loss(&self, at: &[f64], log_odds: &[f64]) -> f64 {
        let of_row = |(z, target): (&f64, &f64)| z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z;
        let rows: f64 = log_odds.iter().zip(self.targets).map(of_row).sum();
        rows + self.penalty / 2.0 * dot(&at[..self.features], &at[..self.features])
    }

    fn gradient(&self, at: &[f64], log_odds: &[f64]) -> Vec<f64> {
        self.back(log_odds.iter().zip(self.targets).map(|(z, target)| sigmoid(*z) - target), at)
    }

    /// Solves `hessian * step = -gradient` by conjugate gradients preconditioned with the diagonal, as exactly as
    /// the gradient is small, so that convergence is quadratic in the end.
    fn newton_step(&self, log_odds: &[f64], gradient: &[f64]) -> Vec<f64> {
        let curvature: Vec<f64> = log_odds.iter().map(|z| sigmoid(*z) * sigmoid(-*z)).collect();
        let mut diagonal = vec![self.penalty; self.features + 1];
        diagonal[self.features] = 0.0;
        for (row, curvature) in self.rows.iter().zip(&curvature) {
            for (at, value) in row {
                diagonal[*at] += curvature * value * value;
            }
            diagonal[self.features] += curvature;
        }
        let precondition = |residual: &[f64]| -> Vec<f64> {
            residual.iter().zip(&diagonal).map(|(r, d)| if *d > 0.0 { r / d } else { *r }).collect()
        };
        let mut step = vec![0.0; gradient.len()];
        let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut conditioned = precondition(&residual);
        let mut direction = conditioned.clone();
        let mut energy = dot(&residual, &conditioned);
        let enough = energy * largest(gradient).min(1e-3).powi(2);
        for _ in 0..10 * gradient.len().min(1000) {
            let along = self.times(&direction);
            let product = self.back(along.iter().zip(&curvature).map(|(along, c)| along * c), &direction);
            let bend = dot(&direction, &product);
            if bend <= 0.0 || energy <= enough {
                break;
            }
            let length = energy / bend;
            for (step, direction) in step.iter_mut().zip(&direction) {
                *step += length * direction;
            }
            for (residual, product) in residual.iter_mut().zip(&product) {
                *residual -= length * product;
            }
            conditioned = precondition(&residual);
            let next = dot(&residual, &conditioned);
            for (direction, conditioned) in direction.iter_mut().zip(&conditioned) {
                *direction = conditioned + next / energy * *direction;
            }
            energy = next;
        }
        step
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value.abs()).fold(0.0, f64::max)
}
