use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::chain::pareto;
use crate::cost::CostModel;
use crate::outcome::Outcome;

/// Confidences of three models by a known law: betas on [0, 1], a Gumbel copula of 2 between neighbours.
const SHAPES: [(f64, f64); 3] = [(2.0, 1.5), (3.0, 1.2), (6.0, 1.0)];
const COSTS: [f64; 3] = [1.0, 8.0, 60.0];

/// Outcomes drawn from that law: a model of confidence p is right with probability p, and its score is ln p.
fn drawn(queries: usize, seed: u64, last_scores: bool) -> Chain {
    let mut random = StdRng::seed_from_u64(seed);
    let tables = quantiles();
    let mut rows = Vec::new();
    for query in 0..queries {
        let mut uniform: f64 = random.random();
        for (model, table) in tables.iter().enumerate() {
            if model > 0 {
                uniform = given(uniform, random.random(), 2.0);
            }
            let confidence = quantile(table, uniform).clamp(1e-9, 1.0 - 1e-9);
            let right = random.random::<f64>() < confidence;
            let mut row = Outcome::new(query.to_string(), model.to_string(), f64::from(u8::from(right)));
            row.score = (model < 2 || last_scores).then(|| confidence.ln());
            row.flops = Some(COSTS[model]);
            rows.push(row);
        }
    }
    Chain::join(&rows, &["0", "1", "2"], &CostModel::default()).unwrap()
}

/// The second uniform of a Gumbel copula given the first: bisection on the derivative of the copula by the first.
fn given(u: f64, share: f64, theta: f64) -> f64 {
    let conditional = |v: f64| {
        let step = 1e-6 * u.min(1.0 - u).max(1e-3);
        let copula = Gumbel { theta };
        (copula.cdf((u + step).min(1.0), v) - copula.cdf((u - step).max(0.0), v))
            / ((u + step).min(1.0) - (u - step).max(0.0))
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        *(if conditional(middle) < share { &mut low } else { &mut high }) = middle;
    }
    low
}

/// Confidences by their share of queries, tabulated: the inverse of the distribution function.
fn quantiles() -> [Vec<f64>; 3] {
    SHAPES.map(|(a, b)| (0..=2000).map(|at| statrs::function::beta::beta_reg(a, b, f64::from(at) / 2000.0)).collect())
}

fn quantile(table: &[f64], share: f64) -> f64 {
    let above = table.partition_point(|below| *below < share).clamp(1, table.len() - 1);
    let (low, high) = (table[above - 1], table[above]);
    (above as f64 - 1.0 + ((share - low) / (high - low)).clamp(0.0, 1.0)) / (table.len() - 1) as f64
}

#[test]
fn the_law_is_found_again() {
    let chain = drawn(3000, 1, true);
    let tuning = Tuning::of(&chain, Spread::OneSided).unwrap();
    for copula in &tuning.model.copulas {
        assert!((copula.theta - 2.0).abs() < 0.2, "{copula:?}");
    }
    // The calibrated confidences of three thousand queries follow their fitted distribution: Kolmogorov and Smirnov's
    // distance, which is 0.025 in one of twenty draws from a true one.
    let confident = chain.rescored(|model, score| tuning.calibrators[model].probability(score));
    for (model, marginal) in tuning.model.marginals.iter().enumerate() {
        let mut sorted = confident.scores(model).unwrap().to_vec();
        sorted.sort_by(f64::total_cmp);
        let shares = sorted.iter().enumerate().map(|(at, x)| (marginal.cdf(*x) - (at as f64 + 0.5) / 3000.0).abs());
        let distance = shares.fold(0.0, f64::max);
        assert!(distance < 0.03, "{model}: {distance}");
    }
    let Last::Confidence { copula, .. } = &tuning.model.last else { panic!("the last model has scores") };
    assert!((copula.theta - 2.0).abs() < 0.2);
}

/// On eight thousand new queries the thresholds tuned on three hundred lose hardly more than the best of a grid that saw
/// the new queries, at every price; with the last model's confidence and without.
#[test]
fn tuned_thresholds_are_nearly_the_best_there_are() {
    let new = drawn(8_000, 2, false);
    let grid = new.grid(16).unwrap();
    for last_scores in [true, false] {
        let tuning = Tuning::of(&drawn(300, 3, last_scores), Spread::OneSided).unwrap();
        let found = tuning.on(&new).unwrap();
        assert!(found.len() > 20, "{}", found.len());
        for (point, at) in tuning.points.iter().zip(&found) {
            let loss = |quality: f64, cost: f64| 1.0 - quality + point.price * cost;
            let best = grid.iter().map(|at| loss(at.quality, at.cost)).fold(f64::INFINITY, f64::min);
            let excess = loss(at.quality, at.cost) - best;
            assert!(excess < 0.03, "at price {}: {excess} over {best}", point.price);
            assert!((point.expected.quality - at.quality).abs() < 0.05, "{point:?} {at:?}");
            assert!((point.expected.deferral_rate - at.deferral_rate).abs() < 0.08, "{point:?} {at:?}");
        }
        // The frontier is covered from end to end.
        let front = pareto(&found);
        let (cheapest, dearest) = (&front[0], &front[front.len() - 1]);
        assert!(cheapest.cost < 2.0 && dearest.cost > 35.0, "{cheapest:?} {dearest:?}");
    }
}

#[test]
fn no_threshold_nearby_is_better_than_the_tuned_ones() {
    let tuning = Tuning::of(&drawn(400, 4, true), Spread::OneSided).unwrap();
    for point in tuning.points.iter().step_by(7) {
        let loss = |thresholds: &[f64]| {
            let expected = tuning.model.expect(thresholds).unwrap();
            1.0 - expected.quality + point.price * expected.cost
        };
        let best = loss(&point.thresholds);
        for model in 0..2 {
            for step in [-0.2, -0.05, -0.01, -0.001, 0.001, 0.01, 0.05, 0.2] {
                let mut moved = point.thresholds.clone();
                moved[model] += step;
                assert!(loss(&moved) >= best - 1e-9, "{point:?} moved by {step}");
            }
        }
    }
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let model = JointModel::fit(&[vec![0.5, 0.6]], None, &[true], &[1.0, 2.0]);
    assert_eq!(model.unwrap_err().kind(), ErrorKind::Invalid, "lists of different lengths");
    let model = JointModel::fit(&[], None, &[], &[1.0]);
    assert_eq!(model.unwrap_err().kind(), ErrorKind::Invalid, "one model");
    let model = JointModel::fit(&[vec![0.5, 0.6, 0.7]], None, &[true, true, true], &[1.0, 2.0]).unwrap();
    assert!((model.expect(&[0.7]).unwrap().quality - 1.0).abs() < 1e-12, "a last model that is always right");
    assert_eq!(model.expect(&[]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(model.expect(&[f64::NAN]).unwrap_err().kind(), ErrorKind::Invalid);
}
