use proptest::prelude::*;

use super::super::draws::Draws;
use super::*;
use crate::pairing::{Pair, Pairing};
use crate::sample::Sample;

/// Not shares that a curve may hit exactly and stay at, where rounding would choose the crossing.
const GAPS: [f64; 3] = [0.2013, 0.5017, 0.7991];
const RATES: [f64; 5] = [0.0, 0.1, 0.37, 0.9, 1.0];

fn pairing(queries: usize, levels: u32, grades: u32, free: bool) -> Pairing {
    let mut state = u64::from(levels) * 31 + u64::from(grades) + queries as u64;
    let mut next = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below)) as u32
    };
    let pair = |i: usize| {
        let score = f64::from(next(levels));
        let quality = |draw: u32| f64::from(draw) / f64::from(grades);
        let small_quality = quality(next(grades + 1));
        let better = quality(next(grades + 1)).max(quality(next(grades + 1)));
        Pair {
            query: i.to_string(),
            score: score + small_quality * f64::from(levels) / 3.0,
            small_quality,
            large_quality: better,
            small_flops: 1.0 + f64::from(next(5)),
            large_flops: if free && next(3) == 0 { 0.0 } else { 20.0 + f64::from(next(10)) },
            small_latency_ms: None,
            large_latency_ms: None,
        }
    };
    Pairing::new((0..queries).map(pair).collect()).unwrap()
}

/// The same numbers from a curve with all its points.
fn slowly(pairing: &Pairing, weights: &[u32], wanted: &Wanted<'_>) -> Numbers {
    let sample = Sample::weighted(pairing, weights);
    let curve = sample.curve();
    let oracle = pairing.oracle();
    let mut of_oracle = vec![0; weights.len()];
    for (at, from) in oracle.by_query().iter().zip(pairing.by_query()) {
        of_oracle[*at as usize] = weights[*from as usize];
    }
    let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
    let own = (curve.at(0.0).mean_flops, curve.at(1.0).mean_flops);
    let (low, high) = wanted.cost_interval.unwrap_or(own);
    Numbers {
        small_quality: sample.small_quality(),
        large_quality: sample.large_quality(),
        audc: measures::audc(&curve),
        audc_ideal: measures::audc(&Sample::weighted(&oracle, &of_oracle).curve()),
        auroc: sample.auroc(),
        benefit_auroc: sample.benefit_auroc(),
        error_cost_area: measures::error_cost_area(points(), low, high),
        aiq: measures::aiq(points(), low, high),
        cpt: wanted.gaps.iter().map(|gap| measures::cpt(&curve, *gap)).collect(),
        quality_at: wanted.rates.iter().map(|rate| curve.at(*rate).quality).collect(),
    }
}

fn agree(fast: &Numbers, slow: &Numbers) {
    let close = |name: &str, a: Option<f64>, b: Option<f64>| {
        let equal = match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-9,
            (a, b) => a == b,
        };
        assert!(equal, "{name}: {a:?}, slowly {b:?}");
    };
    close("small", Some(fast.small_quality), Some(slow.small_quality));
    close("large", Some(fast.large_quality), Some(slow.large_quality));
    close("audc", Some(fast.audc), Some(slow.audc));
    close("ideal", Some(fast.audc_ideal), Some(slow.audc_ideal));
    close("auroc", fast.auroc, slow.auroc);
    close("benefit", fast.benefit_auroc, slow.benefit_auroc);
    close("error-cost", fast.error_cost_area, slow.error_cost_area);
    close("aiq", fast.aiq, slow.aiq);
    // A gap that is nothing but rounding may count as none.
    let gap = (slow.large_quality - slow.small_quality).abs() > 1e-12;
    for (at, (a, b)) in fast.cpt.iter().zip(&slow.cpt).enumerate().filter(|_| gap) {
        close(&format!("cpt {at}"), *a, *b);
    }
    for (at, (a, b)) in fast.quality_at.iter().zip(&slow.quality_at).enumerate() {
        close(&format!("rate {at}"), Some(*a), Some(*b));
    }
}

fn hold(pairing: &Pairing, seed: u64, cost_interval: Option<(f64, f64)>) {
    let wanted = Wanted { cost_interval, gaps: &GAPS, rates: &RATES };
    let mut draws = Draws::new(pairing.len());
    let lanes = 1 + seed as usize % LANES;
    let counts = draws.draw(seed, 0, lanes);
    let fast = Track::of(pairing).sweep(counts, lanes, &wanted);
    assert_eq!(fast.len(), lanes);
    for (lane, fast) in fast.iter().enumerate() {
        let weights: Vec<u32> = counts.iter().map(|count| u32::from(count[lane])).collect();
        agree(fast, &slowly(pairing, &weights, &wanted));
    }
}

#[test]
fn a_sweep_over_several_segments_is_the_curve() {
    for (levels, grades, free) in [(1 << 20, 1, false), (1 << 20, 7, true), (50, 1, true), (3000, 1000, false)] {
        let pairing = pairing(7000, levels, grades, free);
        hold(&pairing, 1, None);
        hold(&pairing, 2, Some((8.0, 20.0)));
        hold(&pairing, 3, Some((5.0, 500.0)));
    }
}

proptest! {
    #[test]
    fn a_sweep_is_the_curve(
        queries in 1_usize..200, levels in 1_u32..60, grades in 1_u32..4, free: bool, seed: u64,
        interval in prop::option::of((0.0_f64..12.0, 0.0_f64..40.0)),
    ) {
        hold(&pairing(queries, levels, grades, free), seed, interval);
    }
}
